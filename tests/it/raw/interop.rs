//! Raw disks in virtnbdbackup's sets, and by virtnbdrestore.

use std::ffi::OsStr;
use std::path::Path;

use super::{flip, image_in, restore};
use crate::support::{Case, Lab, MIB, Run, compare, listing, run, virtkeep};

/// Sizes with which virtnbdbackup's own copy of a raw disk is whole.
fn make(lab: &Lab) -> Case<'_> {
    let case = Case::new(lab, "d", &["vda:8M", "vdb:3212288:raw"]);
    case.domain.write("vda", 0xa1, MIB, MIB);
    case.domain.write("vdb", 0xb1, MIB - 512, 2048);
    case.domain.write("vdb", 0xb2, 3212288 - 512, 512);
    case
}

#[track_caller]
pub fn foreign(case: &Case<'_>, level: &str, more: &[&str]) {
    let (uri, scratch, socket) = (case.lab.uri(), case.lab.scratch(), case.lab.directory().join("run/foreign.sock"));
    let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"-U", &uri, &"-n", &"-d", &"d", &"-l", &level];
    arguments.extend([&"--scratchdir" as &dyn AsRef<OsStr>, &scratch, &"-f", &socket, &"-o", &case.set]);
    arguments.extend(more.iter().map(|argument| argument as &dyn AsRef<OsStr>));
    run("virtnbdbackup", &arguments).succeeds();
}

#[track_caller]
fn foreign_restore(lab: &Lab, set: &Path, out: &Path, more: &[&str]) -> Run {
    let work = lab.fresh_directory();
    let (uri, socket, log) = (lab.uri(), work.join("nbd.sock"), work.join("log"));
    let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"-U", &uri, &"-n", &"-f", &socket, &"-L", &log];
    arguments.extend([&"-i" as &dyn AsRef<OsStr>, &set, &"-o", &out]);
    arguments.extend(more.iter().map(|argument| argument as &dyn AsRef<OsStr>));
    run("virtnbdrestore", &arguments)
}

#[test]
fn foreign_raw_disks_are_restored() {
    let lab = Lab::up();
    let case = make(&lab);
    let references = case.domain.snapshot_references(&["vda", "vdb"]);
    foreign(&case, "full", &["--raw"]);
    case.domain.write("vda", 0xa2, 4 * MIB, MIB);
    foreign(&case, "inc", &["--raw"]);
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds().says(&["vdb.copy.data: a raw image without a checksum"]);
    let out = lab.fresh_directory().join("out");
    restore(&case.set, &[&"-o", &out, &"-u", &"virtnbdbackup.0"]).succeeds().says(&["vdb.copy.data", "unproven"]);
    compare(&out.join("d-vda.qcow2"), "qcow2", &references[0]);
    compare(&out.join("d-vdb.raw"), "raw", &references[1]);
    // Thin, though virtnbdbackup wrote it in full.
    let allocated = std::os::unix::fs::MetadataExt::blocks(&out.join("d-vdb.raw").metadata().unwrap()) * 512;
    assert!(allocated < MIB, "{allocated}");
    let out = lab.fresh_directory().join("out");
    restore(&case.set, &[&"-o", &out]).ends_with(3).says(&["vdb", "--older-raw"]);
    assert_eq!(listing(&out), ["d-vda.qcow2", "vmconfig.xml"]);
    let out = lab.fresh_directory().join("out");
    restore(&case.set, &[&"-o", &out, &"--older-raw", &"-t", &"qcow2"]).succeeds();
    compare(&out.join("d-vdb.qcow2"), "qcow2", &references[1]);
    // The chain goes on, and knows of the image.
    case.backup(&["-r"]).succeeds().says(&["Excluding disk [vdb]: it is raw", "run virtnbdbackup.0"]);
}

