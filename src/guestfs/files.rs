//! Files in what is mounted: their names byte for byte, and what they are.

use super::quote;
use super::shell::Shell;
use crate::error::{Error, Kind, Result};

/// What `stat` says of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stat {
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Number of the owner, in the guest.
    pub uid: u32,
    /// Number of the group, in the guest.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nanos: u32,
    /// Device numbers, of a device.
    pub rdev: u64,
}

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// Data.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket.
    Special(char),
}

impl Stat {
    /// The kind of file.
    pub fn kind(&self) -> Kinds {
        match self.mode >> 12 & 0o17 {
            0o10 => Kinds::File,
            0o04 => Kinds::Directory,
            0o12 => Kinds::Link,
            0o02 => Kinds::Special('c'),
            0o06 => Kinds::Special('b'),
            0o01 => Kinds::Special('p'),
            0o14 => Kinds::Special('s'),
            _ => Kinds::Special('?'),
        }
    }

    /// Fields are `st_NAME: NUMBER`, one a line.
    fn parse(text: &str) -> Option<Self> {
        let mut stat = Self::default();
        let mut inode = None;
        for line in text.lines() {
            let Some((name, value)) = line.trim().split_once(": ") else { continue };
            let value: i64 = value.trim().parse().ok()?;
            match name {
                "st_ino" => inode = Some(value),
                "st_mode" => stat.mode = u32::try_from(value).ok()?,
                "st_uid" => stat.uid = value as u32,
                "st_gid" => stat.gid = value as u32,
                "st_size" => stat.size = u64::try_from(value).ok()?,
                "st_rdev" => stat.rdev = value as u64,
                "st_mtime_sec" => stat.mtime = value,
                "st_mtime_nsec" => stat.mtime_nanos = u32::try_from(value).ok()?,
                _ => {}
            }
        }
        // It is -1 for a file of a list that is not there.
        inode.filter(|&inode| inode != -1).map(|_| stat)
    }
}

/// A file in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name; below the directory that was asked for, its path in it.
    pub name: Vec<u8>,
    /// What it is.
    pub stat: Stat,
    /// Where a symbolic link points.
    pub target: Option<Vec<u8>>,
}

/// What is at `path`; a symbolic link itself, unless `follow`.
///
/// # Errors
/// [`Kind::NotFound`]; others of guestfish's.
pub fn stat(shell: &mut Shell, path: &[u8], follow: bool) -> Result<Stat> {
    let text = shell.text(if follow { "statns" } else { "lstatns" }, &[path])?;
    Stat::parse(&text).ok_or_else(|| Error::new(Kind::Protocol, "guestfish answers with no state of a file"))
}

/// What is in a directory, sorted by name; with `deep` in all below, too.
///
/// # Errors
/// Of guestfish's.
pub fn list(shell: &mut Shell, directory: &[u8], deep: bool) -> Result<Vec<Entry>> {
    let names = shell.call(if deep { "find0" } else { "ls0" }, &[directory, b"-"])?;
    let mut names: Vec<Vec<u8>> = names
        .split(|&byte| byte == 0)
        .map(|name| name.strip_prefix(b"/").unwrap_or(name).to_vec())
        .filter(|name| !name.is_empty() && name != b"." && name != b"..")
        .collect();
    names.sort();
    let mut entries = Vec::new();
    let (plain, odd): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| quote::is_plain(name));
    for names in batches(&plain) {
        let list = names.join(&b' ');
        let text = shell.text("lstatnslist", &[directory, &list])?;
        // [0] = { … } [1] = { … }
        let stats: Vec<&str> = text.split("] = {").skip(1).collect();
        if stats.len() != names.len() {
            return Err(Error::new(Kind::Protocol, "guestfish answers with another number of files"));
        }
        for (name, text) in names.iter().zip(stats) {
            let stat = Stat::parse(text).ok_or_else(|| unreadable(name))?;
            entries.push(Entry { name: name.clone(), stat, target: None });
        }
    }
    for name in odd {
        let stat = stat(shell, &join(directory, &name), false)?;
        entries.push(Entry { name, stat, target: None });
    }
    for entry in entries.iter_mut().filter(|entry| entry.stat.kind() == Kinds::Link) {
        entry.target = Some(target(shell, &join(directory, &entry.name))?);
    }
    entries.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(entries)
}

/// Where a symbolic link points.
///
/// # Errors
/// Of guestfish's.
pub fn target(shell: &mut Shell, path: &[u8]) -> Result<Vec<u8>> {
    let mut target = shell.call("readlink", &[path])?;
    if target.last() == Some(&b'\n') {
        target.pop();
    }
    Ok(target)
}

fn unreadable(name: &[u8]) -> Error {
    Error::new(Kind::Io, format!("{:?} can't be looked at", String::from_utf8_lossy(name)))
}

/// A path in a directory.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend(name);
    path
}

/// As many names at a time as fit on a line beside the directory's, which may have to be escaped.
fn batches(names: &[Vec<u8>]) -> Vec<&[Vec<u8>]> {
    const ROOM: usize = 3000;
    let mut batches = Vec::new();
    let (mut begin, mut length) = (0, 0);
    for (position, name) in names.iter().enumerate() {
        if position > begin && length + name.len() + 1 > ROOM {
            batches.push(&names[begin..position]);
            (begin, length) = (position, 0);
        }
        length += name.len() + 1;
    }
    if begin < names.len() {
        batches.push(&names[begin..]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_parsed() {
        let text = "{\n  st_dev: 64768\n  st_ino: 136\n  st_mode: 41471\n  st_uid: 5\n  st_size: 11\n  st_mtime_sec: -7\n  st_mtime_nsec: 48001339\n}\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.kind(), stat.mode & 0o7777, stat.uid, stat.size), (Kinds::Link, 0o777, 5, 11));
        assert_eq!((stat.mtime, stat.mtime_nanos), (-7, 48_001_339));
        assert_eq!(Stat::parse("st_ino: -1\nst_mode: 0\n"), None);
        assert_eq!(Stat::parse("st_ino: x\n"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn batches_hold_all_names_in_order() {
        let names: Vec<Vec<u8>> = (0..1000).map(|number| vec![b'a'; 1 + number % 250]).collect();
        let batches = batches(&names);
        assert_eq!(batches.concat(), names);
        assert!(batches.iter().all(|batch| batch.iter().map(|name| name.len() + 1).sum::<usize>() <= 3000));
        assert_eq!(super::batches(&[]).len(), 0);
        assert_eq!(super::batches(&[vec![b'a'; 4000]]).len(), 1);
    }
}
