//! What the host lost or changed between two runs: checkpoints, bitmaps, disks, sizes.

use crate::support::{Case, Lab, MIB, compare, listing, run, virtkeep};

#[test]
fn forgotten_checkpoints_are_told_again() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 4 * MIB);
    case.backs_up(&[], &["vda"]);
    case.domain.write("vda", 0xbb, 0, 65536);
    case.backs_up(&[], &["vda"]);
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.1", &"--metadata"]);
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.0", &"--metadata"]);
    case.domain.write("vda", 0xcc, 65536, 65536);
    case.backs_up(&[], &["vda"]).says(&["vda: inc since virtnbdbackup.1"]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1", "virtnbdbackup.2"]);

    // The saved XML is lost as well: the bitmaps can't be trusted by name alone.
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.2", &"--metadata"]);
    std::fs::remove_file(case.set.join("checkpoints/virtnbdbackup.2.xml")).unwrap();
    // An older base holds the whole delta.
    case.domain.write("vda", 0xcd, MIB, 4096);
    let reference = case.domain.snapshot_reference("vda");
    let run = case.backup(&["-l", "inc"]).succeeds();
    run.says(&["virtnbdbackup.2 is unknown to libvirt", "vda: inc since virtnbdbackup.1"]);
    case.no_traces();
    let out = lab.fresh_directory();
    virtkeep(&[&"restore", &"-n", &"-i", &case.set, &"-o", &out]).succeeds();
    compare(&out.join("d-vda.qcow2"), "qcow2", &reference);
}

#[test]
fn a_bitmap_lost_on_one_disk_makes_that_disk_full() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M", "vdb:8M"]);
    let disks = &["vda", "vdb"];
    case.domain.write("vda", 0xaa, 0, 2 * MIB);
    case.domain.write("vdb", 0xbb, MIB, 2 * MIB);
    case.backs_up(&[], disks);
    case.domain.write("vda", 0xab, 0, 65536);
    case.backs_up(&[], disks);
    case.domain.stop();
    run("qemu-img", &[&"bitmap", &"--remove", &case.domain.image("vdb"), &"virtnbdbackup.1"]).succeeds();
    run("qemu-img", &[&"bitmap", &"--remove", &case.domain.image("vdb"), &"virtnbdbackup.0"]).succeeds();
    case.domain.start();
    case.domain.write("vda", 0xac, 65536, 65536);
    case.domain.write("vdb", 0xbc, 0, 65536);
    case.backs_up(&[], disks).says(&[
        "vdb: full instead of an increment, because its bitmap virtnbdbackup.1 is missing",
        "vda: inc since virtnbdbackup.1",
    ]);
    let names = listing(&case.set);
    assert!(names.contains(&"vda.inc.virtnbdbackup.2.data".to_owned()), "{names:?}");
    assert!(names.contains(&"vdb.inc.virtnbdbackup.2.data".to_owned()), "{names:?}");
    // From here on both are increments again, and `--strict` has nothing to say.
    case.domain.write("vdb", 0xbd, 4 * MIB, 65536);
    case.backs_up(&["--strict"], disks).says(&["vdb: inc since virtnbdbackup.2"]);
}

#[test]
fn bitmaps_lost_with_qemu_make_the_next_run_full() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 2 * MIB);
    case.backs_up(&[], &["vda"]);
    case.domain.write("vda", 0xab, 0, 65536);
    case.backs_up(&[], &["vda"]);
    case.domain.kill();
    case.domain.start();
    case.domain.write("vda", 0xac, MIB, 65536);
    case.backs_up(&[], &["vda"]).says(&["vda: full instead of an increment"]);
    case.domain.write("vda", 0xad, MIB, 65536);
    case.backs_up(&["-l", "inc"], &["vda"]).says(&["vda: inc since virtnbdbackup.2"]);
}

#[test]
fn disks_that_come_and_grow_in_mid_chain() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let other = lab.domain("other", &["vda:6M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    case.backs_up(&[], &["vda"]);

    let image = other.image("vda");
    other.stop();
    lab.virsh(&[
        &"attach-disk",
        &"d",
        &image,
        &"vdb",
        &"--subdriver",
        &"qcow2",
        &"--targetbus",
        &"virtio",
        &"--persistent",
    ]);
    case.domain.write("vdb", 0xbb, 0, MIB);
    case.domain.write("vda", 0xab, 0, 4096);
    case.backs_up(&[], &["vda", "vdb"]).says(&[
        "vdb: full instead of an increment",
        "new to the chain",
        "vda: inc since",
    ]);
    let names = listing(&case.set);
    assert!(names.contains(&"vdb.full.data".to_owned()), "{names:?}");

    lab.virsh(&[&"blockresize", &"d", &"vda", &"7M"]);
    case.domain.write("vda", 0xac, 6 * MIB, MIB);
    case.domain.write("vdb", 0xbc, 4096, 4096);
    case.backs_up(&[], &["vda", "vdb"]).says(&["vda: full instead of an increment", "size changed", "vdb: inc since"]);
    case.domain.write("vda", 0xad, 5 * MIB, 4096);
    case.backs_up(&[], &["vda", "vdb"]).says(&["vda: inc since virtnbdbackup.2"]);
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds();

    // A disk that goes stays in the old points.
    lab.virsh(&[&"detach-disk", &"d", &"vdb", &"--persistent"]);
    case.backs_up(&[], &["vda"]);
}
