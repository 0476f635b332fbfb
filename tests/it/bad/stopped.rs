//! Domains that are off, and disks that can't be backed up.

use std::time::{Duration, Instant};

use crate::support::{Case, Lab, MIB, SLOWLY, random_disk, run, spawn};

#[test]
fn a_stopped_domain_is_started_only_where_asked() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 4 * MIB);
    let reference = case.domain.snapshot_reference("vda");
    case.domain.stop();
    let copy = lab.fresh_directory().join("copy");
    case.backup_to(&copy, &["-l", "copy"]).succeeds().says(&["domain d is off: its images are read"]);
    assert_eq!(state(&lab), "shut off");

    case.backup(&["-S", "-l", "inc"]).ends_with(1).says(&["No full backup"]);
    assert_eq!(state(&lab), "shut off", "a refused run left the domain on");
    case.backup(&["-S"]).succeeds();
    assert_eq!(state(&lab), "shut off");
    case.restores(&[], &["vda"], std::slice::from_ref(&reference));
    case.no_traces();
    case.backup(&["-S", "-l", "inc"]).succeeds().says(&["vda: inc since virtnbdbackup.0"]);
    assert_eq!(state(&lab), "shut off");
    case.restores(&[], &["vda"], &[reference]);

    // A domain that runs is left as it is.
    case.domain.start();
    case.backup(&["-S", "-l", "inc"]).succeeds();
    assert_eq!(state(&lab), "paused");
    case.no_traces();
}

#[test]
fn a_domain_resumed_during_its_backup_is_left_running() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48)]);
    case.domain.stop();
    let child = spawn(&case, &["-S", SLOWLY]);
    let begin = Instant::now();
    while lab.command("virsh", &[&"resume", &"d"]).status != 0 {
        assert!(begin.elapsed() < Duration::from_secs(20), "the domain does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait().succeeds().says(&["resumed"]);
    assert_eq!(state(&lab), "running");
    case.no_traces();
}

fn state(lab: &Lab) -> String {
    lab.virsh(&[&"domstate", &"d"]).trim().to_owned()
}

#[test]
fn disks_that_cannot_be_backed_up_are_skipped_with_reason() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:1M:raw", "hda:1M:cdrom", "fda:1440K", "vdc:1M:readonly"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let reference = case.domain.snapshot_reference("vda");
    // Disks with data are not in the backup: look.
    let run = case.backup(&[]).ends_with(3);
    case.restores(&[], &["vda"], &[reference]);
    let run = run.says(&[
        "Excluding disk [vdb]",
        "raw",
        "Excluding disk [hda]",
        "Excluding disk [fda]",
        "Excluding disk [vdc]",
    ]);
    for line in run.stderr.lines().filter(|line| line.contains("[vdb]")) {
        assert!(line.contains("warning: "), "a disk with data is missing, and nobody is warned: {line}");
    }
    case.backup(&["-i", "vda,vdb"]).ends_with(3).says(&["[vdb]"]);
    case.backup(&["--strict"]).ends_with(3).says(&["[vdb]"]);
    case.backup(&["--strict", "-x", "vdb,vdc"]).succeeds();
    case.backup(&["-i", "vdb"]).ends_with(1).says(&["[vdb]", "no disk to back up"]);
    case.no_traces();
    case.backup(&["--strict", "--quiet", "-x", "vdb,vdc"]).succeeds();
}

#[test]
fn warnings_say_what_to_do() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:1M:raw"]);
    let said = case.backup(&["-l", "copy", "--quiet"]).ends_with(3);
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    assert!(said.stderr.contains("vdb") && said.stderr.contains("qcow2"), "{}", said.stderr);
    assert_eq!(said.stdout, "");
}

#[test]
fn images_of_version_2_are_told_before_the_guest_is_touched() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M:compat=0.10", "vdb:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    case.domain.write("vdb", 0xbb, MIB, MIB);
    let reference = case.domain.snapshot_references(&["vda", "vdb"]);
    case.backup(&["-i", "vda"]).ends_with(1).says(&["Excluding disk [vda]", "version 2", "qemu-img amend"]);
    case.is_as_before(&[]);
    case.backup(&["-l", "copy"]).succeeds();
    case.restores(&[], &["vda", "vdb"], &reference);
    std::fs::remove_dir_all(&case.set).unwrap();
    case.backup(&[]).ends_with(3).says(&["Excluding disk [vda]", "version 2"]);
    case.backup(&["-l", "inc", "-x", "vda"]).succeeds();
    // What the message says helps.
    case.domain.stop();
    run("qemu-img", &[&"amend", &"-f", &"qcow2", &"-o", &"compat=1.1", &case.domain.image("vda")]).succeeds();
    case.domain.start();
    case.backs_up(&[], &["vda", "vdb"]).says(&["vda: full instead of an increment"]);
    case.backs_up(&["-l", "inc"], &["vda", "vdb"]).says(&["vda: inc since"]);
}
