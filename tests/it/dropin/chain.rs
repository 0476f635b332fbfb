//! Chains made under the name of virtnbdbackup: same files, and right to the byte.

use super::{back_up, restore};
use crate::support::{Case, KIB, Lab, MIB, compare, listing, run, virtkeep};

const DISKS: [&str; 2] = ["vda:16M", "vdb:5243392"];
const TARGETS: [&str; 2] = ["vda", "vdb"];

/// The names in a set, without what virtnbdbackup does not have and without the times of logs.
fn names(case: &Case<'_>) -> Vec<String> {
    let mut names: Vec<String> = listing(&case.set)
        .into_iter()
        .filter(|name| !name.starts_with("manifest.") && name != ".virtkeep")
        .map(|name| match name.strip_suffix(".log") {
            // backup.LEVEL.TIME.log
            Some(log) => log.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned() + "TIME.log",
            None => name,
        })
        .collect();
    names.sort();
    names
}

#[test]
fn a_chain_has_the_files_of_virtnbdbackup_and_restores_right() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &DISKS);
    case.domain.write("vda", 0x11, 0, 3 * MIB);
    case.domain.write("vdb", 0x12, 5 * MIB - 512, KIB);
    let first = case.domain.snapshot_references(&TARGETS);
    back_up(&case, "full", &[]).succeeds();
    let mut expected = vec![
        "backup.full.TIME.log",
        "checkpoints",
        "d.cpt",
        "vda.full.data",
        "vda.full.data.chksum",
        "vda.virtnbdbackup.0.qcow.json",
        "vdb.full.data",
        "vdb.full.data.chksum",
        "vdb.virtnbdbackup.0.qcow.json",
        "vmconfig.virtnbdbackup.0.xml",
    ];
    assert_eq!(names(&case), expected);
    assert_eq!(listing(&case.set.join("checkpoints")), ["virtnbdbackup.0.xml"]);

    case.domain.write("vda", 0x21, MIB, MIB + 512);
    let second = case.domain.snapshot_references(&TARGETS);
    // In another spelling.
    back_up(&case, "auto", &["--compr", "9", "--work=1"]).succeeds().says(&["executing incremental backup."]);
    expected.extend([
        "backup.auto.TIME.log",
        "vda.inc.virtnbdbackup.1.data",
        "vda.inc.virtnbdbackup.1.data.chksum",
        "vda.virtnbdbackup.1.qcow.json",
        "vdb.inc.virtnbdbackup.1.data",
        "vdb.inc.virtnbdbackup.1.data.chksum",
        "vdb.virtnbdbackup.1.qcow.json",
        "vmconfig.virtnbdbackup.1.xml",
    ]);
    expected.sort_unstable();
    assert_eq!(names(&case), expected);
    case.no_traces();
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1"]);

    // virtkeep itself, the drop-in and Debian's virtnbdrestore all restore it.
    case.restores(&[], &TARGETS, &second);
    for (until, references) in [(None, &second), (Some("virtnbdbackup.0"), &first)] {
        let out = lab.fresh_directory().join("out");
        let mut options: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-i", &case.set, &"-o", &out];
        if let Some(until) = &until {
            options.extend([&"-u" as &dyn AsRef<std::ffi::OsStr>, until]);
        }
        restore(&lab, &options).succeeds();
        for (target, reference) in TARGETS.iter().zip(references) {
            compare(&out.join(format!("d-{target}.qcow2")), "qcow2", reference);
        }
    }
    // As far as it can: zeroes in an increment are not for it.
    let (out, uri) = (lab.fresh_directory(), lab.uri());
    for target in TARGETS {
        let (socket, log) = (out.join("sock"), out.join("log"));
        run(
            "virtnbdrestore",
            &[&"-U", &uri, &"-n", &"-f", &socket, &"-L", &log, &"-i", &case.set, &"-o", &out, &"-d", &target],
        )
        .succeeds();
    }
    for (target, reference) in TARGETS.iter().zip(&second) {
        compare(&out.join(format!("d-{target}.qcow2")), "qcow2", reference);
    }
    case.domain.write_zeroes("vda", 0, 64 * KIB, false);
    back_up(&case, "inc", &[]).succeeds();
    case.restores(&[], &TARGETS, &case.domain.snapshot_references(&TARGETS));
}

