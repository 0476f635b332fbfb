//! `virtkeep restore`: a restore point's disks into images, and its configuration beside them.
//!
//! ```text
//! open the set -> find the point -> may the domain be defined? -> resolve every chain
//!   -> check every target and every file of the configuration, claim them, look for room
//!   -> write each disk to NAME.partial, proven -> rename -> configuration -> define
//! ```
//!
//! What can be refused is refused before the first byte; nothing bears its final name before all of it
//! is proven and durable.

mod claim;
pub(super) mod config;
mod define;
mod device;
mod foreign;
mod image;
mod leftover;
mod older_raw;
mod output;
mod phrases;
mod room;
pub(super) mod sequence;
pub(super) mod source;
mod there;
mod tpm;
mod write;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;

use self::image::Target;
use self::output::Output;
use self::source::Source;
use super::{Session, connect};
use crate::cli::read::Restore;
use crate::error::{self, Error};
use crate::exit::Exit;
use crate::host::Host;
use crate::libvirt::domain_xml::NewSource;
use crate::phrases::{CLASSIC, OWN};
use crate::ui::progress::format_duration;
use crate::units::format_bytes;

/// Restores.
pub fn run(args: &Restore, session: &Session) -> Result<Exit> {
    let begin = Instant::now();
    let host = place(args)?;
    let output = Output::of(args, &host)?;
    if host.is_local() {
        refuse_set(args)?;
    }
    let source = Source::open(args)?;
    let args = &with_prefix(args, &source)?;
    tracing::info!("restoring {}", source.describe());
    define::check(args, &source)?;
    let older = older_raw::find(&source);
    let left_out = older_raw::tell(args, &source, &older);
    let chains = source.chains(args, session, &older)?;
    let targets = image::plan(args, &host, &output, &source, &chains)?;
    let restored: BTreeMap<String, NewSource> =
        chains.iter().zip(&targets).map(|(chain, target)| (chain.target().to_owned(), target.source())).collect();
    let config = plan_config(args, &host, &output, &source, &restored)?;
    let claims = image::prepare(args, &host, &targets, &chains)?;
    room::check(args, &host, &targets, &chains)?;

    for (number, (chain, target)) in chains.iter().zip(&targets).enumerate() {
        phrases::writing(args, chain, target);
        if let Err(error) = write::write(args, session, &host, chain, target) {
            leftover::clear(&host, &targets[..number], target, &chains[number + 1..], &error);
            return Err(error.disk(chain.target()).into());
        }
        phrases::written(args, chain);
    }
    publish(&host, &targets)?;
    drop(claims);
    let whole = match &config {
        Err(_) => Exit::Damage,
        Ok(_) if left_out => Exit::Look,
        Ok(_) => Exit::Done,
    };
    match config {
        Ok(config) => {
            config.write(args, &host)?;
            if let (true, Some(xml)) = (args.define, config.adjusted()) {
                define::define(args, &source, xml)?;
            }
        }
        Err(error) => {
            tracing::error!("the disks are restored, the configuration beside them is not: {}", error::report(&error));
        }
    }
    let bytes = chains.iter().map(|chain| chain.size()).sum();
    if whole == Exit::Done {
        tracing::info!(target: CLASSIC, "Finished successfully");
    }
    tracing::info!(
        target: OWN,
        "{}: restored {} ({}) in {}",
        if whole == Exit::Damage { "Finished" } else { "Finished successfully" },
        chains.iter().zip(&targets).map(|(chain, target)| made(&host, chain.target(), target)).collect::<Vec<_>>().join(", "),
        format_bytes(bytes),
        format_duration(begin.elapsed())
    );
    Ok(whole)
}

/// A disk, and the whole path of what it was restored to.
fn made(host: &Host, disk: &str, target: &Target) -> String {
    let path = target.path();
    let whole = host.is_local().then(|| std::path::absolute(path).ok()).flatten();
    format!("{disk} to {}", whole.as_deref().unwrap_or(path).display())
}

/// The options, with the name that the drop-in command gives to a domain where none is asked for.
fn with_prefix(args: &Restore, source: &Source) -> error::Result<Restore> {
    let mut args = args.clone();
    if args.classic.prefix_name {
        args.name = source.domain()?.map(|(_, config)| format!("restore_{}", config.name));
    }
    Ok(args)
}

/// Where it is written.
fn place(args: &Restore) -> error::Result<Host> {
    if args.to_host {
        return connect::other_host(&args.hypervisor);
    }
    if args.define && connect::is_remote(&args.hypervisor) {
        return Err(Error::usage("the domain would be defined on another host than the one with its images")
            .hint("--to-host restores there; or leave -D away, and define the domain with the written vmconfig.xml"));
    }
    Ok(Host::Local)
}

/// Images among backups would be taken for part of the set.
fn refuse_set(args: &Restore) -> error::Result<()> {
    let place = |path: &std::path::Path| path.canonicalize().ok();
    let output = args.output.as_deref().and_then(place);
    match args.input.iter().find_map(|input| place(input)) {
        Some(set) if output.as_ref() == Some(&set) => {
            Err(Error::usage("is the set itself").path(set).hint("-o takes another directory for the images"))
        }
        _ => Ok(()),
    }
}

/// What will lie beside the images. Damage of what is only copied must not keep the disks from being
/// restored: it is the inner error, for later.
fn plan_config(
    args: &Restore,
    host: &Host,
    output: &Output,
    source: &Source,
    restored: &BTreeMap<String, NewSource>,
) -> error::Result<error::Result<config::Plan>> {
    let Some(directory) = output.directory() else { return Ok(Ok(config::Plan::default())) };
    match config::Plan::new(args, host, source, directory, restored) {
        Ok(plan) => plan.check(host, args.force).map(|()| Ok(plan)),
        Err(error) if config::is_adjusted(args) => Err(error),
        Err(error) => Ok(Err(error)),
    }
}

/// Gives the images their names, once all of them are proven.
fn publish(host: &Host, targets: &[Target]) -> Result<(), Error> {
    targets.iter().try_for_each(|target| target.publish(host))
}
