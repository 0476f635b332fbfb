//! Checkpoints that a run makes superfluous: those of the chain that a new full replaces, and what its own
//! chain does not need any more. libvirt refuses a checkpoint name that exists: before the job
//! only the one name goes that the run needs, everything else after the commit.

use anyhow::Result;
use uuid::Uuid;

use super::marker;
use super::plan::{DESCRIPTION, Plan};
use crate::error::{self, Error, Kind};
use crate::libvirt::bitmap;
use crate::libvirt::checkpoint::{self, Checkpoint};
use crate::libvirt::domain::Domain;
use crate::libvirt::{code, code_of};
use crate::set::layout::{self, Layout, checkpoint_position};
use crate::set::manifest::Manifest;
use crate::set::{Level, dropped, records};

/// In a set's private folder: another chain replaced this one.
const ENDED: &str = "ended";

/// Says which chains end with the run or after it, and frees the one name that a new chain needs before its job can
/// begin.
pub fn free_name(domain: &Domain, plan: &Plan) -> Result<()> {
    tell(plan);
    let Some(old) = plan.old_chain.iter().find(|old| old.name == plan.checkpoint) else { return Ok(()) };
    if plan.old_chain.len() == 1 {
        tracing::info!("should it fail, the next run of that chain will be a full, too");
    }
    checkpoint::discard(domain, old)?;
    Ok(())
}

/// A chain that ends is never ended without a word. It is no warning: a new directory each month is a plan.
fn tell(plan: &Plan) {
    for old in newest_of_each(&plan.old_chain) {
        match plan.level {
            Level::Full => {
                tracing::info!("this full backup ends the chain of checkpoint {} ({})", old.name, whose(old))
            }
            // Where the backup goes to standard output.
            _ => tracing::info!(
                "this run ends the chain of checkpoint {} ({}), which the full before it replaced",
                old.name,
                whose(old)
            ),
        }
    }
    for old in newest_of_each(plan.outlived.foreign()) {
        tracing::info!(
            "the chain of checkpoint {} ({}) ends with the next run after this full backup",
            old.name,
            whose(old)
        );
    }
}

/// Who made a checkpoint. Those of other tools but virtnbdbackup's, whose names ours have, are refused before.
fn whose(checkpoint: &Checkpoint) -> &str {
    checkpoint.description.as_deref().unwrap_or("made by virtnbdbackup")
}

/// The newest checkpoint of each chain: those of a set are one.
fn newest_of_each(all: &[Checkpoint]) -> Vec<&Checkpoint> {
    let set = |checkpoint: &Checkpoint| described(checkpoint).map(|(_, directory)| directory.to_owned());
    let mut newest: Vec<&Checkpoint> = Vec::new();
    for checkpoint in all {
        match newest.iter_mut().find(|known| set(known) == set(checkpoint)) {
            Some(known) => *known = checkpoint,
            None => newest.push(checkpoint),
        }
    }
    newest
}

/// Frees that name where libvirt knows nothing of it and `error`, which kept the job from beginning, may
/// come from bitmaps that bear it: what is left where a host lost its checkpoints. Returns whether there
/// were any.
///
/// No run of the set made them: the name comes after those of its checkpoints.
///
/// # Errors
/// By libvirt's code.
pub fn free_orphans(domain: &Domain, plan: &Plan, error: &Error) -> Result<bool> {
    // "Bitmap already exists" has no code of its own.
    let (Some(name), Some(code::INTERNAL_ERROR)) = (plan.made_checkpoint(), code_of(error)) else { return Ok(false) };
    if checkpoint::list(domain)?.iter().any(|known| known.name == name) {
        return Ok(false);
    }
    remove_orphans(domain, plan)
}

/// Removes the bitmaps that bear the name which the run needs for its checkpoint, and which libvirt knows
/// nothing of. Returns whether there were any.
///
/// # Errors
/// By libvirt's code.
pub fn remove_orphans(domain: &Domain, plan: &Plan) -> Result<bool> {
    let Some(name) = plan.made_checkpoint() else { return Ok(false) };
    let targets = plan.bitmap_targets();
    let found = bitmap::remove(domain, name, &plan.description(), &targets)?;
    if !found.is_empty() {
        tracing::info!("removed bitmap {name} on {}, which no checkpoint on this host goes with", found.join(", "));
    }
    Ok(!found.is_empty())
}

