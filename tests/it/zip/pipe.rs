//! What comes out of the pipe, and readers that are slow or die.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Piped;
use crate::support::{CACHE, CONFIG, KIB, Lab, MIB, listing, program, run, virtkeep};

const DISKS: [&str; 2] = ["vda:24M", "vdb:5243392"];
const TARGETS: [&str; 2] = ["vda", "vdb"];

#[test]
fn chains_of_zip_files_are_restored() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &DISKS);
    let domain = &piped.case.domain;
    domain.write("vda", 0x11, 0, 9 * MIB);
    domain.write("vdb", 0x12, 5 * MIB - 512, KIB);
    let mut points = Vec::new();
    let zips = ["full.zip", "inc 1.zip", "inc2.zip", "diff.zip"];
    for (name, options) in zips.into_iter().zip([&[][..], &["-z"], &["-w", "4"], &["-l", "diff"]]) {
        points.push(domain.snapshot_references(&TARGETS));
        let quoted = format!("'{name}'");
        let said = piped.send_to(&format!("cat >{quoted}"), options).succeeds();
        assert_eq!(said.stdout, "", "the reader printed something");
        piped.unzip_tests(name);
        piped.case.no_traces();
        let place = points.len() as u64 * 2 * MIB;
        domain.write("vda", 0x20 + points.len() as u8, place, MIB + 1536);
        domain.write_zeroes("vda", MIB + points.len() as u64 * 128 * KIB, 64 * KIB, true);
        domain.discard("vda", place + 64 * KIB, 128 * KIB);
        domain.write("vdb", 0x30, points.len() as u64 * 512 * KIB + 512, 70 * KIB);
    }
    assert_eq!(piped.case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1", "virtnbdbackup.2"]);
    let records = listing(&piped.case.set);
    assert!(records.iter().all(|name| !name.contains("data")), "data in the records: {records:?}");

    for (number, references) in points.iter().enumerate().take(3) {
        let until = format!("virtnbdbackup.{number}");
        piped.restores(&zips, &["-u", &until], &TARGETS, references);
        piped.restores(&zips[..=number], &[], &TARGETS, references);
    }
    piped.restores(&["diff.zip", "inc2.zip", "full.zip", "inc 1.zip"], &[], &TARGETS, &points[3]);
    // One without its base.
    let gap = virtkeep(&[&"restore", &"-n", &"-i", &piped.path("inc2.zip"), &"-o", &piped.path("out")]);
    gap.ends_with(4).says(&["virtnbdbackup.1", "hint: "]);

    // The streams alone, too.
    let (raw, input) = (piped.path("vda.raw"), piped.path("full.zip"));
    let sequence = [&"restore" as &dyn AsRef<std::ffi::OsStr>, &"-n", &"-i", &input, &"-s", &"vda.full.data"];
    virtkeep(&[&sequence[..], &[&"-o", &raw, &"--format=raw"]].concat()).succeeds();
    crate::support::compare(&raw, "raw", &points[0][0]);

    // Taken apart they are a set in a directory, also for virtnbdrestore: the full and an increment without zeroes.
    let set = piped.path("set");
    for zip in &zips[..3] {
        run("unzip", &[&"-qo", &piped.path(zip), &"-d", &set]).succeeds();
    }
    virtkeep(&[&"verify", &"-n", &"-i", &set]).succeeds();
    let full = piped.path("foreign");
    run("unzip", &[&"-q", &piped.path("full.zip"), &"-d", &full]).succeeds();
    for target in TARGETS {
        let out = lab.fresh_directory();
        let (uri, socket, log) = (lab.uri(), out.join("sock"), out.join("log"));
        run(
            "virtnbdrestore",
            &[&"-U", &uri, &"-n", &"-f", &socket, &"-L", &log, &"-i", &full, &"-o", &out, &"-d", &target],
        )
        .succeeds();
        let reference = &points[0][usize::from(target == "vdb")];
        crate::support::compare(&out.join(format!("d-{target}.qcow2")), "qcow2", reference);
    }
}

/// Into a file it goes without a pipe, and a copy leaves the chain alone.
#[test]
fn files_and_copies() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:8M"]);
    piped.case.domain.write("vda", 0x11, 0, 3 * MIB);
    let references = piped.case.domain.snapshot_references(&["vda"]);
    let script = "cd \"$1\"; shift; exec \"$@\" >copy.zip";
    let program = program();
    let arguments = piped.case.arguments(Path::new("-"), &["-l", "copy"]);
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-c", &script, &"sh", &piped.work, &program];
    all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<std::ffi::OsStr>));
    run("sh", &all).succeeds();
    piped.unzip_tests("copy.zip");
    piped.restores(&["copy.zip"], &[], &["vda"], &references);
    piped.case.is_as_before(&[]);
    piped.backs_up("full.zip", &[]);
    piped.backs_up("another.zip", &["-l", "copy"]);
    piped.case.is_as_before(&["virtnbdbackup.0"]);
    piped.restores(&["another.zip"], &[], &["vda"], &references);

    // Nothing to do is a zip file without members.
    piped.send_to("cat >empty.zip", &["-T", "1G"]).succeeds().says(&["threshold"]);
    piped.restores(&["full.zip", "empty.zip"], &[], &["vda"], &references);
    piped.case.is_as_before(&["virtnbdbackup.0"]);

    // A reader that takes its time is waited for.
    piped.case.domain.write("vda", 0x12, MIB, MIB);
    let references = piped.case.domain.snapshot_references(&["vda"]);
    piped.send_to("sleep 1; head -c 100000 >slow.zip; sleep 1; cat >>slow.zip", &[]).succeeds();
    piped.restores(&["full.zip", "slow.zip"], &[], &["vda"], &references);
}