/// A raw disk begins with what the guest likes, a stream's head, too.
#[test]
fn foreign_images_are_what_the_domain_says_they_are() {
    let lab = Lab::up();
    let case = make(&lab);
    foreign(&case, "full", &["--raw"]);
    let image = image_in(&case.set, "vdb");
    let meta =
        r#"{"virtualSize":4096,"dataSize":0,"diskName":"vdb","diskFormat":"raw","checkpointName":"virtnbdbackup.0"}"#;
    let mut content = std::fs::read(&image).unwrap();
    let head = format!("meta 0000000000000000 {:016x}\r\n{meta}\r\n", meta.len());
    content[..head.len()].copy_from_slice(head.as_bytes());
    std::fs::write(&image, &content).unwrap();
    let out = lab.fresh_directory().join("out");
    restore(&case.set, &[&"-o", &out]).succeeds();
    assert!(std::fs::read(out.join("d-vdb.raw")).unwrap() == content);
    // A damaged stream is not taken for an image.
    let damaged = Case::new(&lab, "e", &["vda:8M"]);
    damaged.domain.write("vda", 0xa1, 0, 8 * MIB);
    let (uri, scratch, socket) = (lab.uri(), lab.scratch(), lab.directory().join("run/foreign.sock"));
    let arguments: [&dyn AsRef<OsStr>; 13] = [
        &"-U",
        &uri,
        &"-n",
        &"-d",
        &"e",
        &"-l",
        &"copy",
        &"--scratchdir",
        &scratch,
        &"-f",
        &socket,
        &"-o",
        &damaged.set,
    ];
    run("virtnbdbackup", &arguments).succeeds();
    flip(&image_in(&damaged.set, "vda"), 1);
    let out = lab.fresh_directory().join("out");
    assert!(restore(&damaged.set, &[&"-o", &out]).status != 0);
    assert!(!out.exists());
}

#[test]
fn foreign_copies_of_raw_output_are_restored() {
    let lab = Lab::up();
    let case = make(&lab);
    let references = case.domain.snapshot_references(&["vda", "vdb"]);
    foreign(&case, "copy", &["--raw", "-t", "raw"]);
    let out = lab.fresh_directory().join("out");
    restore(&case.set, &[&"-o", &out]).succeeds();
    // Like the originals.
    compare(&out.join("d-vda.qcow2"), "qcow2", &references[0]);
    compare(&out.join("d-vdb.raw"), "raw", &references[1]);
    let dump = virtkeep(&[&"dump", &"-i", &case.set]).succeeds();
    assert!(dump.stdout.contains("vda (raw),vdb (raw)"), "{}", dump.stdout);
}

#[test]
fn own_raw_disks_are_restored_by_the_other() {
    let lab = Lab::up();
    let case = make(&lab);
    let references = case.domain.snapshot_references(&["vda", "vdb"]);
    for level in ["full", "copy"] {
        let set = lab.fresh_directory().join(level);
        case.backup_to(&set, &["-l", level, "-r", "-z"]).succeeds();
        let out = lab.fresh_directory();
        foreign_restore(&lab, &set, &out, &["--raw"]).succeeds();
        compare(&out.join("d-vda.qcow2"), "qcow2", &references[0]);
        compare(&out.join("d-vdb.raw"), "raw", &references[1]);
    }
}

/// The other tool goes on with our chain past the raw disk.
#[test]
fn own_chains_with_raw_disks_are_continued_by_the_other() {
    let lab = Lab::up();
    let case = make(&lab);
    case.backup(&["-l", "full", "-r"]).succeeds();
    case.domain.write("vda", 0xa7, 3 * MIB, MIB);
    let reference = case.domain.snapshot_reference("vda");
    foreign(&case, "inc", &[]);
    let out = lab.fresh_directory();
    restore(&case.set, &[&"-o", &out, &"-d", &"vda"]).succeeds();
    compare(&out.join("d-vda.qcow2"), "qcow2", &reference);
    case.backup(&["-r"]).succeeds();
    case.no_traces();
}
