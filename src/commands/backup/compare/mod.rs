//! Another look at the disks of a domain: a restore point against what they hold now. It is a run like that of a copy
//! (the same locks, job, watch and record for the case that it dies), but for what it does with the data, and it
//! leaves nothing.

mod disk;

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use clap::Parser;
use uuid::Uuid;

use self::disk::Held;
use super::facts::Facts;
use super::guest::Hold;
use super::locks::Locks;
use super::plan::{Export, Plan, domain_uuid};
use super::undo::{self, Keep};
use super::way::Way;
use super::{Context, base, disks, job, offline};
use crate::cancel::Cancel;
use crate::chain_device::ChainDevice;
use crate::cli::backup::{Backup, Network};
use crate::cli::{Cli, Command, Hypervisor};
use crate::commands::Session;
use crate::commands::link::Link;
use crate::commands::restore::source::open_chain;
use crate::error::{self, Error, Kind};
use crate::fault;
use crate::libvirt::domain::Domain;
use crate::libvirt::domain_xml::DomainConfig;
use crate::lock::Patience;
use crate::set::Level;
use crate::set::catalogue::{Catalogue, Run};
use crate::set::intent::Intent;
use crate::set::layout::Layout;

/// What is compared, and how the domain is reached.
#[derive(Debug)]
pub struct Subject<'s> {
    /// The set.
    pub catalogue: &'s Catalogue,
    /// The restore point.
    pub point: &'s Run,
    /// Only these disks; all if empty.
    pub disks: &'s [String],
    /// The domain's name or UUID.
    pub domain: String,
    /// How the hypervisor is reached.
    pub hypervisor: &'s Hypervisor,
    /// How the data comes from another host.
    pub network: &'s Network,
    /// Directory on the domain's host for the job's scratch files, where not the usual one.
    pub scratchdir: Option<&'s Path>,
}

/// Why a range differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The dirty bitmap says that it was written to since the restore point.
    Changed,
    /// It was not written to since, as far as the dirty bitmap knows.
    Unexplained,
    /// Nothing says what was written to since.
    Unknown,
}

/// What was found of a disk.
#[derive(Debug)]
pub struct Compared {
    /// Target name.
    pub target: String,
    /// Size at the restore point, and now.
    pub sizes: (u64, u64),
    /// The checkpoint since which changes are known; or why they are not.
    pub since: Result<String, String>,
    /// Bytes read of the domain's disk.
    pub read: u64,
    /// Bytes of each kind.
    pub changed: u64,
    /// See [`Why::Unexplained`].
    pub unexplained: u64,
    /// See [`Why::Unknown`].
    pub unknown: u64,
    /// The first ranges that differ, ascending.
    pub ranges: Vec<(Range<u64>, Why)>,
    /// Ranges that are not listed.
    pub omitted: u64,
}

/// What was found.
#[derive(Debug)]
pub struct Comparison {
    /// The domain's name.
    pub domain: String,
    /// By disk.
    pub disks: Vec<Compared>,
    /// Disks of the restore point that could not be compared.
    pub missing: Vec<String>,
}

/// Compares.
///
/// # Errors
/// As for a backup at the level copy; of the restore point where it is damaged.
pub fn run(subject: &Subject<'_>, session: &Session) -> Result<Comparison> {
    let layout = layout(subject.catalogue)?;
    let link = Link::open(subject.hypervisor, &subject.domain)?;
    let reached = link.reach()?;
    refuse_other(subject, &reached.domain)?;
    let (args, missing) = arguments(subject, &reached.domain)?;
    // First: streams without an index are read as a whole for that.
    let open = |target: &String| open_chain(subject.catalogue, subject.point, target, session);
    let chains = args.include.iter().map(open).collect::<error::Result<Vec<_>>>()?;
    let patience = Patience::new(args.wait, &session.cancel);
    let mut locks = Locks::take(&reached.domain, layout, &patience)?;
    let mut hold = Hold::new(&args, &link, domain_uuid(&reached.domain)?);
    let keep = Keep { partial: false, started: false };
    locks.clear_dead(&reached.domain, layout, keep);
    undo::clear_leftovers(&reached.domain, layout, keep)?;
    locks.forget_dead();
    job::wait_until_idle(&link, &patience)?;
    let mut missing = missing;
    let (plan, since) = plan(subject, &args, layout, &reached)?;
    missing.extend(args.include.iter().filter(|target| plan.disks.iter().all(|disk| disk.target != **target)).cloned());
    drop(reached);
    let (catalogue, domain) = (subject.catalogue, link.domain());
    let facts = Facts::default();
    let run = Context { args: &args, session, link: &link, layout, catalogue, zip: None, facts: &facts };
    locks.begin(plan.run)?;
    let result = perform(&run, plan, &mut hold, &chains, &since);
    hold.end();
    if result.is_err() {
        locks.keep_note_of(layout);
    }
    Ok(Comparison { domain, disks: result?, missing })
}

