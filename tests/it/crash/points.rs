//! Every place between the intent and its removal at which a run can fail or die.

use crate::support::{Case, Lab, MIB, Run, TestDomain, listing, spawn_with, virtkeep};

/// Places before the commit, in their order.
const BEFORE: &[&str] = &[
    "intent-written",
    "name-freed",
    "marked",
    "frozen",
    "begun-unthawed",
    "job-begun",
    "config-gathered",
    "extents-known",
    "stream-created",
    "stream-written",
    "copied",
    "job-ended",
    "extras-named",
    "extras-written",
    "log-closed",
];
/// Places after it.
const AFTER: &[&str] = &["committed", "half-renamed", "renamed", "old-chain-removed"];

const DISKS: &[&str] = &["vda", "vdb"];

fn new_case<'lab>(lab: &'lab Lab, name: &str) -> Case<'lab> {
    let case = Case::new(lab, name, &["vda:4M", "vdb:4M"]);
    case.domain.write("vda", 1, 0, MIB);
    case.domain.write("vdb", 2, MIB, MIB);
    case
}

/// Changes something on both disks that no earlier round changed.
fn change(case: &Case<'_>, round: usize) {
    let place = (round as u64 * 12_288) % (3 * MIB);
    case.domain.write("vda", round as u8 | 1, place, 8192);
    case.domain.write("vdb", round as u8 | 2, 3 * MIB - place, 4096);
}

/// As [`Case::backs_up`]; a dead run's job is there until the backup ends it, and no reference can be taken
/// before.
fn backs_up(case: &Case<'_>, options: &[&str]) -> Run {
    let run = case.backup(options).succeeds();
    case.restores(&[], DISKS, &case.domain.snapshot_references(DISKS));
    case.no_traces();
    run
}

#[test]
fn an_error_anywhere_costs_only_its_run() {
    let lab = Lab::up();
    let case = new_case(&lab, "d");
    case.backs_up(&[], DISKS);
    let mut runs = 1;
    for (round, place) in BEFORE.iter().enumerate() {
        let before = case.checkpoints();
        change(&case, round);
        let fault = format!("{place}=error");
        let run = spawn_with(&case, &["-l", "inc"], &fault).wait().ends_with(1);
        run.says(&[place, "undoing the run"]);
        assert_eq!(case.checkpoints(), before, "{place}");
        case.no_traces();
        change(&case, round + 100);
        case.backs_up(&["-l", "inc"], DISKS).says(&[&format!("vda: inc since {}", before.last().unwrap())]);
        runs += 1;
        assert_eq!(case.checkpoints().len(), runs, "{place}");
    }
    for (round, place) in AFTER.iter().enumerate() {
        change(&case, round);
        let reference = case.domain.snapshot_references(DISKS);
        let run = spawn_with(&case, &["-l", "inc"], &format!("{place}=error")).wait().ends_with(0);
        run.says(&[place, "the run is committed, but the next one has to tidy up"]);
        case.restores(&[], DISKS, &reference);
        change(&case, round + 100);
        case.backs_up(&["-l", "inc"], DISKS).says(&["was committed, but not tidied up"]);
    }
}

#[test]
fn a_kill_anywhere_costs_only_its_run() {
    let lab = Lab::up();
    let case = new_case(&lab, "d");
    let reference = case.domain.snapshot_references(DISKS);
    case.backup(&[]).succeeds();
    let mut newest = reference;
    for (round, place) in BEFORE.iter().chain(AFTER).enumerate() {
        let checkpoint = case.checkpoints().pop().unwrap();
        change(&case, round);
        let changed = case.domain.snapshot_references(DISKS);
        spawn_with(&case, &["-l", "inc"], &format!("{place}=kill")).wait().ends_with(137);
        // Whoever reads sees the run or does not, whole in either case.
        let committed = AFTER.contains(place);
        case.restores(&[], DISKS, if committed { &changed } else { &newest });
        change(&case, round + 100);
        let next = backs_up(&case, &["-l", "inc"]);
        newest = case.domain.snapshot_references(DISKS);
        match committed {
            true => next.says(&["was committed, but not tidied up"]),
            false => next.says(&["did not finish: undoing it", &format!("vda: inc since {checkpoint}")]),
        };
    }
}

#[test]
fn a_killed_full_leaves_the_old_chain_or_a_new_one() {
    let lab = Lab::up();
    let case = new_case(&lab, "d");
    let old = case.set.clone();
    for (round, place) in BEFORE.iter().chain(AFTER).enumerate() {
        // The old chain, of two points, in a set of its own.
        let new = case.set.with_file_name(format!("new{round}"));
        let _ = std::fs::remove_dir_all(&old);
        case.backup_to(&old, &["-l", "full"]).succeeds();
        change(&case, round);
        case.backup_to(&old, &["-l", "inc"]).succeeds();
        change(&case, round + 100);
        let full = Case { lab: &lab, domain: TestDomain::known(&lab, "d"), set: new.clone() };
        spawn_with(&full, &["-l", "full"], &format!("{place}=kill")).wait().ends_with(137);
        if AFTER.contains(place) {
            backs_up(&full, &[]).says(&["was committed", "vda: inc since virtnbdbackup.0"]);
            case.backup_to(&old, &["-l", "inc"]).ends_with(1).says(&["another chain"]);
        } else {
            // The dead run is known on this host, whichever set comes next.
            backs_up(&case, &["-l", "inc"]).says(&["vda: inc since virtnbdbackup.1"]);
            backs_up(&full, &["-l", "full"]);
        }
        for name in listing(&new.join(".virtkeep")) {
            assert!(!name.starts_with("intent."), "{place}: {name}");
        }
    }
}

#[test]
fn the_data_of_a_failed_run_is_kept_where_asked() {
    let lab = Lab::up();
    let case = new_case(&lab, "d");
    spawn_with(&case, &["--keep-partial"], "copied=error").wait().ends_with(1);
    let kept: Vec<String> = listing(&case.set).into_iter().filter(|name| name.ends_with(".partial")).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept[0].starts_with("vda.full.data.") && kept[1].starts_with("vdb.full.data."), "{kept:?}");
    let references = case.domain.snapshot_references(DISKS);
    case.backup(&[]).succeeds();
    case.restores(&[], DISKS, &references);
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds().says(&[".partial"]);
}
