//! Checkpoints of earlier chains where the backup goes to standard output.
//!
//! What a pipe took may be lost behind it, so that a full must not cost the chain before it. A full takes a name
//! that is free, and only a run that succeeds after it removes what neither that run nor the newest one before
//! it builds on:
//!
//! ```text
//! chain A: .0 .1 .2    full .3 (chain B)     inc .4       removed after .4: .0 .1 .2
//!                      lost? --base .2 ──>   inc .4 (A)   removed after the next: .3
//! ```

use std::collections::BTreeSet;

use uuid::Uuid;

use super::base::is_of_set;
use super::plan::Plan;
use super::{Context, marker};
use crate::error::Result;
use crate::libvirt::checkpoint::Checkpoint;
use crate::set::catalogue::{Catalogue, Run};
use crate::set::records::{self, Replaced};
use crate::set::{Level, dropped};

/// The checkpoints on the domain where the records of standard output are continued.
#[derive(Debug, Default)]
pub struct Outlived {
    /// Of the records' own runs.
    own: Vec<Checkpoint>,
    /// Of another chain, which this full replaces.
    foreign: Vec<Checkpoint>,
    /// Own runs of which libvirt knows nothing any more when a new chain begins.
    lost: Vec<String>,
}

impl Outlived {
    /// Sorts what a full finds.
    pub fn of_full(catalogue: &Catalogue, known: Vec<Checkpoint>) -> Self {
        let (own, foreign): (Vec<_>, Vec<_>) = known.into_iter().partition(|known| is_of_set(catalogue, None, known));
        let is_lost = |run: &&Run| run.is_base() && own.iter().all(|own| Some(&own.name) != run.checkpoint.as_ref());
        let lost = catalogue.runs.iter().filter(is_lost).map(|run| run.id.clone()).collect();
        Self { own, foreign, lost }
    }

    /// What an increment finds.
    pub fn of_increment<'c>(own: impl Iterator<Item = &'c Checkpoint>) -> Self {
        Self { own: own.cloned().collect(), ..Self::default() }
    }

    /// Checkpoints of another chain, which goes with the next success.
    pub fn foreign(&self) -> &[Checkpoint] {
        &self.foreign
    }

    /// Adds to the plan what goes once the run is committed.
    ///
    /// # Errors
    /// Of records with a gap.
    pub fn add_to(self, plan: &mut Plan, catalogue: &Catalogue) -> Result<()> {
        let kept = kept_roots(plan, catalogue)?;
        let mut gone = BTreeSet::new();
        for checkpoint in &self.own {
            let Some(run) = catalogue.run_of_checkpoint(&checkpoint.name) else { continue };
            let roots = roots(catalogue, run)?;
            let is_planned = plan.spare.iter().any(|(spare, _)| spare.name == checkpoint.name);
            if roots.is_disjoint(&kept) && !is_planned {
                plan.spare.push((checkpoint.clone(), run.id.clone()));
            }
            gone.extend(roots.difference(&kept).copied());
        }
        let targets: Vec<String> = plan.disks.iter().map(|disk| &disk.target).chain(&plan.others).cloned().collect();
        for root in gone {
            plan.replaced.extend(targets.iter().map(|target| (root, target.clone())));
        }
        plan.outlived = self;
        Ok(())
    }
}

/// The fulls that must stay, by their runs: those that the run builds on, and those of the newest run of each disk.
///
/// # Errors
/// Of records with a gap.
pub(super) fn kept_roots(plan: &Plan, catalogue: &Catalogue) -> Result<BTreeSet<Uuid>> {
    let mut kept = BTreeSet::new();
    for disk in &plan.disks {
        let base = disk.base.as_ref().and_then(|base| catalogue.run_of_checkpoint(&base.checkpoint));
        if let Some(run) = base {
            kept.extend(marker::root(catalogue, run, &disk.target)?);
        }
    }
    let mut seen = BTreeSet::new();
    for run in catalogue.runs.iter().rev().filter(|run| run.is_base()) {
        for stream in &run.streams {
            if seen.insert(stream.target.clone()) {
                kept.extend(marker::root(catalogue, run, &stream.target)?);
            }
        }
    }
    Ok(kept)
}

/// The runs that made full what `run` builds on, disk by disk; virtnbdbackup's are not among them.
///
/// # Errors
/// Of records with a gap.
pub(super) fn roots(catalogue: &Catalogue, run: &Run) -> Result<BTreeSet<Uuid>> {
    let roots = run.streams.iter().map(|stream| marker::root(catalogue, run, &stream.target));
    Ok(roots.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Takes out of `known` what the newest full replaced: it goes with the next success.
pub fn take_replaced(catalogue: &Catalogue, known: &mut Vec<Checkpoint>) -> Vec<Checkpoint> {
    if !catalogue.is_of_stdout {
        return Vec::new();
    }
    let replaced = records::replaced(catalogue);
    let (old, rest): (Vec<_>, Vec<_>) =
        std::mem::take(known).into_iter().partition(|known| replaced.contains(&as_replaced(known)));
    *known = rest;
    old
}

/// Before a full is committed: notes what it replaces and leaves for the next run.
///
/// # Errors
/// [`Io`](crate::error::Kind::Io).
pub fn note(run: &Context<'_>, plan: &Plan) -> Result<()> {
    if plan.level != Level::Full {
        return Ok(());
    }
    let replaced = plan.outlived.foreign.iter().chain(&plan.old_chain).map(as_replaced).collect();
    records::note_replaced(run.layout, plan.run, replaced)
}

/// After that: what libvirt had lost before it is not told to it again.
///
/// # Errors
/// [`Io`](crate::error::Kind::Io).
pub fn forget_lost(run: &Context<'_>, plan: &Plan) -> Result<()> {
    match plan.outlived.lost.as_slice() {
        [] => Ok(()),
        lost => dropped::add(run.layout, lost.iter().cloned()),
    }
}

fn as_replaced(known: &Checkpoint) -> Replaced {
    let Checkpoint { name, description, creation_time, .. } = known;
    Replaced { name: name.clone(), description: description.clone(), creation_time: *creation_time }
}
