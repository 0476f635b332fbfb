//! Mending: the same code as at the start of a backup, under the same lock, and nothing that is not the
//! set's own.

use anyhow::Result;

use super::facts::{Facts, SetFacts};
use super::{bitmaps, checkpoints, domain, orphans, scratch};
use crate::commands::backup::base::redefine_lost;
use crate::commands::backup::locks::Locks;
use crate::commands::backup::marker;
use crate::commands::backup::plan::DESCRIPTION;
use crate::commands::backup::undo::Keep;
use crate::commands::backup::{guest, undo};
use crate::error::report;
use crate::host::Host;
use crate::libvirt::bitmap;
use crate::libvirt::checkpoint::{self, Checkpoint};
use crate::set::catalogue::Run;
use crate::set::dropped;

/// Nothing of a run that did not finish is kept: nobody asked for it here.
const KEEP: Keep = Keep { partial: false, started: false };

/// Does what the findings on the set's own things say, one after the other, and says so. Facts are gathered
/// anew by `gather` where a step has changed them. Returns whether all went well; what did not is said.
pub fn run<'f>(gather: &dyn Fn() -> Result<Facts<'f>>, locks: &mut Locks) -> Result<bool> {
    let facts = gather()?;
    let Some(set) = facts.set.as_ref().filter(|set| set.is_usable()) else {
        tracing::warn!("nothing is mended: the set is not this domain's, or its records can't be read");
        return Ok(true);
    };
    // The lock of the domain remembers them only once.
    locks.clear_dead(facts.domain, &set.layout, KEEP);
    let mut well = true;
    if may_clear(&facts, set) {
        // While the records are there that prove whose they are.
        well &= step("remove bitmaps of unfinished runs", remove_bitmaps(&facts, set));
        well &= step("undo or complete earlier runs", undo::clear_leftovers(facts.domain, &set.layout, KEEP).map(drop));
        // Another's job, or a full image, may have paused it as well.
        if domain::is_dead_job(&facts) {
            guest::resume_after_full_scratch(facts.domain);
        }
    }
    let dead = scratch::dead(&facts);
    let removed = dead.iter().try_for_each(|path| remove_file(facts.domain.host(), path));
    well &= step("remove scratch files", removed);

    let facts = gather()?;
    let known = facts.known.clone();
    well &= step("forget stray markers", marker::forget_stray(facts.domain, known).map(drop).map_err(Into::into));
    for (checkpoint, run) in checkpoints::useless(&facts) {
        well &= step(&format!("remove checkpoint {}", checkpoint.name), discard(&facts, checkpoint, run));
    }
    if bitmaps::any_lost(&facts) {
        well &= step("tell libvirt of lost checkpoints", redefine(&facts));
    }
    Ok(well)
}

/// A record of another domain's run in this set needs a person.
fn may_clear(facts: &Facts<'_>, set: &SetFacts) -> bool {
    let intents = set.intents.as_deref().unwrap_or_default();
    !intents.is_empty() && intents.iter().all(|intent| intent.domain_uuid == facts.uuid)
}

fn step(what: &str, result: Result<()>) -> bool {
    let Err(error) = result else { return true };
    tracing::error!("{what}: {}", report(error.as_ref()));
    if let Some(hint) = crate::error::hint(error.as_ref()) {
        tracing::error!("hint: {hint}");
    }
    false
}

fn remove_bitmaps(facts: &Facts<'_>, set: &SetFacts) -> Result<()> {
    let Some(disks) = facts.bitmaps.as_ref().ok() else { return Ok(()) };
    for intent in set.unfinished(facts.uuid) {
        let targets = orphans::of_run(intent, &facts.known, disks);
        let Some(name) = intent.checkpoint.as_ref().filter(|_| !targets.is_empty()) else { continue };
        let description = format!("{DESCRIPTION}{}", intent.run);
        let removed = bitmap::remove(facts.domain, name, &description, &targets)?;
        tracing::info!("removed bitmap {name} of run {} from {}", intent.run, removed.join(", "));
    }
    Ok(())
}

fn discard(facts: &Facts<'_>, checkpoint: &Checkpoint, run: &Run) -> Result<()> {
    if let Some(set) = &facts.set {
        // No backup looks for it from now on.
        dropped::add(&set.layout, [run.id.clone()])?;
    }
    checkpoint::discard(facts.domain, checkpoint)?;
    tracing::info!("removed checkpoint {}: nothing could build on it", checkpoint.name);
    Ok(())
}

fn redefine(facts: &Facts<'_>) -> Result<()> {
    let Some(set) = &facts.set else { return Ok(()) };
    let extra = facts.args.checkpointdir.as_deref();
    // Other tools' checkpoints have other names, and are no matter here.
    let known = checkpoint::list(facts.domain)?;
    redefine_lost(facts.domain, &set.catalogue, extra, &known).map(drop)
}

fn remove_file(host: &Host, path: &std::path::Path) -> Result<()> {
    host.remove(path)?;
    tracing::info!("removed {}", path.display());
    Ok(())
}
