//! Hosts that never heard of the domain's checkpoints.

use super::chain;
use crate::bad::{Case, MIB};
use crate::support::Lab;

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
    println!("{}", case.backs_up(&["--strict"], &["vda", "vdb"]).stderr);
    // A new chain instead: old bitmaps bear the names that it needs.
    case.domain.stop();
    case.virsh(&["undefine", "d", "--checkpoints-metadata"]);
    lab.virsh(&[&"define", &case.file(&xml)]);
    case.domain.start();
    let second = Case { set: case.set.with_file_name("second"), ..case };
    for _ in 0..3 {
        second.domain.write("vda", 0xb2, 3 * MIB, 65536);
        println!("{}", second.backs_up(&[], &["vda", "vdb"]).stderr);
    }
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
        println!("{}", case.backs_up(&["--strict"], &["vda"]).stderr);
        case.domain.write("vda", 0xc0 + round, 3 * MIB, 65536);
        case.virsh(&["destroy", "d"]);
    }
}
