//! A real Linux guest with its agent: files, frozen file systems, trimmed space.

use std::path::Path;

use crate::support::{Lab, TestDomain, run, virtkeep};

const MIB: u64 = 1024 * 1024;

#[test]
fn files_of_a_real_guest_survive_full_trim_and_incremental() {
    let lab = Lab::up();
    let guest = lab.guest("g", &["vda:256M"]);
    guest.execute("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt");
    guest.execute("echo first >/mnt/kept && dd if=/dev/urandom of=/mnt/random bs=1M count=5 2>&1");
    guest.execute("dd if=/dev/urandom of=/mnt/gone bs=1M count=20 2>&1 && sync");
    let random = guest.execute("sha256sum </mnt/random");
    let set = lab.fresh_directory().join("set");

    lab.back_up("g", &set, &["-l", "full", "--require-freeze"]).succeeds();
    assert_frozen_and_thawed(&guest, 1);

    guest.execute("rm /mnt/gone && sync && fstrim /mnt && echo second >/mnt/later && rm /mnt/kept");
    lab.back_up("g", &set, &["-l", "inc", "--require-freeze"]).succeeds();
    assert_frozen_and_thawed(&guest, 2);
    let (full, increment) =
        (stored_size(&set, ".full.data"), stored_size(&set, ".data") - stored_size(&set, ".full.data"));
    assert!(full > 25 * MIB, "the full holds 25 MiB of files: {full}");
    // The trim dirtied nearly all of the disk; zeroes need no room.
    assert!(increment < 10 * MIB, "trimmed space is not stored: {increment}");

    let (old, new) = (restore(&lab, &set, Some("virtnbdbackup.0")), restore(&lab, &set, None));
    assert_eq!(file(&old, "/kept"), b"first\n");
    assert_eq!(file(&old, "/gone").len() as u64, 20 * MIB);
    assert_eq!(file(&new, "/later"), b"second\n");
    for gone in ["/gone", "/kept"] {
        run("debugfs", &[&"-R", &format!("stat {gone}"), &new]).says(&["File not found"]);
    }
    for image in [&old, &new] {
        // Frozen means: as clean as unmounted but for the journal's mark, nothing to replay.
        run("e2fsck", &[&"-fn", image]).succeeds();
        assert_eq!(sha256(&file(image, "/random")), random.split(' ').next().unwrap());
    }
}

/// The guest's own hook was called in pairs, and it can write again.
fn assert_frozen_and_thawed(guest: &TestDomain, times: usize) {
    let log = guest.execute("cat /tmp/freeze.log && echo alive >/mnt/alive && sync");
    let words: Vec<&str> = log.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(words, ["freeze", "thaw"].repeat(times), "{log}");
}

fn stored_size(set: &Path, ending: &str) -> u64 {
    let files = std::fs::read_dir(set).unwrap().map(Result::unwrap);
    files
        .filter(|file| file.file_name().to_string_lossy().ends_with(ending))
        .map(|file| file.metadata().unwrap().len())
        .sum()
}

fn restore(lab: &Lab, set: &Path, until: Option<&str>) -> std::path::PathBuf {
    let out = lab.fresh_directory().join("restored");
    let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> =
        vec![&"restore", &"-n", &"-i", &set, &"-o", &out, &"--format=raw"];
    if let Some(until) = &until {
        arguments.extend([&"--until" as &dyn AsRef<std::ffi::OsStr>, until]);
    }
    virtkeep(&arguments).succeeds();
    out.join("g-vda.raw")
}

/// A file's content inside an ext4 image, without mounting it.
fn file(image: &Path, path: &str) -> Vec<u8> {
    let copy = tempfile::NamedTempFile::new().unwrap();
    run("debugfs", &[&"-R", &format!("dump {path} {}", copy.path().display()), &image]).succeeds();
    std::fs::read(copy.path()).unwrap()
}

fn sha256(content: &[u8]) -> String {
    let copy = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(copy.path(), content).unwrap();
    let sum = run("sha256sum", &[&copy.path()]).succeeds().stdout;
    sum.split(' ').next().unwrap().to_owned()
}
