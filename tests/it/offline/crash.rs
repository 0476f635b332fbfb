//! Runs of a domain that is off that fail, are killed, or meet a domain that is started.

use std::time::{Duration, Instant};

use super::{backs_up, bitmaps, leaves_nothing, references, server_directories, servers, state, write};
use crate::support::{Case, Lab, MIB, TestDomain, listing, spawn_with};

/// Places before the commit, in their order.
const BEFORE: &[&str] = &[
    "intent-written",
    "marked",
    "name-freed",
    "checkpoint-told",
    "recording",
    "served",
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

/// A domain that is off, with a chain of one full.
fn new_case(lab: &Lab) -> Case<'_> {
    let case = Case::new(lab, "d", &["vda:4M", "vdb:4M"]);
    case.domain.write("vda", 1, 0, MIB);
    case.domain.write("vdb", 2, MIB, MIB);
    case.domain.stop();
    backs_up(&case, &[], DISKS);
    case
}

/// Changes something on both disks that no earlier round changed.
fn change(case: &Case<'_>, round: usize) {
    let place = (round * 12_288) % (3 << 20);
    write(case, "vda", &format!("write -P {} {place} 8k", round | 1));
    write(case, "vdb", &format!("write -P {} {} 4k", round | 2, (3 << 20) - place));
}

#[test]
fn an_error_anywhere_costs_only_its_run() {
    let lab = Lab::up();
    let case = new_case(&lab);
    for (round, place) in BEFORE.iter().enumerate() {
        let before = (case.checkpoints(), bitmaps(&case, "vda"), bitmaps(&case, "vdb"));
        change(&case, round);
        let run = spawn_with(&case, &["-l", "inc"], &format!("{place}=error")).wait().ends_with(1);
        run.says(&[place, "undoing the run"]);
        assert_eq!((case.checkpoints(), bitmaps(&case, "vda"), bitmaps(&case, "vdb")), before, "{place}");
        leaves_nothing(&case);
    }
    // All of it is in the next one.
    backs_up(&case, &["--strict", "-l", "inc"], DISKS).says(&["vda: inc since virtnbdbackup.0"]);
    for (round, place) in AFTER.iter().enumerate() {
        change(&case, round);
        let run = spawn_with(&case, &["-l", "inc"], &format!("{place}=error")).wait().ends_with(0);
        run.says(&[place, "the run is committed, but the next one has to tidy up"]);
        change(&case, round + 100);
        backs_up(&case, &["-l", "inc"], DISKS).says(&["was committed, but not tidied up"]);
    }
}

#[test]
fn a_kill_anywhere_costs_only_its_run() {
    let before = server_directories();
    let lab = Lab::up();
    let case = new_case(&lab);
    for (round, place) in BEFORE.iter().chain(AFTER).enumerate() {
        let newest = case.checkpoints().pop().unwrap();
        change(&case, round);
        spawn_with(&case, &["-l", "inc"], &format!("{place}=kill")).wait().ends_with(137);
        servers_end(&case);
        change(&case, round + 100);
        // Undone in the images, or by QEMU: the owner may start it first.
        let next = if round % 2 == 0 {
            backs_up(&case, &["-l", "inc"], DISKS)
        } else {
            case.domain.start();
            case.domain.write("vda", 0x77, (3 << 20) + (round as u64) * 4096, 4096);
            let next = case.backs_up(&["-l", "inc"], DISKS);
            case.domain.stop();
            next
        };
        match AFTER.contains(place) {
            true => next.says(&["was committed, but not tidied up"]),
            false => next.says(&["did not finish: undoing it", &format!("vda: inc since {newest}")]),
        };
        let mut all = case.checkpoints();
        all.insert(0, "marker".into());
        assert_eq!(bitmaps(&case, "vda").len(), all.len(), "{place}");
    }
    assert_eq!(server_directories_of_dead_runs(&before), [""; 0]);
}

/// Servers of a run that was killed die with it: the domain can be started at once.
#[track_caller]
fn servers_end(case: &Case<'_>) {
    let begin = Instant::now();
    while !servers(case).is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(20), "they stay: {:?}", servers(case));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Other tests of this process are at work: theirs go away by themselves.
fn server_directories_of_dead_runs(before: &[String]) -> Vec<String> {
    let begin = Instant::now();
    let mut left = server_directories();
    // A test that was interrupted some day may have left its own.
    left.retain(|name| !before.contains(name));
    while !left.is_empty() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(100));
        let now = server_directories();
        left.retain(|name| now.contains(name));
    }
    left
}

