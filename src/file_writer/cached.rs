//! Writes through the page cache, which is not filled: one thread at a time, and what was written leaves it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, pwritev};

use super::behind::{Behind, STEP};

/// Bytes of one write, which the others who write to the same file wait for: a MiB of a disk, and the headers of the
/// frames that it is in. Headers that are written for themselves are as many writes again.
pub const MAX_WRITE: usize = (1 << 20) + (64 << 10);

/// A file, written by one thread at a time.
#[derive(Debug)]
pub(super) struct Cached {
    file: File,
    /// Held while something is written: Linux lets one write at a time into a file, and who waits for that in the
    /// kernel takes a processor. How much was written, wherever, since the kernel was last told.
    turn: Mutex<u64>,
    behind: Behind,
}

impl Cached {
    /// Writes to `file`.
    pub(super) fn new(file: File) -> Self {
        Self { file, turn: Mutex::new(0), behind: Behind::default() }
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
        if *told >= STEP {
            *told = 0;
            drop(told);
            self.behind.tell(&self.file, end);
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
}
