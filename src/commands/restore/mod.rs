//! `virtkeep restore`: a restore point's disks into images, and its configuration beside them.
//!
//! ```text
//! open the set -> find the point -> resolve every chain -> check every target
//!   -> write each disk to NAME.partial, proven -> rename -> configuration -> define
//! ```
//!
//! Nothing bears its final name before all of it is proven and durable.

mod config;
mod image;
mod source;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;

use self::image::Target;
use self::source::Source;
use super::Session;
use crate::cli::read::Restore;
use crate::error::Error;
use crate::exit::Exit;
use crate::libvirt::domain_xml::NewSource;
use crate::ui::progress::format_duration;
use crate::units::format_bytes;

/// Restores.
pub fn run(args: &Restore, session: &Session) -> Result<Exit> {
    let begin = Instant::now();
    let source = Source::open(args)?;
    tracing::info!("restoring {}", source.describe());
    let chains = source.chains(args, session)?;
    let targets = image::plan(args, &source, &chains)?;
    config::refuse_existing(args, &source)?;
    image::prepare(args, &targets)?;

    let mut restored = BTreeMap::new();
    for (chain, target) in chains.iter().zip(&targets) {
        let path = image::restore(args, session, chain, target).map_err(|error| error.disk(chain.target()))?;
        restored.insert(chain.target().to_owned(), NewSource { path, format: target.format().to_owned() });
    }
    publish(&targets)?;
    config::restore(args, &source, &restored)?;
    let bytes = chains.iter().map(|chain| chain.size()).sum();
    tracing::info!(
        "Finished successfully: {} restored ({}) in {}",
        chains.iter().map(|chain| chain.target()).collect::<Vec<_>>().join(", "),
        format_bytes(bytes),
        format_duration(begin.elapsed())
    );
    Ok(Exit::Done)
}

/// Gives the images their names, once all of them are proven.
fn publish(targets: &[Target]) -> Result<(), Error> {
    targets.iter().try_for_each(Target::publish)
}