#[test]
fn a_killed_full_leaves_the_old_chain_or_a_new_one() {
    let lab = Lab::up();
    for (round, place) in ["marked", "checkpoint-told", "recording", "served", "copied", "committed"].iter().enumerate()
    {
        let name = format!("d{round}");
        let case = Case::new(&lab, &name, &["vda:4M", "vdb:4M"]);
        case.domain.write("vda", 1, 0, MIB);
        case.domain.stop();
        case.backup(&["-l", "full"]).succeeds();
        write(&case, "vda", "write -P 5 1M 64k");
        case.backup(&["-l", "inc"]).succeeds();
        write(&case, "vdb", "write -P 6 1M 64k");
        let full = Case { lab: &lab, domain: TestDomain::known(&lab, &name), set: case.set.with_file_name("new") };
        let reference = references(&case, DISKS);
        spawn_with(&full, &["-l", "full"], &format!("{place}=kill")).wait().ends_with(137);
        if *place == "committed" {
            full.backup(&[]).succeeds().says(&["was committed", "vda: inc since virtnbdbackup.0"]);
            full.restores(&[], DISKS, &reference);
            case.backup(&["-l", "inc"]).ends_with(1).says(&["another chain"]);
        } else {
            case.backup(&["-l", "inc"]).succeeds().says(&["vda: inc since virtnbdbackup.1"]);
            case.restores(&[], DISKS, &reference);
            full.backup(&["-l", "full"]).succeeds();
            full.restores(&[], DISKS, &reference);
        }
        assert!(!listing(&full.set.join(".virtkeep")).iter().any(|name| name.starts_with("intent.")), "{place}");
        assert_eq!(bitmaps(&full, "vdb")[0], "marker");
    }
}

#[test]
fn a_run_killed_while_the_domain_ran_is_undone_while_it_is_off() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M"]);
    case.domain.write("vda", 1, 0, MIB);
    case.backs_up(&[], DISKS);
    for place in ["marked", "job-begun", "copied", "committed"] {
        case.domain.write("vda", 2, MIB, 65536);
        spawn_with(&case, &["-l", "inc"], &format!("{place}=kill")).wait().ends_with(137);
        case.domain.stop();
        backs_up(&case, &["-l", "inc"], DISKS);
        assert_eq!(bitmaps(&case, "vda").len(), case.checkpoints().len() + 1, "{place}");
        case.domain.start();
    }
}

#[test]
fn a_domain_started_before_its_images_are_open_fails_the_run_only() {
    let lab = Lab::up();
    let case = new_case(&lab);
    for place in ["intent-written", "marked", "name-freed", "checkpoint-told", "recording"] {
        let before = case.checkpoints();
        change(&case, 1);
        let mut planned = spawn_with(&case, &["-l", "inc"], &format!("{place}=stop"));
        planned.stops();
        case.domain.start();
        case.domain.write("vda", 0x66, 2 * MIB, 65536);
        planned.signal("CONT");
        planned.wait().ends_with(1).says(&["domain d was started meanwhile", "hint: run it again"]);
        assert_eq!(state(&lab), "paused", "{place}: it was touched");
        case.is_as_before(&before.iter().map(String::as_str).collect::<Vec<_>>());
        case.backs_up(&["--strict", "-l", "inc"], DISKS).says(&["vda: inc since"]);
        case.domain.stop();
    }
    // Off again by the time: what it wrote is in the new bitmap, and in the data.
    let mut planned = spawn_with(&case, &["-l", "inc"], "recording=stop");
    planned.stops();
    case.domain.start();
    case.domain.write("vdb", 0x67, 2 * MIB, 65536);
    case.domain.stop();
    let reference = references(&case, DISKS);
    planned.signal("CONT");
    planned.wait().ends_with(0);
    case.restores(&[], DISKS, &reference);
    change(&case, 2);
    backs_up(&case, &["--strict", "-l", "inc"], DISKS).says(&["vdb: inc since"]);
}

#[test]
fn a_domain_cannot_be_started_while_its_images_are_read() {
    let lab = Lab::up();
    let case = new_case(&lab);
    change(&case, 1);
    let reference = references(&case, DISKS);
    let mut reads = spawn_with(&case, &["-l", "inc"], "stream-created=stop");
    reads.stops();
    let refused = lab.command("virsh", &[&"start", &"d", &"--paused"]).ends_with(1);
    assert!(refused.stderr.contains("lock"), "{}", refused.stderr);
    reads.signal("CONT");
    reads.wait().ends_with(0).says(&["it can't be started until that is done"]);
    case.restores(&[], DISKS, &reference);
    leaves_nothing(&case);
    case.domain.start();
    case.domain.write("vda", 0x67, 2 * MIB, 65536);
    case.backs_up(&["--strict", "-l", "inc"], DISKS).says(&["vda: inc since virtnbdbackup.1"]);
    case.domain.stop();

    // One that is killed lets go at once.
    let mut killed = spawn_with(&case, &["-l", "inc"], "stream-created=stop");
    killed.stops();
    assert_eq!(servers(&case).len(), 2);
    killed.signal("KILL");
    killed.wait().ends_with(137);
    servers_end(&case);
    case.domain.start();
    case.backs_up(&["-l", "inc"], DISKS).says(&["did not finish: undoing it", "vda: inc since virtnbdbackup.2"]);
}

#[test]
fn a_signal_undoes_the_run() {
    let lab = Lab::up();
    let case = new_case(&lab);
    for (place, signal, status) in [("stream-created", "TERM", 143), ("marked", "INT", 130), ("copied", "HUP", 129)] {
        change(&case, 1);
        let before = bitmaps(&case, "vda");
        let mut run = spawn_with(&case, &["-l", "inc"], &format!("{place}=stop"));
        run.stops();
        run.signal(signal);
        run.signal("CONT");
        run.wait().ends_with(status).says(&["undoing the run"]);
        leaves_nothing(&case);
        assert_eq!(bitmaps(&case, "vda"), before);
        backs_up(&case, &["--strict", "-l", "inc"], DISKS).says(&["vda: inc since"]);
    }
}
