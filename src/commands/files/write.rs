//! Copies on this host: content that stays thin, modes, times, owners.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, fchmod, fchown, futimens};
use rustix::process::geteuid;

use crate::error::{Error, Result};
use crate::pipeline::Progress;

/// Zeroes are left out in pieces of this size: a block of most file systems.
const BLOCK: usize = 4096;

/// What a copy keeps beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds.
    pub nanos: u32,
}

impl Attributes {
    /// The permissions without those that let a program run as its owner or group: those are a guest's numbers.
    pub fn harmless(&self) -> Mode {
        Mode::from_raw_mode(self.mode & 0o1777)
    }

    /// Whether [`Attributes::harmless`] leaves something out.
    pub fn is_harmful(&self) -> bool {
        self.mode & 0o6000 != 0
    }

    /// The times as the kernel takes them: of the last access it is the same.
    pub fn times(&self) -> Timestamps {
        let time = Timespec { tv_sec: self.mtime, tv_nsec: self.nanos.into() };
        Timestamps { last_access: time, last_modification: time }
    }

    /// The owner, where this user may give files away.
    pub fn owner(&self) -> Option<(Uid, Gid)> {
        geteuid().is_root().then(|| (Uid::from_raw(self.uid), Gid::from_raw(self.gid)))
    }

    /// Gives them to an open file or directory.
    ///
    /// # Errors
    /// Of the system's.
    pub fn apply(&self, file: impl AsFd) -> Result<()> {
        if let Some((uid, gid)) = self.owner() {
            fchown(&file, Some(uid), Some(gid)).map_err(|error| Error::io("set the owner", error))?;
        }
        fchmod(&file, self.harmless()).map_err(|error| Error::io("set the mode", error))?;
        futimens(&file, &self.times()).map_err(|error| Error::io("set the times", error))
    }
}

/// Writes all of `from` to a new, empty file; blocks of zeroes become holes. Returns the bytes.
///
/// # Errors
/// Of reading, or of writing.
pub fn copy(mut from: impl Read, to: &mut File, progress: &dyn Progress) -> Result<u64> {
    let failed = |error| Error::io("write", error);
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        let count = fill(&mut from, &mut buffer)?;
        if count == 0 {
            to.set_len(total).map_err(failed)?;
            return Ok(total);
        }
        let data = &buffer[..count];
        let mut position = 0;
        while position < count {
            let is_zero = |at: usize| data[at..count.min(at + BLOCK)].iter().all(|&byte| byte == 0);
            let zero = is_zero(position);
            let mut end = position;
            while end < count && is_zero(end) == zero {
                end = count.min(end + BLOCK);
            }
            if zero {
                to.seek(SeekFrom::Current((end - position) as i64)).map_err(failed)?;
            } else {
                to.write_all(&data[position..end]).map_err(failed)?;
            }
            position = end;
        }
        total += count as u64;
        progress.advance(count as u64);
    }
}

/// Reads until the buffer is full or the end comes.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read from guestfish", error)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Progress for Nothing {
        fn advance(&self, _: u64) {}
    }

    #[test]
    fn content_is_the_same_and_zeroes_take_no_space() {
        use std::os::unix::fs::MetadataExt;
        let mut content = vec![0; 8 << 20];
        content[5_000_000..5_000_100].fill(7);
        content[0] = 1;
        content.extend([0; 100]);
        for content in [&content[..], &[], &[0; 5000], b"x"] {
            let mut file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
            assert_eq!(copy(content, file.as_file_mut(), &Nothing).unwrap(), content.len() as u64);
            assert!(std::fs::read(file.path()).unwrap() == content);
            assert!(file.as_file().metadata().unwrap().blocks() < 1000);
        }
    }
}
