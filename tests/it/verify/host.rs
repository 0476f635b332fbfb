//! What a backup and its check leave of themselves on the host.

use std::fs;
use std::path::Path;

use crate::support::{Case, Lab, MIB, run, virtkeep};

/// Bytes of a file that are in the page cache.
fn cached(file: &Path) -> u64 {
    let options: [&dyn AsRef<std::ffi::OsStr>; 5] = [&"--bytes", &"--noheadings", &"--output", &"RES", &file];
    run("fincore", &options).succeeds().stdout.trim().parse().unwrap()
}

#[test]
fn the_page_cache_is_left_to_others() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:64M"]);
    case.domain.write("vda", 0xaa, 0, 48 * MIB);
    // On a disk: files in memory are nowhere else.
    let set = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page-cache");
    let _ = fs::remove_dir_all(&set);
    case.backup_to(&set, &["-l", "full"]).succeeds();
    let data = set.join("vda.full.data");
    assert!(cached(&data) < 4 * MIB, "after a backup: {}", cached(&data));
    fs::read(&data).unwrap();
    assert!(cached(&data) >= 40 * MIB, "after all of it was read: {}", cached(&data));
    virtkeep(&[&"verify", &"-n", &"-i", &set]).succeeds();
    assert!(cached(&data) < 4 * MIB, "after a check: {}", cached(&data));
    fs::remove_dir_all(&set).unwrap();
}
