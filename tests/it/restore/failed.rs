//! Restores that fail, or must not begin: what they leave behind, and what they say of it.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::{MIB, listing, make, restore};
use crate::support::{Case, Lab, compare, program, run};

/// Other bytes in the data of the disk's full.
fn damage(set: &Path, disk: &str) {
    let mut stream = File::options().write(true).open(set.join(format!("{disk}.full.data"))).unwrap();
    stream.seek(SeekFrom::Start(MIB)).unwrap();
    stream.write_all(b"damage").unwrap();
}

#[test]
fn a_restore_that_is_going_on_is_not_disturbed() {
    let lab = Lab::up();
    let (domain, set) = make(&lab);
    let out = lab.fresh_directory();
    fs::write(out.join("d-vdb.qcow2.partial"), "theirs").unwrap();
    let mut lock = File::create(out.join("d-vdb.qcow2.partial.lock")).unwrap();
    write!(lock, "4711").unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    restore(&set, &out, &[]).ends_with(1).says(&["d-vdb.qcow2.partial", "process 4711 is writing it", "wait until"]);
    assert_eq!(listing(&out), ["d-vdb.qcow2.partial", "d-vdb.qcow2.partial.lock"]);
    assert_eq!(fs::read(out.join("d-vdb.qcow2.partial")).unwrap(), b"theirs");
    // Another disk is none of its business.
    restore(&set, &out, &["-d", "vda"]).succeeds();
    drop(lock);
    restore(&set, &out, &["-d", "vdb"]).succeeds();
    assert_eq!(listing(&out), ["d-vda.qcow2", "d-vdb.qcow2", "vmconfig.xml"]);
    compare(&out.join("d-vdb.qcow2"), "qcow2", &domain.snapshot_reference("vdb"));
}

/// A file may not grow beyond some MiB: the first disk's image does not, the second's does.
#[test]
fn nothing_is_left_where_a_later_disk_fails() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:8M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    case.domain.write("vdb", 0xbb, 0, 6 * MIB);
    case.backup(&[]).succeeds();
    let limited = "ulimit -f \"$1\" && exec \"$0\" restore -n -t \"$2\" -i \"$3\" -o \"$4\"";
    for (format, kib) in [("qcow2", "3072"), ("raw", "6144")] {
        let out = lab.fresh_directory();
        let failed = run("bash", &[&"-c", &limited, &program(), &kib, &format, &case.set, &out]);
        failed.ends_with(1).says(&["vdb", "allows no file of that size"]);
        assert_eq!(listing(&out), [""; 0], "{format}");
    }
}

#[test]
fn what_is_whole_beside_damage_is_told() {
    let lab = Lab::up();
    let (domain, set) = make(&lab);
    damage(&set, "vdb");
    let out = lab.fresh_directory();
    let failed = restore(&set, &out, &[]).ends_with(4);
    failed.says(&["d-vdb.qcow2.partial is incomplete: do not use it", "d-vda.qcow2.partial is whole and proven"]);
    assert_eq!(listing(&out), ["d-vda.qcow2.partial", "d-vdb.qcow2.partial"]);
    compare(&out.join("d-vda.qcow2.partial"), "qcow2", &domain.snapshot_reference("vda"));
    // What could not be proven is not in it, the rest is.
    run("qemu-img", &[&"check", &"-q", &"-f", &"qcow2", &out.join("d-vdb.qcow2.partial")]).succeeds();
}

/// The first disk's damage does not hide that there are others, and how they are restored.
#[test]
fn disks_behind_the_damaged_one_are_told() {
    let lab = Lab::up();
    let (domain, set) = make(&lab);
    damage(&set, "vda");
    let out = lab.fresh_directory();
    let failed = restore(&set, &out, &[]).ends_with(4);
    failed.says(&["d-vda.qcow2.partial is incomplete", "nothing was restored of vdb yet: -d vdb does that"]);
    restore(&set, &out, &["-d", "vdb"]).succeeds();
    compare(&out.join("d-vdb.qcow2"), "qcow2", &domain.snapshot_reference("vdb"));
}

#[test]
fn what_cannot_fit_or_is_in_the_way_is_refused_at_once() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8T", "vdb:1M"]);
    case.domain.write("vda", 0xaa, 5 * MIB, MIB);
    case.backup(&[]).succeeds();
    let out = lab.fresh_directory();
    restore(&case.set, &out, &["--preallocate"]).ends_with(1).says(&[
        "the disks need 8.0 TiB",
        "are free",
        "leave --preallocate away",
    ]);
    assert_eq!(listing(&out), [""; 0]);

    std::os::unix::fs::symlink("/nowhere/image", out.join("d-vda.qcow2")).unwrap();
    restore(&case.set, &out, &[]).ends_with(1).says(&["d-vda.qcow2", "exists already"]);
    assert_eq!(listing(&out), ["d-vda.qcow2"]);
    restore(&case.set, &out, &["--force"]).succeeds();
    compare(&out.join("d-vda.qcow2"), "qcow2", &case.domain.snapshot_reference("vda"));

    fs::remove_file(out.join("d-vdb.qcow2")).unwrap();
    fs::create_dir(out.join("d-vdb.qcow2")).unwrap();
    restore(&case.set, &out, &["--force", "-d", "vdb"]).ends_with(2).says(&["d-vdb.qcow2", "is a directory"]);
}
