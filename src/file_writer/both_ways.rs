//! Puts what there is of a chunk into its file: whole pages directly, parts of pages through the page cache. So no page
//! is ever written in both ways: the kernel keeps those apart only where they do not meet (open(2), "O_DIRECT").

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, pwrite};

use super::cached::Cached;
use super::chunk::Chunk;

/// Fewer bytes in one piece are not worth a wait for the disk: the page cache gathers them.
const LEAST: usize = 64 << 10;

/// A file, opened twice.
#[derive(Debug)]
pub(super) struct BothWays {
    /// With `O_DIRECT`.
    file: File,
    cached: Arc<Cached>,
    page: usize,
    /// Whether a direct write was refused: no other is tried then.
    refused: AtomicBool,
}

impl BothWays {
    /// Writes pages of `page` bytes to `file`, which was opened with `O_DIRECT`, and the rest to the same file through
    /// `cached`.
    pub(super) fn new(file: File, page: usize, cached: Arc<Cached>) -> Self {
        Self { file, cached, page, refused: AtomicBool::new(false) }
    }

    /// Bytes of a page.
    pub(super) fn page(&self) -> usize {
        self.page
    }

    /// Writes the parts of `chunk`, each in the way that suits it.
    ///
    /// # Errors
    /// Of the file, with what was written undefined.
    pub(super) fn put(&self, chunk: &Chunk) -> io::Result<()> {
        for (position, bytes) in chunk.parts() {
            let before = (position.next_multiple_of(self.page as u64) - position) as usize;
            let whole = bytes.len().saturating_sub(before) / self.page * self.page;
            if whole < LEAST || self.refused.load(Ordering::Relaxed) {
                self.cached.write_at(bytes, position)?;
                continue;
            }
            let (before, rest) = bytes.split_at(before);
            let (pages, after) = rest.split_at(whole);
            let start = position + before.len() as u64;
            self.cached.write_at(before, position)?;
            self.put_pages(pages, start)?;
            self.cached.write_at(after, start + pages.len() as u64)?;
        }
        Ok(())
    }

    /// Writes whole pages directly, or as it goes where the storage takes no direct writes.
    fn put_pages(&self, mut bytes: &[u8], mut position: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match pwrite(&self.file, bytes, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    position += written as u64;
                }
                Err(Errno::INTR) => {}
                // Sectors larger than pages, for example.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    self.refused.store(true, Ordering::Relaxed);
                    return self.cached.write_at(bytes, position);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