/// Removes what nothing needs, now that the run is committed: a new chain ends the old one.
///
/// # Errors
/// The first of those that kept a checkpoint of the old chain; the others are gone.
pub fn remove(domain: &Domain, plan: &Plan) -> Result<()> {
    remove_spare(domain, plan);
    for old in &plan.old_chain {
        mark_ended(old, plan);
    }
    let result = remove_all(domain, plan.old_chain.iter().filter(|old| old.name != plan.checkpoint));
    remove_markers(domain, plan);
    result
}

/// Removes the markers of fulls that nothing builds on any more. One that stays is a bitmap too many, and
/// costs as little as that.
fn remove_markers(domain: &Domain, plan: &Plan) {
    let whose = plan.old_chain.iter().filter_map(described).map(|(run, _)| (run, None));
    let replaced = plan.replaced.iter().map(|(run, target)| (*run, Some(target)));
    for (run, target) in whose.chain(replaced) {
        let result = match target {
            Some(target) => marker::remove_on(domain, run, std::slice::from_ref(target)),
            None => marker::remove(domain, run),
        };
        forget_marker(run, result);
    }
}

fn forget_marker(run: Uuid, result: Result<()>) {
    if let Err(error) = result {
        tracing::debug!("the marker of run {run} stays: {}", error::report(error.as_ref()));
    }
}

/// The run and the set that a checkpoint of ours names in its description.
fn described(checkpoint: &Checkpoint) -> Option<(Uuid, &str)> {
    let (run, directory) = checkpoint.description.as_deref()?.strip_prefix(DESCRIPTION)?.split_once(" in ")?;
    Some((Uuid::parse_str(run).ok()?, directory))
}

/// Removes checkpoints of the run's own chain. One that stays slows the guest a little: the next run tries
/// again.
fn remove_spare(domain: &Domain, plan: &Plan) {
    if plan.spare.is_empty() {
        return;
    }
    let layout = Layout::new(plan.directory());
    if let Err(error) = dropped::add(&layout, plan.spare.iter().map(|(_, run)| run.clone())) {
        tracing::warn!("no checkpoint is removed: {}", error::report(&error));
        return;
    }
    for (checkpoint, _) in &plan.spare {
        match checkpoint::discard(domain, checkpoint) {
            Ok(_) => tracing::info!("removed checkpoint {}, which no run needs any more", checkpoint.name),
            Err(error) => tracing::warn!("checkpoint {} stays: {}", checkpoint.name, error::report(&error)),
        }
    }
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
    let old: Vec<&Checkpoint> = known
        .iter()
        .filter(|checkpoint| !is_first(checkpoint) && checkpoint_position(&checkpoint.name).is_some())
        .collect();
    let result = remove_all(domain, old.iter().copied());
    for run in old.iter().filter_map(|old| described(old)).map(|(run, _)| run) {
        forget_marker(run, marker::remove(domain, run));
    }
    result
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
    let Some((run, directory)) = described(old) else { return };
    let layout = Layout::new(directory);
    let is_it = layout.file(&format!("manifest.{run}.json")).is_ok_and(|manifest| manifest.exists());
    if is_it {
        let text = plan.description();
        if let Err(error) = layout.write_atomically(&layout.private().join(ENDED), text.as_bytes()) {
            tracing::debug!("the old set could not be told that its chain ended: {}", error::report(&error));
        }
    }
}

/// A chain that begins in an emptied set has nothing to do with the one that ended there.
///
/// # Errors
/// Where the marks can't be removed: the next increment would be refused.
pub fn unmark(layout: &Layout) -> Result<()> {
    // Earlier chains on standard output are told apart by that list.
    if !records::is_of_stdout(layout) {
        dropped::forget(layout)?;
    }
    Ok(layout::remove(&layout.private().join(ENDED))?)
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
