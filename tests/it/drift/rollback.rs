//! Content that went back in time: internal snapshots, older copies of an image.

use super::chain;
use crate::bad::{Case, MIB};
use crate::support::{Lab, run};

#[test]
fn an_internal_snapshot_and_every_way_back() {
    let lab = Lab::up();
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    println!("create {:?}", lab.command("virsh", &[&"snapshot-create-as", &"d", &"s"]));
    case.domain.write("vda", 0xb1, 3 * MIB, 65536);
    case.domain.write("vda", 0xb1, 0, 65536);
    println!("{}", case.backs_up(&[], &["vda"]).stderr);
    println!("revert {:?}", lab.command("virsh", &[&"snapshot-revert", &"d", &"s", &"--force"]));
    println!("revert {:?}", lab.command("virsh", &[&"snapshot-revert", &"d", &"s", &"--paused"]));
    println!("{:?}", lab.command("virsh", &[&"domstate", &"d"]));
    println!("loadvm {:?}", lab.command("virsh", &[&"qemu-monitor-command", &"d", &"--hmp", &"loadvm s"]));
    println!("{:?}", lab.command("virsh", &[&"domstate", &"d"]));
    println!("{:?}", lab.command("virsh", &[&"destroy", &"d"]));
    println!("offline {:?}", run("qemu-img", &[&"snapshot", &"-a", &"s", &case.domain.image("vda")]));
    println!("offline {:?}", run("qemu-img", &[&"info", &case.domain.image("vda")]));
    println!("off revert {:?}", lab.command("virsh", &[&"snapshot-revert", &"d", &"s", &"--paused"]));
    println!("off revert {:?}", lab.command("virsh", &[&"snapshot-revert", &"d", &"s", &"--force"]));
    println!("{:?}", lab.command("virsh", &[&"domstate", &"d"]));
    if lab.virsh(&[&"domstate", &"d"]).trim() == "shut off" {
        case.domain.start();
    }
    case.domain.write("vda", 0xb3, 5 * MIB, 65536);
    println!("{}", case.backs_up(&[], &["vda"]).stderr);
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
        println!("{}", case.backs_up(&[], &["vda"]).stderr);
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
    println!("{}", case.backs_up(&[], &["vda"]).stderr);
    println!("{}", case.backs_up(&["--strict"], &["vda"]).stderr);
    println!("{:?}", case.checkpoints());
}
