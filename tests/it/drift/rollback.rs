//! Content that went back in time: internal snapshots, older copies of an image.

use super::chain;
use crate::support::{Case, Lab, MIB, run, virtkeep};

/// QEMU refuses to go back while a disk has bitmaps. Where libvirt tries all the same, QEMU ends: that of
/// libvirt 9.0 takes the bitmaps with it, that of 11.3 is ended in order and stores them.
#[test]
fn an_internal_snapshot_and_every_way_back() {
    let lab = Lab::up();
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    case.virsh(&["snapshot-create-as", "d", "s"]);
    case.domain.write("vda", 0xb1, 3 * MIB, 65536);
    case.domain.write("vda", 0xb1, 0, 65536);
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.1"]);
    case.domain.write("vda", 0xb2, 65536, 65536);

    let said = case.virsh(&["qemu-monitor-command", "d", "--hmp", "loadvm s"]);
    assert!(said.contains("active dirty bitmaps"), "{said}");
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.2"]);
    for options in [&["--force"][..], &["--paused"], &[]] {
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"snapshot-revert", &"d", &"s"];
        arguments.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
        lab.command("virsh", &arguments).ends_with(1).says(&["active dirty bitmaps"]);
        assert_eq!(lab.virsh(&[&"domstate", &"d"]).trim(), "shut off");
        let base = case.checkpoints().pop().unwrap();
        let stored = case.whole_bitmaps("vda").contains(&base);
        case.domain.start();
        case.domain.write("vda", 0xb3, 5 * MIB, 65536);
        match stored {
            true => case.backs_up(&["--strict"], &["vda"]).says(&[&format!("vda: inc since {base}")]),
            false => case.backs_up(&[], &["vda"]).says(&["vda: full instead of an increment, because "]),
        };
    }
    // Nor with the domain off, whoever tries.
    case.domain.stop();
    let image = case.domain.image("vda");
    run("qemu-img", &[&"snapshot", &"-a", &"s", &image]).ends_with(1).says(&["active dirty bitmaps"]);
    case.domain.start();
    case.domain.write("vda", 0xb4, 6 * MIB, 65536);
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since"]);
    // Without its bitmaps it goes, and nothing is left to build on.
    case.domain.stop();
    for name in case.all_bitmaps("vda") {
        run("qemu-img", &[&"bitmap", &"--remove", &image, &name]).succeeds();
    }
    run("qemu-img", &[&"snapshot", &"-a", &"s", &image]).succeeds();
    case.domain.start();
    case.backs_up(&[], &["vda"]).says(&["vda: full instead of an increment, because its bitmap"]);
    case.domain.write("vda", 0xb5, 6 * MIB, 65536);
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since"]);
}

#[test]
fn an_image_replaced_by_an_older_copy_of_itself() {
    let lab = Lab::up();
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    case.domain.stop();
    let kept = case.keep_image("vda");
    case.domain.start();
    for round in 0..2 {
        case.domain.write("vda", 0xb1 + round, 3 * MIB, 65536);
        case.domain.write("vda", 0xb1 + round, 0, 65536);
        if round == 1 {
            case.backs_up(&[], &["vda"]);
        }
        case.domain.stop();
        case.put_back("vda", &kept);
        case.domain.start();
        case.domain.write("vda", 0xb4, 5 * MIB, 65536);
        // Its bitmaps went back with it.
        case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.1"]);
    }
}

#[test]
fn an_image_replaced_by_a_copy_without_bitmaps() {
    let lab = Lab::up();
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    case.domain.stop();
    let image = case.domain.image("vda");
    let copy = lab.fresh_directory().join("copy");
    case.qemu_img(&[&"convert", &"-O", &"qcow2", &image, &copy]);
    case.put_back("vda", &copy);
    case.domain.start();
    case.backs_up(&[], &["vda"]).says(&["vda: full instead of an increment, because its bitmap"]);
    case.domain.write("vda", 0xb1, 3 * MIB, 65536);
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.2"]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.2", "virtnbdbackup.3"]);
}

/// The bitmaps of two chains bear the same names: that of the old one is not a base of the new one.
#[test]
fn an_image_put_back_from_before_the_chain_began() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xa0, 0, 4 * MIB);
    case.backs_up(&[], &["vda"]);
    case.domain.stop();
    let kept = case.keep_image("vda");
    case.domain.start();
    case.domain.write("vda", 0xb0, MIB, 65536);
    let first = case.set.clone();
    let second = Case { set: case.set.with_file_name("second"), ..case };
    second.backs_up(&[], &["vda"]).says(&["ends the chain"]);
    for forgotten in [false, true] {
        second.domain.write("vda", 0xb1, MIB, 65536);
        second.domain.stop();
        second.put_back("vda", &kept);
        if forgotten {
            for name in second.checkpoints() {
                second.virsh(&["checkpoint-delete", "d", &name, "--metadata"]);
            }
        }
        second.domain.start();
        second.domain.write("vda", 0xb2, 2 * MIB, 65536);
        let full = "vda: full instead of an increment, because ";
        second.backs_up(&[], &["vda"]).says(&[full, if forgotten { "bitmap" } else { "marker of this chain" }]);
        second.domain.write("vda", 0xb3, 3 * MIB, 65536);
        second.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since"]);
    }
    virtkeep(&[&"verify", &"-n", &"-i", &first]).succeeds();
}

/// A chain that was ended without its knowing it, whose checkpoints the host then forgot.
#[test]
fn a_chain_taken_up_again_on_the_bitmaps_of_its_successor() {
    let lab = Lab::up();
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    let first = case.set.clone();
    let away = first.with_file_name("unmounted");
    std::fs::rename(&first, &away).unwrap();
    let second = Case { set: case.set.with_file_name("second"), ..case };
    for round in 0..2 {
        second.domain.write("vda", 0xb0 + round, 2 * MIB, 65536);
        second.backs_up(&[], &["vda"]);
    }
    std::fs::rename(&away, &first).unwrap();
    for name in second.checkpoints() {
        second.virsh(&["checkpoint-delete", "d", &name, "--metadata"]);
    }
    second.domain.write("vda", 0xb2, 3 * MIB, 65536);
    let case = Case { set: first, ..second };
    case.backs_up(&[], &["vda"]).says(&["vda: full instead of an increment, because ", "marker of this chain"]);
}
