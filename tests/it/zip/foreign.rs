//! Zip files that virtnbdbackup wrote.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::support::{KIB, Lab, MIB, TestDomain, compare, run, virtkeep};

/// A full and increments of Debian's virtnbdbackup, by way of a pipe.
fn foreign(lab: &Lab, domain: &TestDomain<'_>, more: &str) -> (PathBuf, Vec<PathBuf>) {
    let work = lab.fresh_directory();
    let mut references = Vec::new();
    for (number, level) in ["full", "inc", "inc"].into_iter().enumerate() {
        domain.write("vda", 0x21 + number as u8, number as u64 * 3 * MIB, 2 * MIB + 512);
        domain.write("vdb", 0x31 + number as u8, number as u64 * 512 * KIB, 70 * KIB);
        references = domain.snapshot_references(&["vda", "vdb"]);
        let script = format!(
            "cd \"$1\" && virtnbdbackup -U \"$2\" -n -d d -l {level} -o - --scratchdir \"$3\" -f \"$4\" {more} | cat >{number}.zip"
        );
        let socket = lab.directory().join("run/foreign.sock");
        run("sh", &[&"-c", &script, &"sh", &work, &lab.uri(), &lab.scratch(), &socket]).succeeds();
    }
    (work, references)
}

fn check(more: &str) {
    let lab = Lab::up();
    let domain = lab.domain("d", &["vda:48M", "vdb:5243392"]);
    let (work, references) = foreign(&lab, &domain, more);
    let input = (0..3).map(|number| work.join(format!("{number}.zip")).display().to_string()).collect::<Vec<_>>();
    let input = input.join(",");
    let dump = virtkeep(&[&"dump", &"-i", &input]).succeeds();
    assert!(dump.stdout.contains("virtnbdbackup.2") && dump.stdout.contains("3 runs"), "{}", dump.stdout);
    // There is no sum but the zip file's own.
    let verify = virtkeep(&[&"verify", &"-n", &"-i", &input]).succeeds();
    assert!(verify.stdout.contains("OK: every byte is proven"), "{}{}", verify.stdout, verify.stderr);
    let out = lab.fresh_directory().join("out");
    virtkeep(&[&"restore", &"-n", &"-i", &input, &"-o", &out]).succeeds();
    for (target, reference) in ["vda", "vdb"].iter().zip(&references) {
        compare(&out.join(format!("d-{target}.qcow2")), "qcow2", reference);
    }
    assert!(out.join("vmconfig.xml").exists());

    // Damage of a stream is found by the zip file's sum, before an image bears its name.
    let damaged = work.join("1.zip");
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    virtkeep(&[&"verify", &"-n", &"-i", &input]).ends_with(4).says(&["damage"]);
    let out = lab.fresh_directory().join("out");
    virtkeep(&[&"restore", &"-n", &"-i", &input, &"-o", &out]).ends_with(4);
    assert!(!out.join("d-vda.qcow2").exists());
}

#[test]
fn plain_ones_are_restored() {
    check("");
}

#[test]
fn compressed_ones_are_restored() {
    check("-z");
}

/// Later versions write sums into a zip file in which there is none.
#[test]
fn sums_that_are_none() {
    let lab = Lab::up();
    let domain = lab.domain("d", &["vda:48M", "vdb:5243392"]);
    let (work, _) = foreign(&lab, &domain, "");
    let zip = work.join("0.zip");
    let add = "import sys, zipfile
z = zipfile.ZipFile(sys.argv[1], 'a')
for disk in 'vda', 'vdb':
    if disk + '.full.data.chksum' not in z.namelist():
        z.writestr(disk + '.full.data.chksum', 'None')
z.close()";
    run("python3", &[&"-c" as &dyn AsRef<OsStr>, &add, &zip]).succeeds();
    let verify = virtkeep(&[&"verify", &"-n", &"-i", &zip]).succeeds();
    assert!(verify.stdout.contains("OK: every byte is proven"), "{}{}", verify.stdout, verify.stderr);
}

/// What the two disks of `tests/fixtures/zip-2.53` hold after its first `runs` runs, see its `make.sh`.
fn disks_of_the_fixture(runs: usize) -> [Vec<u8>; 2] {
    let mut disks = [vec![0; 1 << 20], vec![0; 262_656]];
    let writes = [
        (0, 0, 0x11, 0, 8192),
        (0, 0, 0x12, 524_288, 4096),
        (0, 1, 0x21, 4096, 4096),
        (1, 0, 0x13, 4096, 8192),
        (2, 1, 0x22, 262_144, 512),
        (2, 0, 0x14, 1_044_480, 4096),
    ];
    for (run, disk, pattern, offset, length) in writes {
        if run < runs {
            disks[disk][offset..offset + length].fill(pattern);
        }
    }
    disks
}

/// Files that virtnbdbackup 2.53 wrote, whichever version is installed.
#[test]
fn those_of_a_later_version_are_restored() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/zip-2.53");
    let lab = Lab::up();
    let sets: [(&[&str], usize); 4] =
        [(&["full"], 1), (&["full", "inc1"], 2), (&["inc2", "full", "inc1"], 3), (&["copy"], 3)];
    for (zips, runs) in sets {
        let paths = zips.iter().map(|name| directory.join(format!("{name}.zip")).display().to_string());
        let input = paths.collect::<Vec<_>>().join(",");
        let verify = virtkeep(&[&"verify", &"-n", &"-i", &input]).succeeds();
        assert!(verify.stdout.contains("OK: every byte is proven"), "{}{}", verify.stdout, verify.stderr);
        let dump = virtkeep(&[&"dump", &"--json", &"-i", &input]).succeeds();
        let dump: serde_json::Value = serde_json::from_str(&dump.stdout).unwrap();
        assert_eq!(dump["restore_points"].as_array().unwrap().len(), zips.len(), "{dump}");
        let out = lab.fresh_directory().join("out");
        virtkeep(&[&"restore", &"-n", &"-i", &input, &"-o", &out, &"-t", &"raw"]).succeeds();
        for (name, content) in ["zipped-vda.raw", "zipped-vdb.raw"].iter().zip(disks_of_the_fixture(runs)) {
            assert!(std::fs::read(out.join(name)).unwrap() == content, "{name} of {zips:?}");
        }
        let out = lab.fresh_directory().join("out");
        let restore = virtkeep(&[&"restore", &"-n", &"-i", &input, &"-o", &out, &"-c"]).succeeds();
        assert!(out.join("vmconfig.xml").exists(), "{}", restore.stderr);
    }
    let lost = [directory.join("full.zip"), directory.join("inc2.zip")].map(|path| path.display().to_string());
    let out = lab.fresh_directory().join("out");
    virtkeep(&[&"restore", &"-n", &"-i", &lost.join(","), &"-o", &out]).ends_with(4).says(&["virtnbdbackup.1"]);
}
