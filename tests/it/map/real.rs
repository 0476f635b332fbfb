//! Sets made by a backup of a domain: points, disks, zip files.

use std::path::Path;

use super::Map;
use crate::support::{Case, Lab, MIB, run, virtkeep};

#[track_caller]
fn equal(map: &Map, disk: usize, reference: &Path) {
    run("qemu-img", &[&"compare", &"-f", &"raw", &"-F", &"raw", &map.uris[disk], &reference]).succeeds();
}

#[test]
fn every_point_and_disk_of_a_set_is_what_the_guest_saw() {
    let lab = Lab::up();
    let case = Case::new(&lab, "mapped", &["vda:16M", "vdb:8M"]);
    let disks = ["vda", "vdb"];
    let mut references = Vec::new();
    case.domain.write("vda", 0x11, 0, 3 * MIB);
    case.domain.write("vdb", 0x12, 5 * MIB, MIB);
    for level in ["full", "inc", "inc", "diff"] {
        let number = references.len() as u8;
        case.domain.write("vda", 0x20 + number, 4 * MIB + u64::from(number) * 65536, 2 * MIB);
        case.domain.write_zeroes("vda", 65536 * u64::from(number), 65536, true);
        references.push(case.domain.snapshot_references(&disks));
        let options = ["-l", level, "-z"];
        case.backup(&options[..if number % 2 == 0 { 3 } else { 2 }]).succeeds();
    }
    let dump = virtkeep(&[&"dump", &"--json", &"-i", &case.set]).succeeds().stdout;
    let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
    let set = case.set.to_str().unwrap();
    for (point, references) in dump["restore_points"].as_array().unwrap().iter().zip(&references) {
        let map = Map::start(&["-i", set, "-u", point["id"].as_str().unwrap()]);
        assert_eq!(map.uris.len(), 2);
        equal(&map, 0, &references[0]);
        equal(&map, 1, &references[1]);
        map.end("TERM").succeeds();
    }
    let newest = Map::start(&["-i", set, "-d", "vdb"]);
    equal(&newest, 0, &references.last().unwrap()[1]);
    virtkeep(&[&"map", &"-i", &case.set, &"-d", &"vdz", &"-e", &"true"]).ends_with(1).says(&["it has vda, vdb"]);
    virtkeep(&[&"map", &"-i", &case.set, &"--overlay", &"/tmp/x", &"-e", &"true"])
        .ends_with(2)
        .says(&["choose one with -d"]);
    let inside = case.set.join("overlay");
    virtkeep(&[&"map", &"-i", &case.set, &"-d", &"vda", &"--overlay", &inside, &"-e", &"true"])
        .ends_with(2)
        .says(&["must not lie in the set"]);
    newest.end("TERM").succeeds();
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds();
}
