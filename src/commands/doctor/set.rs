//! The set: who writes to it, runs that are not over, damage.

use super::facts::{Facts, SetFacts};
use super::finding::{Area, Finding};
use super::names::{shell_path, short};
use crate::commands::dump::chain_length;
use crate::error::{hint, report};
use crate::lock::holder_of;
use crate::set::intent::Intent;
use crate::set::layout::PARTIAL;
use crate::set::lock;
use crate::units::count;

/// What is found of it.
pub fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(set) = &facts.set else {
        return vec![
            Finding::note(Area::Set, "set", "none named")
                .advice("-o DIR names it: what is the set's own is known and mended then"),
        ];
    };
    let mut findings = vec![overview(set)];
    if let Some(error) = &set.other_domain {
        findings.push(
            Finding::look(Area::Set, "owner of the set", report(error)).advice("name the domain's own set with -o"),
        );
        return findings;
    }
    findings.extend(set.ended.iter().map(|by| {
        Finding::note(Area::Set, "chain of the set", format!("ended: another chain took over ({by})"))
            .advice("every point can still be restored")
    }));
    findings.extend(lock_of(set));
    match &set.intents {
        Ok(intents) => findings.extend(intents.iter().map(|intent| one_intent(facts, set, intent))),
        Err(error) => findings.push(
            Finding::look(Area::Set, "records of unfinished runs", report(error))
                .advice(hint(error).unwrap_or("make it readable: no backup begins before").to_owned()),
        ),
    }
    findings.extend(partial(set));
    findings.extend(damage(set));
    findings.extend(gone(facts, set));
    findings
}

fn overview(set: &SetFacts) -> Finding {
    let points = match set.catalogue.runs.len() {
        0 => "no restore point yet".to_owned(),
        points => count(points, "restore point"),
    };
    Finding::good(Area::Set, format!("set {}", set.layout.directory().display()), points)
}

fn lock_of(set: &SetFacts) -> Option<Finding> {
    match set.in_use {
        Some(false) => None,
        Some(true) => Some(
            Finding::good(Area::Set, "lock of the set", "a run is writing to it").of(holder(set).unwrap_or_default()),
        ),
        None => Some(
            Finding::note(Area::Set, "lock of the set", "whether a run is writing to it can't be found out here")
                .advice("--repair finds out, and does nothing then"),
        ),
    }
}

/// Who holds the lock, by its note.
fn holder(set: &SetFacts) -> Option<String> {
    holder_of(&lock::path(&set.layout)).map(|holder| holder.to_string())
}

fn one_intent(facts: &Facts<'_>, set: &SetFacts, intent: &Intent) -> Finding {
    let what = format!("run {}", intent.run);
    let whose = "this set";
    if intent.domain_uuid != facts.uuid {
        let state = format!("not over, and of another domain ({})", intent.domain_uuid);
        return Finding::look(Area::Set, what, state)
            .advice("every domain needs a directory of its own: look at it with that domain's -d");
    }
    if set.is_in_use() {
        return Finding::good(Area::Set, what, format!("{} backup goes on", intent.level)).of(whose);
    }
    let guest = match (intent.held.frozen, intent.held.paused) {
        (true, _) => "; the guest may be frozen",
        (_, true) => "; the guest may be paused by it",
        _ => "",
    };
    let (state, repair) = match set.is_committed(intent) {
        true => ("committed, but not tidied up", "completes it"),
        false => ("DID NOT FINISH: its process is gone", "undoes it: the next increment goes on from the run before"),
    };
    Finding::look(Area::Set, what, format!("{} backup {state}{guest}", intent.level)).of(whose).repair(repair)
}

/// Data files that no unfinished run of ours names.
fn partial(set: &SetFacts) -> Vec<Finding> {
    let named = |name: &&String| {
        let intents = set.intents.as_deref().unwrap_or_default();
        let data = name.strip_suffix(PARTIAL).unwrap_or(name);
        intents.iter().any(|intent| intent.files.iter().any(|file| file == data))
    };
    let unnamed = set.catalogue.partial.iter().filter(|name| !named(name));
    let path = |name: &str| shell_path(&set.layout.directory().join(name));
    unnamed
        .map(|name| {
            Finding::look(Area::Set, name.clone(), "unfinished data of a run that virtkeep has no record of")
                .of("not known: another tool, perhaps")
                .advice(format!("if no other backup writes it: rm {}", path(name)))
        })
        .collect()
}

fn damage(set: &SetFacts) -> Vec<Finding> {
    let advice = || format!("virtkeep verify -i {}", shell_path(set.layout.directory()));
    let problems = set.catalogue.problems.iter().map(|problem| {
        let (state, file) = (report(&problem.error), problem.file.clone());
        match problem.may_hide_run() {
            true => Finding::look(Area::Set, file, state),
            false => Finding::note(Area::Set, file, state),
        }
        .advice(advice())
    });
    let broken = set.catalogue.runs.iter().filter_map(|run| {
        let why = chain_length(&set.catalogue, run).err()?;
        let what = format!("restore point {}", run.run_id().map_or_else(|| run.id.clone(), short));
        Some(Finding::look(Area::Set, what, format!("can't be restored whole: {why}")).advice(advice()))
    });
    problems.chain(broken).collect()
}

/// The newest run has neither checkpoint nor bitmap left.
fn gone(facts: &Facts<'_>, set: &SetFacts) -> Option<Finding> {
    let name = set.catalogue.newest_base()?.checkpoint.clone()?;
    let known = facts.known.iter().any(|checkpoint| checkpoint.name == name);
    let bitmaps = facts.conditions(&name)?;
    (!known && bitmaps.is_empty() && set.ended.is_none()).then(|| {
        Finding::note(Area::Set, "next backup", format!("the newest run's checkpoint {name} is gone, with its bitmaps"))
            .advice("nothing: disks without an older base are made full by themselves")
    })
}
