//! What is the set's own: killed runs, lost checkpoints, bitmaps that are gone or broken.

use super::{Report, findings};
use crate::support::{Case, Lab, MIB, SLOWLY, random_disk, run, spawn};

#[test]
fn a_killed_run_is_shown_and_undone() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48)]);
    case.backs_up(&[], &["vda"]);
    case.looks(0).has("checkpoint virtnbdbackup.0", &["good: vda", "this set, run"]);
    case.domain.write("vda", 0xaa, 0, 32 * MIB);
    let reference = case.domain.snapshot_reference("vda");
    let mut killed = spawn(&case, &[SLOWLY, "-l", "inc"]);
    killed.copies(&case);
    // It would be over before all has been looked at.
    killed.signal("STOP");
    let beside = case.doctor_of(&case.set, &["--json"]).succeeds();
    let beside = Report { table: String::new(), findings: findings(&beside) };
    beside.has("backup job", &["good", "running", "this set"]);
    beside.has("lock of the set", &["process"]);
    beside.has(".vda.scratch", &["in use"]);
    beside.has("checkpoint virtnbdbackup.1", &["goes on"]);
    case.doctor_of(&case.set, &["--repair"]).ends_with(1).says(&["being backed up already", "process"]);
    killed.signal("KILL");
    killed.wait().ends_with(137);

    let report = case.looks(3);
    report.has("run ", &["look", "DID NOT FINISH", "undoes it"]);
    report.has("backup job", &["look", "DEAD", "aborts it"]);
    report.has("checkpoint virtnbdbackup.1", &["look", "left behind", "unfinished run"]);
    report.has(".vda.scratch", &["look", "dead job"]);
    report.has("checkpoint virtnbdbackup.0", &["good"]);
    case.mends(&["did not finish: undoing it", "aborted the backup job", "removed checkpoint virtnbdbackup.1"]);
    case.is_as_before(&["virtnbdbackup.0"]);
    case.backup(&["-l", "inc"]).succeeds().says(&["vda: inc since virtnbdbackup.0"]);
    case.restores(&[], &["vda"], &[reference]);
}

#[test]
fn a_killed_run_whose_checkpoint_is_lost_leaves_a_bitmap() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48), "vdb:4M"]);
    case.backup(&[]).succeeds();
    let lose = || {
        case.domain.write("vda", 0xaa, 0, 32 * MIB);
        let mut killed = spawn(&case, &[SLOWLY, "-l", "inc"]);
        killed.copies(&case);
        killed.signal("KILL");
        killed.wait().ends_with(137);
        lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.1", &"--metadata"]);
    };
    lose();

    // A domain that is off is mended as well.
    case.domain.stop();
    let off = case.looks(3);
    off.has("bitmap virtnbdbackup.1", &["look", "left behind", "vda (good), vdb (good)", "removes it"]);
    off.has("run ", &["DID NOT FINISH", "undoes it"]);
    case.mends(&["removed bitmap virtnbdbackup.1", "vda, vdb", "did not finish: undoing it"]);
    case.domain.start();
    case.is_as_before(&["virtnbdbackup.0"]);

    lose();
    case.looks(3).has("bitmap virtnbdbackup.1", &["look", "left behind", "removes it"]);
    case.mends(&["removed bitmap virtnbdbackup.1", "vda, vdb", "did not finish: undoing it"]);
    case.is_as_before(&["virtnbdbackup.0"]);
    case.domain.write("vdb", 0xbb, 0, MIB);
    let reference = case.domain.snapshot_reference("vdb");

    // The next backup does it by itself.
    lose();
    let next = case.backup(&["-l", "inc"]).succeeds();
    next.says(&["removed bitmap virtnbdbackup.1", "vdb: inc since virtnbdbackup.0"]);
    case.restores(&[], &["vdb"], &[reference]);
    case.looks(0);
}

