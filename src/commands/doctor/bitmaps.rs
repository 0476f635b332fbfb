//! Bitmaps that no checkpoint known to libvirt stands for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::json;

use super::facts::{Facts, SetFacts};
use super::finding::{Area, Finding};
use super::names::{shell, shell_path, short};
use super::orphans;
use crate::commands::backup::base::saved;
use crate::commands::backup::marker;
use crate::libvirt::block_nodes::{Condition, DiskBitmaps, Layer};
use crate::set::catalogue::Run;
use crate::set::intent::Intent;

/// What is found of them.
pub fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let disks = match &facts.bitmaps {
        Ok(disks) => disks,
        Err(why) => {
            return vec![
                Finding::note(Area::Bitmap, "bitmaps", format!("not known: {why}"))
                    .advice("what can build on what is not known either; the next backup finds out by itself"),
            ];
        }
    };
    let mut orphans = without_checkpoint(facts, disks);
    // That they have no checkpoint is as it should be.
    orphans.retain(|name, _| !is_marker_in_order(facts, name));
    if orphans.is_empty() {
        return vec![Finding::good(Area::Bitmap, "bitmaps without a checkpoint", "none")];
    }
    orphans.iter().map(|(name, on)| one(facts, name, on)).collect()
}

/// Whether a checkpoint of the set can be told to libvirt again: its bitmaps are there and good.
pub fn any_lost(facts: &Facts<'_>) -> bool {
    let (Some(set), Ok(disks)) = (&facts.set, &facts.bitmaps) else { return false };
    facts.set_goes_on()
        && without_checkpoint(facts, disks)
            .iter()
            .any(|(name, on)| set.catalogue.run_of_checkpoint(name).is_some_and(|run| can_be_told(facts, set, run, on)))
}

/// Whether it is the marker of a committed run of the set, or of one that goes on.
fn is_marker_in_order(facts: &Facts<'_>, name: &str) -> bool {
    let (Some(run), Some(set)) = (marker::run_of(name), &facts.set) else { return false };
    set.has_run(run) && (set.is_in_use() || set.unfinished(facts.uuid).all(|intent| intent.run != run))
}

type OnDisks = BTreeMap<String, Condition>;

/// By name, the disks with a bitmap that no known checkpoint lists.
fn without_checkpoint(facts: &Facts<'_>, disks: &[DiskBitmaps]) -> BTreeMap<String, OnDisks> {
    let listed: BTreeSet<(&str, &str)> = facts
        .known
        .iter()
        .flat_map(|checkpoint| &checkpoint.disks)
        .map(|disk| (disk.target.as_str(), disk.bitmap.as_str()))
        .collect();
    let mut orphans: BTreeMap<String, OnDisks> = BTreeMap::new();
    for disk in disks {
        for (name, condition) in disk.conditions() {
            if !listed.contains(&(disk.target.as_str(), name.as_str())) {
                orphans.entry(name).or_default().insert(disk.target.clone(), condition);
            }
        }
    }
    orphans
}

/// The unfinished run of the set that a bitmap is of.
fn intent_of<'a>(facts: &Facts<'_>, set: &'a SetFacts, name: &str) -> Option<&'a Intent> {
    let disks = facts.bitmaps.as_deref().unwrap_or_default();
    set.unfinished(facts.uuid).find(|intent| {
        intent.checkpoint.as_deref() == Some(name) && !orphans::of_run(intent, &facts.known, disks).is_empty()
    })
}

fn can_be_told(facts: &Facts<'_>, set: &SetFacts, run: &Run, on: &OnDisks) -> bool {
    if set.dropped.contains(&run.id) {
        return false;
    }
    let Some(checkpoint) = saved(&set.catalogue, facts.args.checkpointdir.as_deref(), run) else { return false };
    !checkpoint.disks.is_empty() && checkpoint.disks.iter().all(|disk| on.get(&disk.target) == Some(&Condition::Good))
}

