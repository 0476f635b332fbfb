//! A file that several threads write to at once, each at places of its own.
//!
//! ```text
//! ext4, XFS, devices; solid-state -> chunks in memory -> threads that write them around the page cache
//! all others, and small pieces    -> one thread at a time through the page cache, which it leaves soon
//! ```

mod behind;
mod both_ways;
mod cached;
mod chunk;
mod direct;
mod suits;

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::{Arc, OnceLock};

use cached::Cached;
use direct::Direct;

pub use cached::MAX_WRITE;

/// How bytes get to the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Around the page cache where that is faster.
    Fastest,
    /// Through the page cache.
    PageCache,
    /// Around the page cache where that is possible at all.
    #[cfg(test)]
    Direct,
}

impl Way {
    /// What the option `--page-cache` asks for.
    pub fn asked(page_cache: bool) -> Self {
        if page_cache { Self::PageCache } else { Self::Fastest }
    }
}

/// A file that is written to. No byte of it may be written twice through this.
#[derive(Debug)]
pub struct FileWriter {
    cached: Arc<Cached>,
    way: Way,
    /// Chosen with the first write.
    direct: OnceLock<Option<Direct>>,
}

impl FileWriter {
    /// Writes to `file` in the fastest way.
    pub fn new(file: File) -> Self {
        Self { cached: Arc::new(Cached::new(file)), way: Way::Fastest, direct: OnceLock::new() }
    }

    /// The same, written another way, before anything is.
    pub fn with_way(self, way: Way) -> Self {
        Self { way, ..self }
    }

    /// The file. It need not hold what was not drained.
    pub fn file(&self) -> &File {
        self.cached.file()
    }

    /// Writes all of `bytes` at `position`, now or later.
    ///
    /// # Errors
    /// Of the file, for these bytes or earlier ones, with what was written undefined.
    pub fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        match self.direct() {
            Some(direct) => direct.write(&[IoSlice::new(bytes)], position),
            None => self.cached.write_at(bytes, position),
        }
    }

    /// Writes all of `slices`, one behind the other, at `position`, now or later; best [`MAX_WRITE`] bytes in all.
    ///
    /// # Errors
    /// As for [`FileWriter::write_at`].
    pub fn write(&self, slices: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        match self.direct() {
            Some(direct) => direct.write(slices, position),
            None => self.cached.write(slices, position),
        }
    }

    /// All bytes are in the file when this returns.
    ///
    /// # Errors
    /// As for [`FileWriter::write_at`].
    pub fn drain(&self) -> io::Result<()> {
        self.direct.get().and_then(Option::as_ref).map_or(Ok(()), Direct::drain)
    }

    fn direct(&self) -> Option<&Direct> {
        let open = || {
            let file = suits::reopen(self.file(), self.way)?;
            Some(Direct::new(file, rustix::param::page_size(), Arc::clone(&self.cached)))
        };
        self.direct.get_or_init(open).as_ref()
    }

    /// Makes everything durable; nothing of it stays in the page cache.
    ///
    /// # Errors
    /// As for [`FileWriter::write_at`].
    pub fn sync(&self) -> io::Result<()> {
        self.drain()?;
        self.cached.sync()
    }
}

#[cfg(test)]
mod tests;