/// The part that leaves traces while it lasts: all of them are in the intent.
fn perform(
    run: &Context<'_>,
    mut plan: Plan,
    hold: &mut Hold<'_>,
    chains: &[ChainDevice],
    since: &[Result<String, String>],
) -> Result<Vec<Compared>> {
    plan.intent.held = hold.held();
    plan.intent.write(run.layout)?;
    let compare = |plan: &Plan, exports: &[Export], cancel: &Cancel| {
        let mut disks = Vec::new();
        for ((disk, export), since) in plan.disks.iter().zip(exports).zip(since) {
            let Some(chain) = chains.iter().find(|chain| chain.target() == disk.target) else { continue };
            // What libvirt refused is not known after all.
            let since = match (&disk.base, since) {
                (None, Ok(_)) => Err("libvirt refuses its bitmap".to_owned()),
                (_, since) => since.clone(),
            };
            let held = Held { chain, since };
            disks.push(disk::compare(run, plan, held, export, cancel).map_err(|error| error.disk(&disk.target))?);
        }
        Ok(disks)
    };
    let result = fault::point("intent-written").map_err(Into::into).and_then(|()| match plan.way {
        Way::Job => job::run(run, &mut plan, hold, &compare),
        Way::Images => offline::run(run, &mut plan, &compare),
    });
    plan.intent.held = hold.held();
    match result {
        Ok(done) => {
            undo::remove_job_files(run.link.host(), &plan.intent);
            Intent::remove(run.layout, plan.run)?;
            Ok(done.value)
        }
        Err(error) => {
            tracing::debug!("the comparison failed: {}", error::report(error.as_ref()));
            undo::failed_run(run, &plan.intent);
            Err(error)
        }
    }
}

/// The record of the run lies in the set, where the next backup looks for it.
fn layout(catalogue: &Catalogue) -> error::Result<&Layout> {
    catalogue.files.layout().ok_or_else(|| {
        Error::unsupported("zip files can't be compared with a domain: the run's record has no place in them")
            .path(catalogue.files.place())
            .hint("unpack them into a directory; or `virtkeep map -e 'qemu-img compare …'` on a copy of the disk")
    })
}

/// The domain that the restore point is of, where that is known.
pub fn owner(catalogue: &Catalogue, point: &Run) -> Option<(Uuid, String)> {
    disks::owner(catalogue, point)
}

fn refuse_other(subject: &Subject<'_>, domain: &Domain) -> Result<()> {
    let uuid = domain_uuid(domain)?;
    match owner(subject.catalogue, subject.point) {
        Some((owner, name)) if owner != uuid => Err(Error::usage(format!("is of another domain: {name} ({owner})"))
            .path(subject.catalogue.files.place())
            .hint("-d names the domain whose backup it is; without -d it is found by its UUID")
            .into()),
        _ => Ok(()),
    }
}

/// A copy of the disks of the restore point that the domain has, and those that it has not.
fn arguments(subject: &Subject<'_>, domain: &Domain) -> Result<(Backup, Vec<String>)> {
    // One disk after another is compared.
    let words = ["virtkeep", "backup", "--domain=-", "--output=-", "--level=copy", "--no-freeze", "--worker=1"];
    let Command::Backup(mut args) =
        Cli::try_parse_from(words).map_err(|error| Error::usage(error.to_string()))?.command
    else {
        return Err(Error::usage("not a backup").into());
    };
    args.domain = vec![subject.domain.clone()];
    args.hypervisor = subject.hypervisor.clone();
    args.network = subject.network.clone();
    if let Some(directory) = subject.scratchdir {
        args.places.scratchdir = directory.to_owned();
    }
    let config = DomainConfig::parse(&domain.xml(false)?)?;
    let has = |target: &str| config.disks.iter().any(|disk| disk.target == target);
    let is_wanted = |target: &str| subject.disks.is_empty() || subject.disks.iter().any(|disk| disk == target);
    let streams = subject.point.streams.iter().filter(|stream| is_wanted(&stream.target));
    let (there, gone): (Vec<_>, Vec<_>) = streams.partition(|stream| has(&stream.target));
    args.raw = there.iter().any(|stream| stream.raw);
    args.include = there.into_iter().map(|stream| stream.target.clone()).collect();
    let missing: Vec<String> = gone.into_iter().map(|stream| stream.target.clone()).collect();
    if args.include.is_empty() {
        let message = format!("domain {} has none of the restore point's disks", domain.name());
        return Err(Error::new(Kind::NotFound, message).hint("`virtkeep dump` lists them").into());
    }
    Ok((*args, missing))
}

/// A plan that reads the disks, each with the bitmap of what was written to since, where there is one.
fn plan(
    subject: &Subject<'_>,
    args: &Backup,
    layout: &Layout,
    reached: &crate::commands::link::Reached,
) -> Result<(Plan, Vec<Result<String, String>>)> {
    // The level copy is for directories without a chain.
    let empty = Catalogue {
        files: layout.clone().into(),
        runs: Vec::new(),
        problems: Vec::new(),
        partial: Vec::new(),
        is_of_stdout: false,
    };
    let mut plan = Plan::make(args, &reached.connection, &reached.domain, &empty)?;
    // Nothing is written.
    plan.intent.files.clear();
    let mut since = Vec::new();
    for disk in &mut plan.disks {
        let known = base::known_since(subject.catalogue, &reached.domain, subject.point, disk)?;
        since.push(known.map(|base| {
            let checkpoint = base.checkpoint.clone();
            disk.level = Level::Diff;
            disk.base = Some(base);
            checkpoint
        }));
    }
    Ok((plan, since))
}