fn one(facts: &Facts<'_>, name: &str, on: &OnDisks) -> Finding {
    let what = format!("bitmap {name}");
    let list: Vec<String> = on.iter().map(|(target, condition)| format!("{target} ({condition})")).collect();
    let state = |why: &str| format!("{why}; on {}", list.join(", "));
    if facts.known.iter().any(|checkpoint| checkpoint.name == name) {
        return Finding::note(Area::Bitmap, what, state("the checkpoint of that name does not list these disks"));
    }
    if let Some(run) = marker::run_of(name) {
        if facts.set.as_ref().is_some_and(|set| set.is_usable() && set.has_run(run)) {
            return Finding::look(Area::Bitmap, what, state("marker that was left behind"))
                .of(format!("this set, unfinished run {}", short(run)))
                .repair("removes it with the run");
        }
        return Finding::note(Area::Bitmap, what, state("marker of a full backup"))
            .of(format!("virtkeep, another set, run {}", short(run)));
    }
    if facts.active && on.values().all(|condition| *condition == Condition::Below) {
        return Finding::note(Area::Bitmap, what, state("no checkpoint, and nothing uses it"))
            .of("not known")
            .advice(format!("if nothing needs it, once the domain is off: {}", stored(facts, name, on).join(" && ")));
    }
    let look = |why: &str| Finding::look(Area::Bitmap, what.clone(), state(why));
    let set = facts.set.as_ref().filter(|set| set.is_usable());
    if let Some(intent) = set.and_then(|set| intent_of(facts, set, name)) {
        let whose = format!("this set, unfinished run {}", short(intent.run));
        if set.is_some_and(SetFacts::is_in_use) {
            return Finding::good(Area::Bitmap, what, state("of the run that goes on")).of(whose);
        }
        return look("left behind, and libvirt has lost its checkpoint").of(whose).repair("removes it with the run");
    }
    if let Some((set, run)) = set.and_then(|set| Some((set, set.catalogue.run_of_checkpoint(name)?))) {
        let whose = format!("by its name this set, run {}", run.run_id().map_or_else(|| run.id.clone(), short));
        if let Some(by) = &set.ended {
            return Finding::note(Area::Bitmap, what, state(&format!("the chain ended ({by})"))).of(whose);
        }
        if facts.set_goes_on() && can_be_told(facts, set, run, on) {
            return look("libvirt has lost its checkpoint").of(whose).repair("tells libvirt of it again");
        }
        return look("libvirt has lost its checkpoint, which can't be told again")
            .of(whose)
            .advice(remove(facts, name, on));
    }
    look("libvirt knows no checkpoint of it").of("not known").advice(remove(facts, name, on))
}

/// The commands that remove a bitmap, should nobody need it.
fn remove(facts: &Facts<'_>, name: &str, on: &OnDisks) -> String {
    let commands = if facts.active { in_qemu(facts, name, on) } else { stored(facts, name, on) };
    format!("if nothing needs it: {}", commands.join(" && "))
}

/// For a domain that runs: in the images that QEMU writes to. Those below them it only reads.
fn in_qemu(facts: &Facts<'_>, name: &str, on: &OnDisks) -> Vec<String> {
    let command = |node: &str| {
        let arguments = json!({"node": node, "name": name});
        let command = json!({"execute": "block-dirty-bitmap-remove", "arguments": arguments});
        format!("{} {}", facts.virsh("qemu-monitor-command"), shell(&command.to_string()))
    };
    let disks = facts.bitmaps.iter().flatten().filter(|disk| on.contains_key(&disk.target));
    let top = disks.filter_map(|disk| disk.layers.first()).filter(|layer| has(layer, name));
    top.filter_map(|layer| layer.node.as_deref()).map(command).collect()
}

/// For a domain that is off: in all images.
fn stored(facts: &Facts<'_>, name: &str, on: &OnDisks) -> Vec<String> {
    let disks = facts.bitmaps.iter().flatten().filter(|disk| on.contains_key(&disk.target));
    let images = disks.flat_map(|disk| &disk.layers).filter(|layer| has(layer, name));
    let command = |path: &PathBuf| format!("qemu-img bitmap --remove {} {}", shell_path(path), shell(name));
    images.filter_map(|layer| layer.image.as_ref()).map(command).collect()
}

fn has(layer: &Layer, name: &str) -> bool {
    layer.bitmaps.iter().any(|bitmap| bitmap.name == name)
}
