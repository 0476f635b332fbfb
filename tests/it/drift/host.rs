//! Hosts that never heard of the domain's checkpoints.

use super::chain;
use crate::support::{Case, Lab, MIB};

#[test]
fn a_domain_undefined_and_defined_again() {
    let lab = Lab::up();
    let case = chain(&lab, &["vda:8M", "vdb:4M"], &["vda", "vdb"]);
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    case.domain.stop();
    let xml = case.definition();
    case.virsh(&["undefine", "d", "--checkpoints-metadata"]);
    lab.virsh(&[&"define", &case.file(&xml)]);
    assert_eq!(case.checkpoints(), [""; 0]);
    case.domain.start();
    case.domain.write("vdb", 0xb1, MIB, 65536);
    let run = case.backs_up(&["--strict"], &["vda", "vdb"]);
    run.says(&["Redefine missing checkpoint virtnbdbackup.1", "vda: inc since virtnbdbackup.1", "vdb: inc since"]);
    // A new chain instead: old bitmaps bear the names that it needs.
    case.domain.stop();
    case.virsh(&["undefine", "d", "--checkpoints-metadata"]);
    lab.virsh(&[&"define", &case.file(&xml)]);
    case.domain.start();
    let second = Case { set: case.set.with_file_name("second"), ..case };
    for _ in 0..3 {
        second.domain.write("vda", 0xb2, 3 * MIB, 65536);
        second.backs_up(&["--strict"], &["vda", "vdb"]).says(&["on vda, vdb, which no checkpoint on this host"]);
    }
    second.backs_up(&["--strict"], &["vda", "vdb"]).says(&["vda: inc since virtnbdbackup.2"]);
}

#[test]
fn a_transient_domain_created_again() {
    let lab = Lab::up();
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    let xml = case.definition();
    let file = case.file(&xml);
    case.domain.stop();
    case.virsh(&["undefine", "d", "--checkpoints-metadata"]);
    for round in 0..2 {
        lab.virsh(&[&"create", &file, &"--paused"]);
        assert_eq!(case.checkpoints(), [""; 0]);
        case.domain.write("vda", 0xb0 + round, 2 * MIB, 65536);
        case.backs_up(&["--strict"], &["vda"]).says(&[&format!("vda: inc since virtnbdbackup.{}", round + 1)]);
        case.domain.write("vda", 0xc0 + round, 3 * MIB, 65536);
        case.virsh(&["destroy", "d"]);
    }
}

/// A shared image, and the same definition on another host.
#[test]
fn a_domain_moved_to_another_host() {
    let (lab, other) = (Lab::up(), Lab::up());
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    let (xml, image) = (case.definition(), case.domain.image("vda"));
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    case.domain.stop();
    let domain = other.domain("d", &["--off", &format!("vda:0:path={}", image.display())]);
    other.virsh(&[&"undefine", &"d"]);
    let moved = Case { lab: &other, domain, set: case.set.clone() };
    other.virsh(&[&"define", &moved.file(&xml)]);
    moved.domain.start();
    moved.domain.write("vda", 0xb1, 3 * MIB, 65536);
    let run = moved.backs_up(&["--strict"], &["vda"]);
    run.says(&["Redefine missing checkpoint virtnbdbackup.1", "vda: inc since virtnbdbackup.1"]);
    // And back, where the newest checkpoint is unknown.
    moved.domain.write("vda", 0xb2, 4 * MIB, 65536);
    moved.domain.stop();
    case.domain.start();
    case.domain.write("vda", 0xb3, 5 * MIB, 65536);
    case.backs_up(&["--strict"], &["vda"])
        .says(&["Redefine missing checkpoint virtnbdbackup.2", "vda: inc since virtnbdbackup.2"]);
    assert_eq!(case.checkpoints().len(), 4);
}

/// Copied, images have other paths: a full of each.
#[test]
fn a_domain_moved_with_a_copy_of_its_image() {
    let (lab, other) = (Lab::up(), Lab::up());
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    let (xml, image) = (case.definition(), case.domain.image("vda"));
    case.domain.stop();
    let kept = case.keep_image("vda");
    let domain = other.domain("d", &["--off", "vda:8M"]);
    let copy = domain.image("vda");
    other.virsh(&[&"undefine", &"d"]);
    let moved = Case { lab: &other, domain, set: case.set.clone() };
    let xml = xml.replace(&image.display().to_string(), &copy.display().to_string());
    other.virsh(&[&"define", &moved.file(&xml)]);
    moved.put_back("vda", &kept);
    moved.domain.start();
    moved.domain.write("vda", 0xb1, 3 * MIB, 65536);
    moved.backs_up(&[], &["vda"]).says(&["vda: full instead of an increment, because its image was"]);
    moved.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.2"]);
}
