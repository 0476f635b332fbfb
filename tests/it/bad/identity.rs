//! What bears the right name and is another thing: disks that changed places, chains that took over,
//! content that went without a trace.

use crate::support::{Case, Lab, MIB, SLOWLY, compare, listing, random_disk, run, spawn, virtkeep};

#[test]
fn a_disk_cut_and_grown_again_has_lost_its_end() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 8 * MIB);
    case.backs_up(&[], &["vda"]);
    lab.virsh(&[&"blockresize", &"d", &"vda", &"4096"]);
    lab.virsh(&[&"blockresize", &"d", &"vda", &"8192"]);
    case.domain.write("vda", 0xbb, 6 * MIB, MIB);
    // No bitmap knows of it, and the size is as before.
    case.backs_up(&[], &["vda"]).says(&["vda: inc since virtnbdbackup.0"]);
    case.domain.write("vda", 0xcc, 0, MIB);
    case.backs_up(&["-z"], &["vda"]).says(&["vda: inc since virtnbdbackup.1"]);
}

#[test]
fn disks_that_changed_places_are_full() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M", "vdb:8M"]);
    case.domain.write("vda", 0xaa, 0, 4 * MIB);
    case.domain.write("vdb", 0xbb, 0, 4 * MIB);
    case.backs_up(&[], &["vda", "vdb"]);
    case.domain.stop();
    let xml = lab.virsh(&[&"dumpxml", &"--inactive", &"d"]);
    let swapped = xml.replace("d-vda.qcow2", "TMP").replace("d-vdb.qcow2", "d-vda.qcow2").replace("TMP", "d-vdb.qcow2");
    assert_ne!(xml, swapped);
    let file = lab.fresh_directory().join("swapped.xml");
    std::fs::write(&file, swapped).unwrap();
    lab.virsh(&[&"define", &file]);
    case.domain.start();
    case.domain.write("vda", 0xcc, MIB, 65536);
    let references = case.domain.snapshot_references(&["vda", "vdb"]);
    case.backup(&[])
        .succeeds()
        .says(&["vda: full instead of an increment, because its image was", "vdb: full instead"]);
    let out = lab.fresh_directory();
    virtkeep(&[&"restore", &"-n", &"-i", &case.set, &"-o", &out]).succeeds();
    compare(&out.join("d-vdb.qcow2"), "qcow2", &references[0]);
    compare(&out.join("d-vda.qcow2"), "qcow2", &references[1]);
}

#[test]
fn a_chain_that_ended_is_not_continued_on_the_bitmaps_of_its_successor() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    case.backs_up(&[], &["vda"]);
    case.backs_up(&[], &["vda"]);
    let second = lab.fresh_directory().join("second");
    case.backup_to(&second, &[]).succeeds().says(&["ends the chain of checkpoint virtnbdbackup.1", "set"]);
    case.domain.write("vda", 0xbb, 0, MIB);
    case.backup_to(&second, &[]).succeeds();
    // A cluster's restart: the host forgets, the bitmaps stay.
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.1", &"--metadata"]);
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.0", &"--metadata"]);
    case.domain.write("vda", 0xcc, 0, 65536);
    case.backup(&[]).ends_with(1).says(&["another chain took over", "-l full in an empty directory"]);
    case.backup_to(&second, &[]).succeeds().says(&["vda: inc since virtnbdbackup.1"]);
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds();

    // Emptied by hand, but for what does not show, the directory takes a new chain.
    for name in listing(&case.set).into_iter().filter(|name| name != ".virtkeep") {
        let path = case.set.join(name);
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
    case.backs_up(&[], &["vda"]).says(&["vda: full"]);
    case.backs_up(&[], &["vda"]).says(&["vda: inc since virtnbdbackup.0"]);
}

#[test]
fn a_killed_run_is_undone_after_the_domain_was_off() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48)]);
    case.backup(&[]).succeeds();
    case.domain.write("vda", 0xaa, 0, 40 * MIB);
    let mut killed = spawn(&case, &[SLOWLY, "-l", "inc"]);
    killed.copies(&case);
    killed.signal("KILL");
    killed.wait().ends_with(137);
    case.domain.stop();
    // A run that is refused late undoes it all the same, in the images.
    case.backup(&["-i", "vdz"]).ends_with(1).says(&["did not finish: undoing it", "no disk \"vdz\""]);
    case.is_as_before(&["virtnbdbackup.0"]);
    let info = run("qemu-img", &[&"info", &case.domain.image("vda")]).succeeds();
    assert!(!info.stdout.contains("virtnbdbackup.1"), "{}", info.stdout);
    case.domain.start();
    case.domain.write("vda", 0xbb, MIB, 65536);
    let run = case.backs_up(&[], &["vda"]).says(&["vda: inc since virtnbdbackup.0"]);
    assert!(!run.stderr.contains("undoing"), "{}", run.stderr);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1"]);
}
