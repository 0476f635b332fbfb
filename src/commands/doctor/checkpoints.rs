//! The checkpoints that libvirt knows, and the bitmaps behind them.

use super::facts::{Facts, Owner, SetFacts};
use super::finding::{Area, Finding};
use super::names::{shell, short};
use crate::libvirt::block_nodes::Condition;
use crate::libvirt::checkpoint::{Checkpoint, CheckpointDisk};
use crate::set::catalogue::Run;

/// What is found of them.
pub fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    facts.known.iter().map(|checkpoint| one(facts, checkpoint)).collect()
}

/// The bitmaps of a checkpoint, disk by disk.
#[derive(Debug, Default)]
struct Bitmaps {
    good: Vec<String>,
    /// There, and of no use, or not there at all.
    bad: Vec<(String, &'static str)>,
    /// On disks that the domain does not have at present.
    away: Vec<String>,
    known: bool,
}

impl Bitmaps {
    fn of(facts: &Facts<'_>, checkpoint: &Checkpoint) -> Self {
        let mut all = Self::default();
        for disk in disks(facts, checkpoint) {
            let Some(conditions) = facts.conditions(&disk.bitmap) else { return Self::default() };
            let target = disk.target.clone();
            match conditions.get(disk.target.as_str()) {
                _ if facts.config.disk(&target).is_none() => all.away.push(target),
                Some(Condition::Good | Condition::Busy) => all.good.push(target),
                Some(Condition::Broken) => all.bad.push((target, "broken")),
                Some(Condition::Disabled) => all.bad.push((target, "not recording")),
                Some(Condition::Below) => all.bad.push((target, "only below an overlay")),
                None => all.bad.push((target, "missing")),
            }
        }
        all.known = true;
        all
    }

    /// Nothing can ever build on it.
    fn is_useless(&self) -> bool {
        let for_ever = |(_, why): &(String, &str)| matches!(*why, "broken" | "missing");
        self.known
            && self.good.is_empty()
            && self.away.is_empty()
            && !self.bad.is_empty()
            && self.bad.iter().all(for_ever)
    }

    fn describe(&self) -> String {
        if !self.known {
            return "bitmaps not known".to_owned();
        }
        let mut parts = Vec::new();
        if !self.good.is_empty() {
            parts.push(format!("good: {}", self.good.join(", ")));
        }
        for (target, why) in &self.bad {
            parts.push(format!("{why}: {target}"));
        }
        if !self.away.is_empty() {
            parts.push(format!("on disks that the domain does not have: {}", self.away.join(", ")));
        }
        if parts.is_empty() { "on no disk".to_owned() } else { format!("bitmap {}", parts.join("; ")) }
    }
}

/// The disks of a checkpoint, and those that its run has and libvirt has lost: a crash while a backup looked
/// at them one by one leaves the checkpoint with one of them.
fn disks(facts: &Facts<'_>, checkpoint: &Checkpoint) -> Vec<CheckpointDisk> {
    let mut disks = checkpoint.disks.clone();
    if let Owner::Run(run) = facts.owner(checkpoint) {
        let lost = run
            .streams
            .iter()
            .filter(|stream| !stream.raw_disk)
            .filter(|stream| checkpoint.disks.iter().all(|disk| disk.target != stream.target));
        disks.extend(
            lost.map(|stream| CheckpointDisk { target: stream.target.clone(), bitmap: checkpoint.name.clone() }),
        );
    }
    disks
}

/// Checkpoints of committed runs that no increment can build on any more, and that can be removed now.
pub fn useless<'a>(facts: &'a Facts<'_>) -> Vec<(&'a Checkpoint, &'a Run)> {
    let of_run = facts.known.iter().filter_map(|checkpoint| match facts.owner(checkpoint) {
        Owner::Run(run) => Some((checkpoint, run)),
        _ => None,
    });
    of_run.filter(|(checkpoint, _)| Bitmaps::of(facts, checkpoint).is_useless()).collect()
}

fn one(facts: &Facts<'_>, checkpoint: &Checkpoint) -> Finding {
    let what = format!("checkpoint {}", checkpoint.name);
    let bitmaps = Bitmaps::of(facts, checkpoint);
    let state = bitmaps.describe();
    let remove = || format!("{} {}", facts.virsh("checkpoint-delete"), shell(&checkpoint.name));
    match facts.owner(checkpoint) {
        Owner::Run(run) => of_run(checkpoint, run, &bitmaps),
        Owner::Unfinished(intent) => {
            let whose = format!("this set, unfinished run {}", short(intent.run));
            if facts.set.as_ref().is_some_and(SetFacts::is_in_use) {
                return Finding::good(Area::Checkpoint, what, state)
                    .of(format!("this set, run {} goes on", short(intent.run)));
            }
            Finding::look(Area::Checkpoint, what, format!("left behind; {state}"))
                .of(whose)
                .repair("removes it with the run")
        }
        Owner::OtherChain(description) => {
            let whose = description.map_or_else(|| "another chain".to_owned(), |text| format!("another set: {text}"));
            match &facts.set {
                Some(set) if set.ended.is_none() && !set.catalogue.runs.is_empty() && set.other_domain.is_none() => {
                    Finding::look(Area::Checkpoint, what, format!("this set's chain can't go on beside it; {state}"))
                        .of(whose)
                        .advice("continue the chain that it belongs to, or begin a new one: -l full into an empty directory")
                }
                _ => Finding::note(Area::Checkpoint, what, state).of(whose),
            }
        }
        Owner::Marker => {
            Finding::look(Area::Checkpoint, what, format!("a marker that a crash left in libvirt's list; {state}"))
                .of("virtkeep")
                .repair("makes libvirt forget it")
        }
        Owner::Foreign => Finding::look(Area::Checkpoint, what, format!("only -l copy works beside it; {state}"))
            .of("another tool")
            .advice(format!("if nothing needs it: {}", remove())),
    }
}

fn of_run(checkpoint: &Checkpoint, run: &Run, bitmaps: &Bitmaps) -> Finding {
    let what = format!("checkpoint {}", checkpoint.name);
    let state = bitmaps.describe();
    let whose = match run.run_id() {
        Some(id) => format!("this set, run {}", short(id)),
        None => "this set, made by virtnbdbackup".to_owned(),
    };
    if bitmaps.is_useless() {
        return Finding::look(Area::Checkpoint, what, format!("USELESS: {state}"))
            .of(whose)
            .repair("removes it; what can't build on an older one is made full by the next backup");
    }
    if bitmaps.known && bitmaps.bad.is_empty() {
        return Finding::good(Area::Checkpoint, what, state).of(whose);
    }
    Finding::note(Area::Checkpoint, what, state).of(whose)
}
