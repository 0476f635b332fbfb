//! Writes through the page cache, which is not filled: one thread at a time, and what was written leaves it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, pwritev};

/// Bytes of one write, which the others who write to the same file wait for: a MiB of a disk, and the headers of the
/// frames that it is in. Headers that are written for themselves are as many writes again.
pub const MAX_WRITE: usize = (1 << 20) + (64 << 10);

/// The kernel is told in steps of so many bytes to write to the disk what was written.
const BEHIND_STEP: u64 = 8 << 20;

/// So many bytes stay in the page cache until they are durable.
const BEHIND: u64 = 64 << 20;

/// A file, written by one thread at a time.
#[derive(Debug)]
pub(super) struct Cached {
    file: File,
    /// Held while something is written: Linux lets one write at a time into a file, and who waits for that in the
    /// kernel takes a processor. How much was written, wherever, since the kernel was last told.
    turn: Mutex<u64>,
}

impl Cached {
    /// Writes to `file`.
    pub(super) fn new(file: File) -> Self {
        Self { file, turn: Mutex::new(0) }
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Writes all of `bytes` at `position`.
    ///
    /// # Errors
    /// Of the file, with what was written undefined.
    pub(super) fn write_at(&self, bytes: &[u8], mut position: u64) -> io::Result<()> {
        for part in bytes.chunks(MAX_WRITE) {
            self.write(&mut [IoSlice::new(part)], position)?;
            position += part.len() as u64;
        }
        Ok(())
    }

    /// Writes all of `slices`, one behind the other, at `position`; best [`MAX_WRITE`] bytes in all.
    ///
    /// # Errors
    /// As for [`Cached::write_at`].
    pub(super) fn write(&self, mut slices: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut told = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut end = position;
        while !slices.is_empty() {
            match pwritev(&self.file, slices, end) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    end += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        *told += end - position;
        if *told >= BEHIND_STEP {
            *told = 0;
            drop(told);
            self.write_behind(end);
        }
        Ok(())
    }

    /// Makes what was written durable; it leaves the page cache.
    ///
    /// # Errors
    /// Of the file.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        // Nothing depends on it.
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        Ok(())
    }

    /// A copy is not to fill the host's page cache, and not to leave all of the writing to its end. "Don't need"
    /// begins to write what is dirty of a range and drops the rest, so the second time drops what was written the
    /// first time. Advice that is not taken changes nothing.
    fn write_behind(&self, end: u64) {
        let before = |bytes: u64| end.saturating_sub(bytes);
        for range in [before(BEHIND + 2 * BEHIND_STEP)..before(BEHIND), before(2 * BEHIND_STEP)..end] {
            if let Some(length) = NonZeroU64::new(range.end - range.start) {
                let _ = fadvise(&self.file, range.start, Some(length), Advice::DontNeed);
            }
        }
    }
}
