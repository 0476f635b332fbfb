//! Zip files that are lost behind the pipe, and what is kept for that.

use super::Piped;
use crate::support::{Lab, MIB, virtkeep};

#[test]
fn a_lost_increment_is_left_out() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:16M"]);
    let domain = &piped.case.domain;
    domain.write("vda", 0x11, 0, 4 * MIB);
    piped.backs_up("full.zip", &[]);
    domain.write("vda", 0x12, MIB, MIB);
    piped.backs_up("inc1.zip", &[]);
    domain.write("vda", 0x13, 2 * MIB, MIB);
    piped.backs_up("lost.zip", &[]);
    std::fs::remove_file(piped.path("lost.zip")).unwrap();
    domain.write("vda", 0x14, 6 * MIB, MIB);
    let references = domain.snapshot_references(&["vda"]);
    let run = piped.backs_up("inc3.zip", &["--base", "virtnbdbackup.1"]);
    run.says(&["vda: inc since virtnbdbackup.1", "checkpoint virtnbdbackup.3"]);
    piped.restores(&["full.zip", "inc1.zip", "inc3.zip"], &[], &["vda"], &references);
    // The chain goes on from there.
    domain.write("vda", 0x15, 8 * MIB, MIB);
    let references = domain.snapshot_references(&["vda"]);
    piped.backs_up("inc4.zip", &[]);
    piped.restores(&["full.zip", "inc1.zip", "inc3.zip", "inc4.zip"], &[], &["vda"], &references);

    piped.send_to("cat", &["--base", "virtnbdbackup.9"]).ends_with(1).says(&["virtnbdbackup.9", "hint: "]);
    piped.send_to("cat", &["--base", "virtnbdbackup.1", "-l", "full"]).ends_with(2).says(&["--base", "hint: "]);
    // One that is gone is not built on, nor is it made a full in silence.
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.1"]);
    let older = piped.backs_up("inc5.zip", &["--base", "virtnbdbackup.1"]);
    older.says(&["warning: ", "since virtnbdbackup.0 instead of", "virtnbdbackup.1"]);
    piped.restores(&["full.zip", "inc5.zip"], &[], &["vda"], &references);
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.0"]);
    piped.send_to("cat", &["--base", "virtnbdbackup.1"]).ends_with(1).says(&["vda", "--base", "hint: "]);
}

/// A full leaves the chain before it, until a run after it succeeds.
#[test]
fn a_lost_full_costs_nothing() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:16M"]);
    let domain = &piped.case.domain;
    let names = |numbers: &[u32]| numbers.iter().map(|number| format!("virtnbdbackup.{number}")).collect::<Vec<_>>();
    domain.write("vda", 0x11, 0, 4 * MIB);
    piped.backs_up("full0.zip", &[]);
    domain.write("vda", 0x12, MIB, MIB);
    piped.backs_up("inc1.zip", &[]);
    domain.write("vda", 0x13, 2 * MIB, MIB);
    piped.backs_up("lost.zip", &["-l", "full"]);
    assert_eq!(piped.case.checkpoints(), names(&[0, 1, 2]));
    domain.write("vda", 0x14, 3 * MIB, MIB);
    let references = domain.snapshot_references(&["vda"]);
    piped.backs_up("inc3.zip", &["--base", "virtnbdbackup.1"]);
    assert_eq!(piped.case.checkpoints(), names(&[0, 1, 2, 3]));
    piped.restores(&["full0.zip", "inc1.zip", "inc3.zip"], &[], &["vda"], &references);
    domain.write("vda", 0x15, 4 * MIB, MIB);
    let references = domain.snapshot_references(&["vda"]);
    piped.backs_up("inc4.zip", &[]);
    assert_eq!(piped.case.checkpoints(), names(&[0, 1, 3, 4]), "what nothing builds on goes");
    piped.restores(&["full0.zip", "inc1.zip", "inc3.zip", "inc4.zip"], &[], &["vda"], &references);

    // And one that is not lost.
    piped.backs_up("full5.zip", &["-l", "full"]);
    assert_eq!(piped.case.checkpoints(), names(&[0, 1, 3, 4, 5]));
    domain.write("vda", 0x16, 5 * MIB, MIB);
    let references = domain.snapshot_references(&["vda"]);
    piped.backs_up("inc6.zip", &[]);
    assert_eq!(piped.case.checkpoints(), names(&[5, 6]));
    piped.restores(&["full5.zip", "inc6.zip"], &[], &["vda"], &references);
    piped.backs_up("full7.zip", &["-l", "full"]);
    piped.backs_up("full8.zip", &["-l", "full"]);
    assert_eq!(piped.case.checkpoints(), names(&[7, 8]));
    // Two fulls are two chains.
    let both = format!("{},{}", piped.path("full7.zip").display(), piped.path("full8.zip").display());
    virtkeep(&[&"dump", &"-i", &both]).ends_with(2).says(&["vda.full.data", "hint: "]);
    markers(&piped, 2);
}

