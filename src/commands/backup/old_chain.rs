//! The chain that a new full replaces. libvirt refuses a checkpoint name that exists: before the job
//! only the one name goes that the run needs, everything else after the commit.

use anyhow::Result;

use super::plan::{DESCRIPTION, Plan};
use crate::error::{self, Error, Kind};
use crate::libvirt::checkpoint::{self, Checkpoint};
use crate::libvirt::domain::Domain;
use crate::set::Level;
use crate::set::layout::{Layout, checkpoint_position, write_atomically};
use crate::set::manifest::Manifest;

/// In a set's private folder: another chain replaced this one.
const ENDED: &str = "ended";

/// Frees the one name that a new chain needs before its job can begin.
pub fn free_name(domain: &Domain, plan: &Plan) -> Result<()> {
    let Some(old) = plan.old_chain.iter().find(|old| old.name == plan.checkpoint) else { return Ok(()) };
    let whose = old.description.as_deref().unwrap_or("made by another tool or an older set");
    tracing::info!("this full backup ends the chain of checkpoint {} ({whose})", old.name);
    if plan.old_chain.len() == 1 {
        tracing::info!("should it fail, the next run of that chain will be a full, too");
    }
    checkpoint::discard(domain, old)?;
    Ok(())
}

/// A new chain ends the old one, now that it is committed.
///
/// # Errors
/// The first of those that kept a checkpoint; the others are gone.
pub fn remove(domain: &Domain, plan: &Plan) -> Result<()> {
    for old in &plan.old_chain {
        mark_ended(old, plan);
    }
    remove_all(domain, plan.old_chain.iter().filter(|old| old.name != plan.checkpoint))
}

/// What [`remove`] could not do in the run itself: everything goes that is not of the chain which the
/// full of `manifest` began. Once that is replaced itself, nothing is done.
///
/// # Errors
/// As for [`remove`].
pub fn remove_of(domain: &Domain, manifest: &Manifest) -> Result<()> {
    if manifest.level != Level::Full {
        return Ok(());
    }
    let run = manifest.run.to_string();
    let known = checkpoint::list(domain)?;
    let is_first = |checkpoint: &&Checkpoint| checkpoint.description.as_ref().is_some_and(|text| text.contains(&run));
    if known.iter().find(is_first).is_none() {
        return Ok(());
    }
    let old =
        known.iter().filter(|checkpoint| !is_first(checkpoint) && checkpoint_position(&checkpoint.name).is_some());
    remove_all(domain, old)
}

fn remove_all<'c>(domain: &Domain, checkpoints: impl Iterator<Item = &'c Checkpoint>) -> Result<()> {
    let mut result = Ok(());
    for checkpoint in checkpoints {
        match checkpoint::discard(domain, checkpoint) {
            Ok(_) => tracing::debug!("removed checkpoint {} of the old chain", checkpoint.name),
            Err(error) => {
                tracing::warn!("checkpoint {} of the old chain stays: {}", checkpoint.name, error::report(&error));
                result = result.and(Err(error.into()));
            }
        }
    }
    result
}

/// Tells the set of the old chain that it ended, where it can be reached: should the host lose its
/// list of checkpoints, the bitmaps of the new chain bear the same names as those of the old one.
fn mark_ended(old: &Checkpoint, plan: &Plan) {
    let described = old.description.as_deref().and_then(|text| text.strip_prefix(DESCRIPTION)?.split_once(" in "));
    let Some((run, directory)) = described else { return };
    let layout = Layout::new(directory);
    let is_it = layout.file(&format!("manifest.{run}.json")).is_ok_and(|manifest| manifest.exists());
    if is_it {
        let text = plan.description();
        if let Err(error) = write_atomically(&layout.private().join(ENDED), text.as_bytes()) {
            tracing::debug!("the old set could not be told that its chain ended: {}", error::report(&error));
        }
    }
}

/// A chain that begins in an emptied set has nothing to do with the one that ended there.
///
/// # Errors
/// Where the mark can't be removed: the next increment would be refused.
pub fn unmark(layout: &Layout) -> Result<()> {
    let path = layout.private().join(ENDED);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", error).path(path).into()),
        _ => Ok(()),
    }
}

/// Which run ended the chain in a set, if one did.
pub fn ended_by(layout: &Layout) -> Option<String> {
    let text = std::fs::read_to_string(layout.private().join(ENDED)).ok()?;
    Some(text.chars().filter(|c| !c.is_control()).take(300).collect())
}

/// Refuses to continue a chain that ended.
///
/// # Errors
/// [`Kind::Busy`], saying which run ended it.
pub fn refuse_ended(layout: &Layout) -> Result<()> {
    let Some(by) = ended_by(layout) else { return Ok(()) };
    Err(Error::new(Kind::Busy, format!("another chain took over ({by}): this one ended here"))
        .path(layout.directory())
        .hint("continue that one, or start a new chain with -l full in an empty directory; every point here can still be restored")
        .into())
}