#[test]
fn own_and_drop_in_runs_continue_each_other() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &DISKS[..1]);
    case.domain.write("vda", 1, 0, MIB);
    case.backup(&["-l", "full"]).succeeds();
    case.domain.write("vda", 2, MIB, MIB);
    back_up(&case, "inc", &[]).succeeds();
    case.domain.write("vda", 3, 2 * MIB, MIB);
    case.backs_up(&["-l", "inc"], &["vda"]);
}

/// The owner's umask decides on permissions, as ever.
#[test]
fn permissions_are_those_of_virtnbdbackup() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &DISKS[..1]);
    let program = super::link(lab.directory(), "virtnbdbackup");
    let command = format!(
        "umask 027 && exec {} -U '{}' -n --scratchdir {} -d d -l full -o {}",
        program.display(),
        lab.uri(),
        lab.scratch().display(),
        case.set.display()
    );
    run("sh", &[&"-c", &command]).succeeds();
    for name in listing(&case.set).iter().filter(|name| case.set.join(name).is_file()) {
        let mode = case.set.join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640, "{name}");
    }
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds();
}

/// As virtnbdbackup does it: without a checkpoint. Its increment overwrites the one of that name; ours is called
/// like a diff.
#[test]
fn stopped_domains_are_copied() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &DISKS[..1]);
    case.domain.write("vda", 1, 0, MIB);
    back_up(&case, "full", &[]).succeeds();
    case.domain.write("vda", 2, MIB, MIB);
    let reference = case.domain.snapshot_reference("vda");
    case.domain.stop();
    back_up(&case, "inc", &[]).succeeds().says(&["Offline backup, using latest checkpoint, saving only delta."]);
    case.restores(&[], &["vda"], std::slice::from_ref(&reference));
    let other = Case { set: lab.directory().join("other"), ..Case::new(&lab, "unused", &["vda:1M"]) };
    let other = Case { domain: crate::support::TestDomain::known(&lab, "d"), ..other };
    back_up(&other, "full", &[]).succeeds().says(&["Domain is offline, resetting backup options.", "[copy]"]);
    assert!(listing(&other.set).contains(&"vda.copy.data".to_owned()));
    other.restores(&[], &["vda"], &[reference]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0"]);
    // What was begun goes on when it runs again.
    case.domain.start();
    back_up(&case, "inc", &[]).succeeds();
    case.restores(&[], &["vda"], &[case.domain.snapshot_reference("vda")]);
}

/// A run that is killed is undone by the next one: scratch files are told by their names here, too.
#[test]
fn a_killed_run_is_undone() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &DISKS[..1]);
    case.domain.write("vda", 1, 0, MIB);
    back_up(&case, "full", &[]).succeeds();
    case.domain.write("vda", 2, MIB, MIB);
    let program = super::link(lab.directory(), "virtnbdbackup");
    let mut command = std::process::Command::new(program);
    command.env("VIRTKEEP_FAULT", "stream-written=kill").args(["-U", &lab.uri(), "-n", "-d", "d", "-l", "inc"]);
    command.arg("--scratchdir").arg(lab.scratch()).arg("-o").arg(&case.set);
    assert!(!command.output().unwrap().status.success());
    let left = listing(&lab.scratch());
    assert!(left.iter().any(|name| name.starts_with("backup.") && name.ends_with(".vda")), "{left:?}");
    back_up(&case, "inc", &[]).succeeds();
    case.no_traces();
    case.restores(&[], &["vda"], &case.domain.snapshot_references(&["vda"]));
}
