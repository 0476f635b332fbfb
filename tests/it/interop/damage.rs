//! Damaged sets of virtnbdbackup: found, named, and nothing wrong restored.

use std::fs;
use std::path::Path;

use super::{Shared, checkpoint, copy_without_times};
use crate::support::{Lab, virtkeep};

/// It leaves increment 1 as a delta to itself: nothing may be restored from there on.
#[test]
fn foreign_offline_increment_over_an_increment_is_seen() {
    let lab = Lab::up();
    for own_last in [false, true] {
        let shared = Shared::new(&lab);
        let full = shared.point(checkpoint(0));
        shared.foreign("full", &[]);
        shared.write(1);
        if own_last {
            drop(shared.own("inc", &[]))
        } else {
            shared.foreign("inc", &[])
        }
        shared.domain.stop();
        shared.foreign("inc", &[]);
        virtkeep(&[&"verify", &"-n", &"-i", &shared.set]).ends_with(4).says(&["inc.virtnbdbackup.1.data"]);
        let out = lab.fresh_directory().join("out");
        let restore = virtkeep(&[&"restore", &"-n", &"-i", &shared.set, &"-o", &out]);
        assert_ne!(restore.status, 0, "{restore:?}");
        restore.says(&["inc.virtnbdbackup.1.data"]);
        shared.check_points(&[full]);
        shared.domain.remove();
    }
}

/// What is done to a file.
type Damage<'d> = &'d dyn Fn(&Path);

/// A foreign compressed chain with one thing broken at a time; every one is found and named.
#[test]
fn damaged_foreign_chain_is_refused() {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    shared.foreign("full", &["-z"]);
    for round in 1..=3 {
        shared.change(round);
        shared.foreign("inc", &["-z"]);
    }
    let file = "vda.inc.virtnbdbackup.1.data";
    let whole = fs::read(shared.set.join(file)).unwrap();
    let damages: [(&str, Damage<'_>); 7] = [
        ("cut in the middle", &|path| fs::write(path, &whole[..whole.len() / 2]).unwrap()),
        ("cut by a byte", &|path| fs::write(path, &whole[..whole.len() - 1]).unwrap()),
        ("empty", &|path| fs::write(path, b"").unwrap()),
        ("missing", &|path| fs::remove_file(path).unwrap()),
        ("never finished", &|path| fs::rename(path, path.with_extension("data.partial")).unwrap()),
        ("another disk's", &|path| replace(path, "vdb.inc.virtnbdbackup.1.data")),
        ("the next one's", &|path| replace(path, "vda.inc.virtnbdbackup.2.data")),
    ];
    for (name, damage) in damages {
        let set = lab.fresh_directory().join("damaged");
        copy_without_times(&shared.set, &set);
        damage(&set.join(file));
        let verify = virtkeep(&[&"verify", &"-n", &"-i", &set]);
        assert_eq!(verify.status, 4, "{name}: {verify:?}");
        assert!(verify.stderr.contains(file), "{name}: {verify:?}");
        let out = lab.fresh_directory().join("out");
        let restore = virtkeep(&[&"restore", &"-n", &"-i", &set, &"-o", &out]);
        assert_ne!(restore.status, 0, "{name}: {restore:?}");
        assert!(restore.stderr.contains(file), "{name}: {restore:?}");
        assert!(!out.join("d-vda.qcow2").exists(), "{name}");
        // What comes before the damage is whole.
        virtkeep(&[&"restore", &"-n", &"-i", &set, &"-o", &out, &"--force", &"--until", &"virtnbdbackup.0"]).succeeds();
    }
}

fn replace(path: &Path, by: &str) {
    fs::copy(path.with_file_name(by), path).unwrap();
}

/// The newest increment of one disk: the run is not whole, and the other disk must not hide that.
#[test]
fn foreign_run_without_one_of_its_disks_is_not_whole() {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    let full = shared.point(checkpoint(0));
    shared.foreign("full", &[]);
    shared.change(1);
    shared.foreign("inc", &[]);
    let file = shared.set.join("vdb.inc.virtnbdbackup.1.data");
    fs::rename(&file, file.with_extension("data.partial")).unwrap();
    for stage in ["partial", "missing"] {
        virtkeep(&[&"verify", &"-n", &"-i", &shared.set]).ends_with(4).says(&["vdb.inc.virtnbdbackup.1.data"]);
        let out = lab.fresh_directory().join("out");
        let restore = virtkeep(&[&"restore", &"-n", &"-i", &shared.set, &"-o", &out, &"--until", &"virtnbdbackup.1"]);
        assert_ne!(restore.status, 0, "{stage}: {restore:?}");
        assert!(restore.stderr.contains("vdb.inc.virtnbdbackup.1.data"), "{stage}: {restore:?}");
        // The disk that is there can be had.
        virtkeep(&[&"restore", &"-n", &"-i", &shared.set, &"-o", &out, &"-d", &"vda"]).succeeds();
        shared.check_points(std::slice::from_ref(&full));
        let _ = fs::remove_file(file.with_extension("data.partial"));
    }
}

/// LZ4's checksums prove compressed payloads, the structure everything between them.
#[test]
fn every_flipped_bit_of_a_foreign_compressed_payload_is_found() {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    shared.foreign("full", &["-z"]);
    shared.change(1);
    shared.foreign("inc", &["-z"]);
    let path = shared.set.join("vda.inc.virtnbdbackup.1.data");
    let whole = fs::read(&path).unwrap();
    // The meta has no sum: a flipped digit of its date can't be known.
    let start = 40 + whole[40..].windows(2).position(|pair| pair == b"\r\n").unwrap();
    let step = (whole.len() - start).div_ceil(150).max(1) | 1;
    for (count, position) in (start..whole.len()).step_by(step).enumerate() {
        let mut damaged = whole.clone();
        damaged[position] ^= 1 << (count % 8);
        fs::write(&path, damaged).unwrap();
        let verify = virtkeep(&[&"verify", &"-n", &"-i", &shared.set]);
        assert_eq!(verify.status, 4, "byte {position}: {verify:?}");
        assert!(verify.stderr.contains("vda.inc.virtnbdbackup.1.data"), "byte {position}: {verify:?}");
    }
}
