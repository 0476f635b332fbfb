//! Content that went back in time: internal snapshots, older copies of an image.

use super::chain;
use crate::bad::{Case, MIB};
use crate::support::{Lab, run};

/// QEMU refuses to go back while a disk has bitmaps. Where libvirt tries all the same, QEMU ends, and
/// takes the bitmaps with it.
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
    println!("loadvm: {said}");
    case.backs_up(&[], &["vda"]);
    for options in [&["--force"][..], &["--paused"], &[]] {
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"snapshot-revert", &"d", &"s"];
        arguments.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
        println!("revert: {:?}", lab.command("virsh", &arguments));
        if lab.virsh(&[&"domstate", &"d"]).trim() == "shut off" {
            case.domain.start();
        }
        case.domain.write("vda", 0xb3, 5 * MIB, 65536);
        println!("{}", case.backs_up(&[], &["vda"]).stderr);
    }
    // Nor with the domain off, whoever tries.
    case.domain.stop();
    println!("qemu-img: {:?}", run("qemu-img", &[&"snapshot", &"-a", &"s", &case.domain.image("vda")]));
    case.domain.start();
    case.domain.write("vda", 0xb4, 6 * MIB, 65536);
    println!("{}", case.backs_up(&[], &["vda"]).stderr);
    // Without its bitmaps it goes, and nothing is left to build on.
    case.domain.stop();
    for name in case.checkpoints() {
        run("qemu-img", &[&"bitmap", &"--remove", &case.domain.image("vda"), &name]);
    }
    run("qemu-img", &[&"snapshot", &"-a", &"s", &case.domain.image("vda")]).succeeds();
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
    let second = Case { set: case.set.with_file_name("second"), ..case };
    second.backs_up(&[], &["vda"]).says(&["ends the chain"]);
    second.domain.stop();
    second.put_back("vda", &kept);
    second.domain.start();
    second.domain.write("vda", 0xb1, 2 * MIB, 65536);
    println!("{}", second.backs_up(&[], &["vda"]).stderr);
}
