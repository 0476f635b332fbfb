//! A directory as a tar from a guest, which may be hostile, unpacked into an empty directory of our own.
//!
//! - Every name is gone along part by part from that directory, never through a symbolic link: nothing outside can be
//!   reached, whatever links the tar makes.
//! - Nothing that is there is opened or replaced: all is created.
//! - Devices and sockets are left out; programs lose the bits that let them run as their owner.
//! - Directories get their modes and times at the end.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, chownat, linkat, mkdirat, mknodat, openat, symlinkat, syncfs, utimensat,
};
use rustix::io::Errno;
use tar::EntryType;

use super::text::shown;
use super::write::{self, Attributes};
use crate::error::{Error, Kind, Result};
use crate::pipeline::Progress;

/// What was unpacked.
#[derive(Debug, Default)]
pub struct Unpacked {
    /// Files, directories and links.
    pub count: u64,
    /// Bytes in files.
    pub bytes: u64,
    /// Left out: devices and sockets.
    pub left_out: Vec<String>,
    /// Programs that lost a bit.
    pub disarmed: Vec<String>,
    /// Of the directory itself.
    pub top: Option<Attributes>,
}

/// Unpacks. The directory itself keeps its mode: see [`Unpacked::top`].
///
/// # Errors
/// [`Kind::Protocol`] for a tar that is none, ends early, or would reach outside; of writing.
pub fn unpack(tar: impl Read, directory: BorrowedFd<'_>, progress: &dyn Progress) -> Result<Unpacked> {
    let mut work = Work { directory, done: Unpacked::default(), directories: Vec::new(), missing: HashSet::new() };
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().map_err(broken)?;
    for entry in entries {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path_bytes().into_owned();
        work.entry(&mut entry, &path, progress).map_err(|error| error.path(shown(&path)))?;
    }
    // A directory's times change with what is made in it, and its mode may forbid that.
    for (path, attributes) in work.directories.iter().rev() {
        let applied = work.open(path).and_then(|directory| attributes.apply(directory));
        applied.map_err(|error| error.path(shown(&path.join(&b'/'))))?;
    }
    syncfs(directory).map_err(|error| Error::io("write", error))?;
    Ok(work.done)
}

fn broken(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => Error::new(Kind::Protocol, "what guestfish sends is no whole tar").caused_by(error),
    }
}

struct Work<'d> {
    directory: BorrowedFd<'d>,
    done: Unpacked,
    directories: Vec<(Vec<Vec<u8>>, Attributes)>,
    /// Paths of what was left out: there are no hard links to it.
    missing: HashSet<Vec<Vec<u8>>>,
}

impl Work<'_> {
    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: &[u8], progress: &dyn Progress) -> Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let attributes = attributes(entry.header()).map_err(broken)?;
        let parts = parts(path)?;
        let Some((name, parents)) = parts.split_last() else {
            self.done.top = Some(attributes);
            return Ok(());
        };
        let parent = self.open(parents)?;
        let name = name.as_slice();
        match kind {
            EntryType::Directory => {
                mkdirat(&parent, name, Mode::RWXU).map_err(|error| Error::io("create", error))?;
                self.directories.push((parts, attributes));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(&parent, name, flags, Mode::RUSR | Mode::WUSR);
                let mut file = File::from(file.map_err(|error| Error::io("create", error))?);
                let size = entry.size();
                let copied = write::copy(&mut *entry, &mut file, progress)?;
                if copied != size {
                    return Err(Error::new(Kind::Protocol, format!("ends after {copied} of {size} bytes")));
                }
                attributes.apply(&file)?;
                self.done.bytes += copied;
                if attributes.is_harmful() {
                    self.done.disarmed.push(shown(path));
                }
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                symlinkat(target.as_slice(), &parent, name).map_err(|error| Error::io("create the link", error))?;
                dress(parent.as_fd(), name, &attributes)?;
            }
            EntryType::Link => {
                let target = self::parts(&entry.link_name_bytes().unwrap_or_default())?;
                if self.missing.contains(&target) {
                    return self.leave_out(parts, path);
                }
                let Some((of, of_parents)) = target.split_last() else {
                    return Err(Error::new(Kind::Protocol, "a hard link to a directory"));
                };
                let from = self.open(of_parents)?;
                // Without a flag it is a link to a symbolic link, not through it.
                linkat(&from, of.as_slice(), &parent, name, AtFlags::empty())
                    .map_err(|error| Error::io("create the hard link", error))?;
            }
            EntryType::Fifo => {
                mknodat(&parent, name, FileType::Fifo, attributes.harmless(), 0)
                    .map_err(|error| Error::io("create the pipe", error))?;
                dress(parent.as_fd(), name, &attributes)?;
            }
            _ => return self.leave_out(parts, path),
        }
        self.done.count += 1;
        Ok(())
    }

    fn leave_out(&mut self, parts: Vec<Vec<u8>>, path: &[u8]) -> Result<()> {
        self.missing.insert(parts);
        self.done.left_out.push(shown(path));
        Ok(())
    }

    /// A directory that was made here.
    fn open(&self, parts: &[Vec<u8>]) -> Result<OwnedFd> {
        const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
        let mut at = openat(self.directory, c".", FLAGS, Mode::empty()).map_err(|error| Error::io("open", error))?;
        for part in parts {
            at = openat(&at, part.as_slice(), FLAGS, Mode::empty()).map_err(|error| match error {
                Errno::LOOP | Errno::NOTDIR => Error::new(Kind::Protocol, "leads through what is no directory"),
                error => Error::io("open the directory of", error),
            })?;
        }
        Ok(at)
    }
}

/// Owner and times of what can't be opened.
fn dress(parent: BorrowedFd<'_>, name: &[u8], attributes: &Attributes) -> Result<()> {
    if let Some((uid, gid)) = attributes.owner() {
        chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| Error::io("set the owner", error))?;
    }
    utimensat(parent, name, &attributes.times(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| Error::io("set the times", error))
}

fn attributes(header: &tar::Header) -> std::io::Result<Attributes> {
    Ok(Attributes {
        mode: header.mode()?,
        uid: u32::try_from(header.uid()?).unwrap_or(u32::MAX - 1),
        gid: u32::try_from(header.gid()?).unwrap_or(u32::MAX - 1),
        // Before 1970 it is a large number, with its sign in it.
        mtime: header.mtime()? as i64,
        nanos: 0,
    })
}

/// The parts of a path inside; none for the directory itself.
fn parts(path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let outside = || Error::new(Kind::Protocol, "would be outside of the destination");
    if path.first() == Some(&b'/') || path.contains(&0) {
        return Err(outside());
    }
    let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.map(|part| if part == b".." { Err(outside()) } else { Ok(part.to_vec()) }).collect()
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
