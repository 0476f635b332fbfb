//! What the page cache is told of a file that several threads read once, front to back: what nobody needs again.
//!
//! It is not told what comes next: with `POSIX_FADV_WILLNEED` a pass took twice the time of what the kernel reads ahead
//! by itself.

use crate::stream::source::StreamFile;

/// What was read is forgotten in steps of so many bytes.
const STEP: u64 = 8 << 20;

/// No folio of the page cache is longer; what is told of a part of one has no effect.
const FOLIO: u64 = 4 << 20;

/// What was read leaves the page cache, which others need.
pub(super) struct Forgotten<'f> {
    file: &'f StreamFile,
    /// All before was read.
    read: u64,
    forgotten: u64,
}

impl<'f> Forgotten<'f> {
    /// Of `file`, nothing was read yet.
    pub(super) fn new(file: &'f StreamFile) -> Self {
        Self { file, read: 0, forgotten: 0 }
    }

    /// `length` more bytes were read, by whichever thread, and all before.
    pub(super) fn advance(&mut self, length: u64) {
        self.read += length;
        if self.read - self.forgotten >= STEP {
            self.forget();
        }
    }

    fn forget(&mut self) {
        // What was held by the last folio, too.
        self.file.forget(self.forgotten.saturating_sub(FOLIO)..self.read);
        self.forgotten = self.read;
    }
}

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}