/// Fails the test unless the image has that many markers, and no more.
#[track_caller]
fn markers(piped: &Piped<'_>, expected: usize) {
    piped.case.domain.stop();
    let image = piped.case.domain.image("vda");
    let info = crate::support::run("qemu-img", &[&"info", &"--output=json", &image]).succeeds().stdout;
    assert_eq!(info.matches("\"virtkeep.").count(), expected, "{info}");
}

/// The same of a chain in a directory.
#[test]
fn a_chain_in_a_directory_is_replaced_by_the_second_success() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:8M"]);
    let (case, domain) = (&piped.case, &piped.case.domain);
    let set = lab.fresh_directory().join("set");
    domain.write("vda", 0x11, 0, MIB);
    case.backup_to(&set, &[]).succeeds();
    case.backup_to(&set, &[]).succeeds();
    let whose = |set: &std::path::Path| format!("in {})", set.display());
    piped.backs_up("full.zip", &[]).says(&[
        "the chain of checkpoint virtnbdbackup.1 (virtkeep run ",
        &format!("{} ends with the next run", whose(&set)),
    ]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1", "virtnbdbackup.2"]);
    case.backup_to(&set, &[]).ends_with(1).says(&["another chain", "hint: "]);
    domain.write("vda", 0x12, MIB, MIB);
    let references = domain.snapshot_references(&["vda"]);
    let run = piped.backs_up("inc.zip", &[]);
    run.says(&["this run ends the chain of checkpoint virtnbdbackup.1 (", &format!("{}, which", whose(&set))]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.2", "virtnbdbackup.3"]);
    piped.restores(&["full.zip", "inc.zip"], &[], &["vda"], &references);
    assert!(set.join(".virtkeep/ended").exists());
    // And the other way round.
    let other = lab.fresh_directory().join("set");
    let run = case.backup_to(&other, &["--strict"]).succeeds();
    run.says(&["this full backup ends the chain of checkpoint virtnbdbackup.3 (", &whose(&case.set)]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0"]);
    piped.send_to("cat", &[]).ends_with(1).says(&["another chain", "hint: "]);
}

/// In a directory it is the same option.
#[test]
fn an_increment_of_a_directory_set_is_left_out() {
    let lab = Lab::up();
    let case = crate::support::Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0x11, 0, 4 * MIB);
    case.backup(&[]).succeeds();
    case.domain.write("vda", 0x12, MIB, MIB);
    case.backup(&[]).succeeds();
    std::fs::remove_file(case.set.join("vda.inc.virtnbdbackup.1.data")).unwrap();
    for options in [&["-l", "inc"][..], &["-l", "inc", "-p"], &["-p"]] {
        let run = case.backup(options).ends_with(4);
        run.says(&["vda.inc.virtnbdbackup.1.data", "missing: nothing can build on it", "hint: "]);
    }
    case.backup(&["--base", "virtnbdbackup.0", "-p"]).succeeds();
    case.domain.write("vda", 0x13, 2 * MIB, MIB);
    let reference = case.domain.snapshot_reference("vda");
    case.backup(&["--base", "virtnbdbackup.0"]).succeeds().says(&["vda: inc since virtnbdbackup.0"]);
    let out = lab.fresh_directory();
    virtkeep(&[&"restore", &"-n", &"-i", &case.set, &"-o", &out]).succeeds();
    crate::support::compare(&out.join("d-vda.qcow2"), "qcow2", &reference);
}
