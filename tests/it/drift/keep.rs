//! `--keep-checkpoints`.

use std::path::PathBuf;

use crate::support::{Case, Lab, MIB};

#[test]
fn older_checkpoints_go_and_every_point_stays() {
    let lab = Lab::up();
    let disks = ["vda", "vdb"];
    let case = Case::new(&lab, "d", &["vda:8M", "vdb:4M"]);
    let mut points: Vec<(String, Vec<PathBuf>)> = Vec::new();
    for round in 0..5 {
        case.domain.write("vda", 0xa0 + round, u64::from(round) * MIB, 2 * MIB);
        case.domain.write("vdb", 0xb0 + round, u64::from(round) * 65536, MIB);
        points.push((format!("virtnbdbackup.{round}"), case.domain.snapshot_references(&disks)));
        let run = case.backup(&["--strict", "--keep-checkpoints", "2"]).succeeds();
        case.no_traces();
        if round >= 2 {
            run.says(&[&format!("removed checkpoint virtnbdbackup.{}", round - 2)]);
        }
    }
    for (until, references) in &points {
        case.restores(&["--until", until], &disks, references);
    }
    assert_eq!(case.checkpoints(), ["virtnbdbackup.3", "virtnbdbackup.4"]);
    case.domain.stop();
    let info = crate::support::run("qemu-img", &[&"info", &case.domain.image("vda")]).succeeds();
    assert!(!info.stdout.contains("virtnbdbackup.2"), "{}", info.stdout);

    // The host forgets: it is told of those that are left, and nothing is said of the others.
    for name in ["virtnbdbackup.3", "virtnbdbackup.4"] {
        case.virsh(&["checkpoint-delete", "d", name, "--metadata"]);
    }
    case.domain.start();
    case.domain.write("vda", 0xc0, MIB, 65536);
    let run = case.backs_up(&["--strict"], &disks).says(&["vda: inc since virtnbdbackup.4"]);
    assert!(!run.stderr.contains("virtnbdbackup.2 "), "{}", run.stderr);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.3", "virtnbdbackup.4", "virtnbdbackup.5"]);
    case.backup(&["--keep-checkpoints", "1"]).ends_with(2).says(&["--keep-checkpoints"]);
}
