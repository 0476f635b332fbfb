//! Whether any process holds a lock on a file, found out without touching the file: taking a lock to see
//! whether it is free, be it for a moment, could make another program fail that wants it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What the kernel lists: a line for every lock on this host.
const LOCKS: &str = "/proc/locks";

/// Whether a process of this host holds a lock, of any kind, on the file at `path`; a file that is not
/// there is not locked. None where that can't be found out. Locks held by other hosts of a shared file
/// system are not seen.
pub fn is_locked(path: &Path) -> Option<bool> {
    let Ok(metadata) = path.symlink_metadata() else { return Some(false) };
    let locks = std::fs::read_to_string(LOCKS).ok()?;
    Some(lists(&locks, metadata.ino()))
}

/// Whether a list of the kernel's has a lock on inode `inode`. The device beside it is not compared: on
/// file systems with subvolumes it is not the one that a program is told. So a file of another file system
/// with the same number is taken for it, which errs on the side of leaving alone.
pub fn lists(locks: &str, inode: u64) -> bool {
    let of_line = |line: &str| -> Option<u64> {
        let mut fields = line.split_ascii_whitespace();
        // `1: -> FLOCK …` waits for lock 1.
        let place = fields.find(|field| field.matches(':').count() == 2)?;
        place.rsplit(':').next()?.parse().ok()
    };
    let waits = |line: &str| line.split_ascii_whitespace().nth(1) == Some("->");
    locks.lines().any(|line| !waits(line) && of_line(line) == Some(inode))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FlockOperation, flock};

    use super::*;

    #[test]
    fn lines_are_read() {
        let locks = "1: FLOCK  ADVISORY  WRITE 718 fe:00:1901 0 EOF\n\
                     2: OFDLCK ADVISORY  READ -1 00:2f:77 203 203\n\
                     2: -> FLOCK  ADVISORY  WRITE 719 fe:00:55 0 EOF\n3: x\n\n";
        for (inode, held) in [(1901, true), (77, true), (55, false), (718, false), (0, false)] {
            assert_eq!(lists(locks, inode), held, "{inode}");
        }
    }

    #[test]
    fn a_lock_is_seen_until_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert_eq!(is_locked(&path), Some(false));
        let file = std::fs::File::create(&path).unwrap();
        assert_eq!(is_locked(&path), Some(false));
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(is_locked(&path), Some(true));
        drop(file);
        assert_eq!(is_locked(&path), Some(false));
    }
}
