//! Tars as a hostile guest might make them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::*;
use crate::error::report;

struct Nothing;

impl Progress for Nothing {
    fn advance(&self, _: u64) {}
}

/// A tar entry whose names are taken as they are.
fn add(tar: &mut Vec<u8>, kind: EntryType, name: &[u8], link: &[u8], mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name);
    gnu.linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(4711);
    header.set_gid(4712);
    header.set_mtime(1_000_000_007);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.extend(header.as_bytes());
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn file(tar: &mut Vec<u8>, name: &[u8], content: &[u8]) {
    add(tar, EntryType::Regular, name, b"", 0o640, content);
}

fn ended(mut tar: Vec<u8>) -> Vec<u8> {
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// Unpacks into `inside` of a directory, beside which nothing may change.
fn try_unpack(tar: Vec<u8>) -> (tempfile::TempDir, Result<Unpacked>) {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::create_dir(directory.path().join("outside")).unwrap();
    std::fs::write(directory.path().join("outside/file"), "theirs").unwrap();
    let opened = File::open(&inside).unwrap();
    let result = unpack(&tar[..], opened.as_fd(), &Nothing);
    let names = |path: &Path| std::fs::read_dir(path).unwrap().count();
    assert_eq!((names(directory.path()), names(&directory.path().join("outside"))), (2, 1), "it got out");
    assert_eq!(std::fs::read(directory.path().join("outside/file")).unwrap(), b"theirs");
    (directory, result)
}

#[track_caller]
fn refused(tar: Vec<u8>, words: &str) {
    let error = try_unpack(ended(tar)).1.unwrap_err();
    assert!(report(&error).contains(words), "{}", report(&error));
}

#[test]
fn what_a_guest_has_is_kept() {
    let mut tar = Vec::new();
    add(&mut tar, EntryType::Directory, b"./", b"", 0o755, b"");
    add(&mut tar, EntryType::Directory, b"./d/", b"", 0o500, b"");
    file(&mut tar, b"./d/a b\n\\\xff", b"content");
    file(&mut tar, b"./-rf", b"");
    add(&mut tar, EntryType::Symlink, b"./passwd", b"/etc/passwd", 0o777, b"");
    add(&mut tar, EntryType::Link, b"./again", b"./d/a b\n\\\xff", 0o640, b"");
    add(&mut tar, EntryType::Fifo, b"./pipe", b"", 0o600, b"");
    let (directory, result) = try_unpack(ended(tar));
    let done = result.unwrap();
    assert_eq!((done.count, done.bytes, done.left_out.len(), done.disarmed.len()), (6, 7, 0, 0));
    assert_eq!(done.top.unwrap().mode, 0o755);
    let inside = directory.path().join("inside");
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a b\n\\\xff");
    let file = inside.join("d").join(name);
    assert_eq!(std::fs::read(&file).unwrap(), b"content");
    let (found, linked) = (file.metadata().unwrap(), inside.join("again").metadata().unwrap());
    assert_eq!((found.ino(), found.mode() & 0o7777, found.mtime()), (linked.ino(), 0o640, 1_000_000_007));
    let folder = inside.join("d").metadata().unwrap();
    assert_eq!((folder.mode() & 0o7777, folder.mtime()), (0o500, 1_000_000_007));
    assert_eq!(std::fs::read_link(inside.join("passwd")).unwrap(), Path::new("/etc/passwd"));
    let is_root = rustix::process::geteuid().is_root();
    assert!(!is_root || (found.uid(), folder.gid()) == (4711, 4712));
}

#[test]
fn nothing_gets_out_by_its_name() {
    for name in [&b"../outside/new"[..], b"/tmp/virtkeep-new", b"d/../../outside/new", b"..", b"./.."] {
        let mut tar = Vec::new();
        add(&mut tar, EntryType::Directory, b"d", b"", 0o755, b"");
        file(&mut tar, name, b"x");
        refused(tar, "outside of the destination");
    }
}

#[test]
fn nothing_gets_out_through_links() {
    // The directory is a link.
    let mut tar = Vec::new();
    add(&mut tar, EntryType::Symlink, b"d", b"../outside", 0o777, b"");
    file(&mut tar, b"d/file", b"ours");
    refused(tar, "no directory");
    // The file itself is.
    let mut tar = Vec::new();
    add(&mut tar, EntryType::Symlink, b"f", b"../outside/file", 0o777, b"");
    file(&mut tar, b"f", b"ours");
    refused(tar, "exists");
    // A directory in place of a link would change the mode of what that points to.
    let mut tar = Vec::new();
    add(&mut tar, EntryType::Symlink, b"d", b"../outside", 0o777, b"");
    add(&mut tar, EntryType::Directory, b"d", b"", 0o777, b"");
    refused(tar, "exists");
    // Hard links to what is outside.
    for target in [&b"../outside/file"[..], b"/etc/passwd"] {
        let mut tar = Vec::new();
        add(&mut tar, EntryType::Link, b"f", target, 0o644, b"");
        refused(tar, "outside of the destination");
    }
    // And through a link.
    let mut tar = Vec::new();
    add(&mut tar, EntryType::Symlink, b"d", b"../outside", 0o777, b"");
    add(&mut tar, EntryType::Link, b"f", b"d/file", 0o644, b"");
    refused(tar, "no directory");
}

#[test]
fn what_could_do_harm_is_left_out_and_told() {
    let mut tar = Vec::new();
    add(&mut tar, EntryType::Regular, b"sudo", b"", 0o4755, b"x");
    add(&mut tar, EntryType::Regular, b"wall", b"", 0o2755, b"x");
    add(&mut tar, EntryType::Block, b"sda", b"", 0o666, b"");
    add(&mut tar, EntryType::Char, b"mem", b"", 0o666, b"");
    add(&mut tar, EntryType::Link, b"mem2", b"mem", 0o666, b"");
    let (directory, result) = try_unpack(ended(tar));
    let done = result.unwrap();
    assert_eq!(done.left_out, ["sda", "mem", "mem2"]);
    assert_eq!(done.disarmed, ["sudo", "wall"]);
    let inside = directory.path().join("inside");
    assert_eq!(inside.join("sudo").metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::read_dir(inside).unwrap().count(), 2);
}

#[test]
fn a_tar_that_ends_early_is_no_whole_one() {
    let mut tar = Vec::new();
    file(&mut tar, b"a", &[7; 5000]);
    tar.truncate(3000);
    assert!(try_unpack(tar).1.is_err());
    assert!(try_unpack(vec![7; 4096]).1.is_err());
}
