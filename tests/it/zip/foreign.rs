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
    for _ in 0..2 {
        let deep = virtkeep(&[&"verify", &"-n", &"--deep", &"-i", &input]).succeeds();
        assert!(deep.stdout.starts_with("OK: all content is proven"), "{}{}", deep.stdout, deep.stderr);
    }
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