/// The run fails, its checkpoint goes, and the next increment is right.
#[test]
fn readers_that_die() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:24M"]);
    let domain = &piped.case.domain;
    domain.write("vda", 0x11, 0, 9 * MIB);
    for reader in ["head -c 100000 >/dev/null", "exec true"] {
        piped.send_to(reader, &[]).ends_with(1).says(&["standard output", "hint: ", "undoing"]);
        piped.case.is_as_before(&[]);
    }
    piped.backs_up("full.zip", &[]);
    domain.write("vda", 0x12, 2 * MIB, 64 * KIB);
    // All of it is in the pipe already, and nobody reads the rest.
    piped.send_to("sleep 5; head -c 500 >/dev/null", &[]).ends_with(1).says(&["standard output", "hint: "]);
    piped.case.is_as_before(&["virtnbdbackup.0"]);
    domain.write("vda", 0x13, 4 * MIB, 64 * KIB);
    let references = domain.snapshot_references(&["vda"]);
    piped.backs_up("inc.zip", &[]);
    piped.restores(&["full.zip", "inc.zip"], &[], &["vda"], &references);
}

/// A reader that stands still does not keep a signal from undoing the run.
#[test]
fn readers_that_stand_still() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:24M"]);
    piped.case.domain.write("vda", 0x11, 0, 9 * MIB);
    let reader = "sleep 2; kill -TERM $(cat pid); n=0; while [ ! -s status ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n + 1)); done";
    let script = "cd \"$1\"; reader=$2; shift 2
        { sh -c 'echo $$ >pid; exec \"$@\"' sh \"$@\"; echo $? >status; } | sh -c \"$reader\"
        exit $(cat status)";
    let program = program();
    let arguments = piped.case.arguments(Path::new("-"), &[]);
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-c", &script, &"sh", &piped.work, &reader, &program];
    all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<std::ffi::OsStr>));
    run("sh", &all).ends_with(143).says(&["interrupted", "undoing"]);
    piped.case.is_as_before(&[]);
    piped.backs_up("full.zip", &[]);
}

/// The same where standard output is a socket; a peer that reads has all of it.
#[test]
fn peers_that_stand_still() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:24M"]);
    piped.case.domain.write("vda", 0x11, 0, 9 * MIB);
    let start = || {
        let (peer, ours) = UnixStream::pair().unwrap();
        let mut command = Command::new(program());
        command.args(piped.case.arguments(Path::new("-"), &[])).current_dir(&piped.work);
        command.env(CACHE.0, CACHE.1).env(CONFIG.0, CONFIG.1).stdin(Stdio::null()).stderr(Stdio::null());
        (peer, command.stdout(OwnedFd::from(ours)).spawn().unwrap())
    };
    let (_still, mut child) = start();
    // What a socket holds is less than the data.
    std::thread::sleep(Duration::from_secs(2));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    piped.case.is_as_before(&[]);

    let (mut peer, mut child) = start();
    let mut file = std::fs::File::create(piped.path("full.zip")).unwrap();
    std::io::copy(&mut peer, &mut file).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    piped.restores(&["full.zip"], &[], &["vda"], &piped.case.domain.snapshot_references(&["vda"]));
}

/// Killed between the last byte and the commit: the run never was.
#[test]
fn a_run_that_dies_before_its_commit() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:8M"]);
    let domain = &piped.case.domain;
    domain.write("vda", 0x11, 0, MIB);
    piped.backs_up("full.zip", &[]);
    for (number, fault) in ["zip-written=kill", "committed=kill", "stream-written=error"].into_iter().enumerate() {
        domain.write("vda", 0x20 + number as u8, number as u64 * MIB, MIB);
        let status = if fault.ends_with("kill") { 137 } else { 1 };
        piped.send_with("cat >dead.zip", &["-l", "inc"], fault).ends_with(status);
        if fault.starts_with("committed") {
            std::fs::rename(piped.path("dead.zip"), piped.path("committed.zip")).unwrap();
        }
    }
    let references = domain.snapshot_references(&["vda"]);
    piped.backs_up("inc.zip", &[]);
    assert_eq!(piped.case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1", "virtnbdbackup.2"]);
    piped.restores(&["full.zip", "committed.zip", "inc.zip"], &[], &["vda"], &references);
}