#[test]
fn lost_checkpoints_are_told_again() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M"]);
    case.backup(&[]).succeeds();
    case.backup(&[]).succeeds();
    lab.virsh(&[
        &"snapshot-create-as",
        &"d",
        &"s",
        &"--disk-only",
        &"--no-metadata",
        &"--diskspec",
        &"vdb,snapshot=no",
    ]);
    case.looks(0).has("checkpoint virtnbdbackup.1", &["good: vda, vdb"]);
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.1", &"--metadata"]);
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.0", &"--metadata"]);
    for name in ["bitmap virtnbdbackup.0", "bitmap virtnbdbackup.1"] {
        case.looks(3)
            .has(name, &["look", "lost its checkpoint", "vda (good), vdb (good)", "tells libvirt of it again"]);
    }
    case.mends(&["Redefine missing checkpoint virtnbdbackup.0", "Redefine missing checkpoint virtnbdbackup.1"]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1"]);

    // Without the saved XML nobody can say on which disks it was.
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.1", &"--metadata"]);
    std::fs::remove_file(case.set.join("checkpoints/virtnbdbackup.1.xml")).unwrap();
    let report = case.looks(3);
    report.has("bitmap virtnbdbackup.1", &["look", "can't be told again", "block-dirty-bitmap-remove"]);
    case.mends_nothing();
    report.follow("bitmap virtnbdbackup.1");
    // QEMU has the image below the overlay open for reading.
    let below = case.looks(0);
    below.has("bitmap virtnbdbackup.1", &["note", "vda (only below an overlay)", "once the domain is off"]);
    case.domain.stop();
    below.follow("bitmap virtnbdbackup.1");
    case.looks(0).has_not("bitmap virtnbdbackup.1");
    case.domain.start();
    case.backup(&["-l", "inc"]).succeeds().says(&["vdb: inc since virtnbdbackup.0"]);
}

#[test]
fn checkpoints_without_good_bitmaps_are_removed() {
    useless_checkpoints(false);
}

#[test]
fn checkpoints_without_good_bitmaps_are_removed_while_the_domain_is_off() {
    useless_checkpoints(true);
}

fn useless_checkpoints(while_off: bool) {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M"]);
    let disks = &["vda", "vdb"];
    case.domain.write("vda", 0xaa, 0, MIB);
    case.backs_up(&[], disks);
    case.domain.stop();
    let remove = |disk: &str| {
        run("qemu-img", &[&"bitmap", &"--remove", &case.domain.image(disk), &"virtnbdbackup.0"]).succeeds();
    };
    remove("vdb");
    case.looks(0).has("checkpoint virtnbdbackup.0", &["note", "good: vda; missing: vdb"]);
    case.domain.start();
    // It still serves the other disk.
    case.looks(0).has("checkpoint virtnbdbackup.0", &["note", "good: vda; missing: vdb"]);
    case.domain.stop();
    remove("vda");
    case.looks(3).has("checkpoint virtnbdbackup.0", &["look", "USELESS", "missing: vda; missing: vdb"]);
    case.mends(&["removed checkpoint virtnbdbackup.0"]);
    assert_eq!(case.checkpoints(), [""; 0]);
    case.looks(0).has("next backup", &["virtnbdbackup.0 is gone"]);
    case.domain.start();
    case.backs_up(&[], disks).says(&["vda: full instead of an increment"]);

    // Stored once, then open when QEMU dies: broken for ever.
    case.domain.stop();
    case.domain.start();
    case.backs_up(&[], disks);
    case.domain.kill();
    let off = case.looks(3);
    off.has("checkpoint virtnbdbackup.1", &["look", "USELESS", "broken: vda; broken: vdb"]);
    off.has("checkpoint virtnbdbackup.2", &["look", "USELESS", "missing: vda; missing: vdb"]);
    match while_off {
        true => case.mends(&["removed checkpoint virtnbdbackup.1", "removed checkpoint virtnbdbackup.2"]),
        false => {
            case.domain.start();
            case.mends(&["removed checkpoint virtnbdbackup.1", "removed checkpoint virtnbdbackup.2"]);
        }
    }
    let state = lab.virsh(&[&"domstate", &"d"]);
    if while_off {
        assert_eq!(state.trim(), "shut off");
        case.domain.start();
    }
    assert_eq!(case.checkpoints(), [""; 0]);
    case.looks(0).has("bitmaps without a checkpoint", &["none"]);
    case.domain.write("vdb", 0xbb, 0, MIB);
    case.backs_up(&[], disks).says(&["vdb: full instead of an increment"]);
}

#[test]
fn a_marker_in_libvirts_list_is_forgotten() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.backup(&[]).succeeds();
    // As left by a run that was killed in the moment when libvirt knew it.
    let marker = "virtkeep.11111111-2222-3333-4444-555555555555";
    lab.virsh(&[&"checkpoint-create-as", &"d", &marker]);
    case.looks(3).has(&format!("checkpoint {marker}"), &["look", "makes libvirt forget it"]);
    case.mends(&[]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0"]);
    case.looks(0).has(&format!("bitmap {marker}"), &["note", "marker", "another set"]);
    case.backs_up(&["-l", "inc"], &["vda"]);
}
