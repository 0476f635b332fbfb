//! What virtkeep wrote, restored by virtnbdrestore.

use super::{MIB, Point, Shared, checkpoint};
use crate::support::{Lab, virtkeep};

/// Ours, by virtnbdrestore: every point of full, inc, inc.
fn own_chain(more: &[&str]) {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    shared.domain.write("vda", 0x34, 4 * MIB, 40 * MIB);
    let mut points = vec![shared.point(checkpoint(0))];
    shared.own("full", more);
    for round in 1..=2 {
        shared.write(round);
        points.push(shared.point(checkpoint(round.into())));
        shared.own("inc", more);
    }
    for point in &points {
        shared.check_foreign(point, Some(&point.id));
    }
    shared.check_foreign(&points[2], None);
    let dump = shared.virtnbdrestore(&[&"-o", &"dump"]).succeeds();
    for word in ["virtnbdbackup.0", "virtnbdbackup.2", "\"diskName\": \"vdb\""] {
        assert!(dump.stdout.contains(word), "{word}: {}", dump.stdout);
    }
    // It knows no zeroed ranges in increments, but must not stumble over them.
    shared.change(3);
    points.push(shared.point(checkpoint(3)));
    shared.own("inc", more);
    shared.restore_by_foreign(None);
    shared.write(4);
    let diff = shared.point("");
    shared.own("diff", more);
    points.push(Point { id: shared.newest_id(), ..diff });
    shared.check_points(&points);
    virtkeep(&[&"verify", &"-n", &"-i", &shared.set]).succeeds();
}

#[test]
fn own_plain_chain_is_restored_by_the_other() {
    own_chain(&[]);
}

#[test]
fn own_compressed_chain_is_restored_by_the_other() {
    own_chain(&["-z"]);
}

#[test]
fn own_high_compression_is_restored_by_the_other() {
    own_chain(&["--compress=9"]);
}

#[test]
fn own_copy_and_diff_are_restored_by_the_other() {
    let lab = Lab::up();
    let mut shared = Shared::new(&lab);
    let copy = shared.point("");
    shared.own("copy", &["-z"]);
    shared.check_foreign(&copy, None);
    shared.set = lab.fresh_directory().join("chain");
    shared.own("full", &[]);
    shared.write(1);
    let diff = shared.point("");
    shared.own("diff", &[]);
    shared.check_foreign(&diff, None);
}
