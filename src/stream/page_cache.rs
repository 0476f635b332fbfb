//! What the page cache is told of a file that several threads read once, front to back: what comes next, and what
//! nobody needs again.

use std::collections::VecDeque;
use std::ops::Range;

use crate::stream::source::StreamFile;

/// Bytes that are announced and not taken yet.
const AHEAD: u64 = 16 << 20;

/// What was read is forgotten in steps of so many bytes.
const STEP: u64 = 8 << 20;

/// No folio of the page cache is longer; what is told of a part of one has no effect.
const FOLIO: u64 = 4 << 20;

/// Parts of a file in the order in which threads take them. A disk is told of each a while before, in the same order:
/// however the threads get on, it reads front to back, and has work while they compute. The parts come with the range
/// of the file that each will read.
pub(super) struct Foreseen<'f, P, I> {
    file: &'f StreamFile,
    parts: I,
    announced: VecDeque<(Range<u64>, P)>,
    bytes: u64,
}

impl<'f, P, I: Iterator<Item = (Range<u64>, P)>> Foreseen<'f, P, I> {
    /// Those of `file`.
    pub(super) fn new(file: &'f StreamFile, parts: I) -> Self {
        Self { file, parts, announced: VecDeque::new(), bytes: 0 }
    }
}

impl<P, I: Iterator<Item = (Range<u64>, P)>> Iterator for Foreseen<'_, P, I> {
    type Item = (Range<u64>, P);

    fn next(&mut self) -> Option<Self::Item> {
        while self.bytes < AHEAD {
            let Some((range, part)) = self.parts.next() else { break };
            // Of a long one the begin: who reads it in small pieces has it read ahead by the kernel.
            self.file.will_need(range.start..range.end.min(range.start.saturating_add(AHEAD)));
            self.bytes = self.bytes.saturating_add(length(&range));
            self.announced.push_back((range, part));
        }
        let (range, part) = self.announced.pop_front()?;
        self.bytes -= length(&range);
        Some((range, part))
    }
}

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

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::StoredFile;

    #[test]
    fn all_parts_come_in_their_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = StreamFile::open(StoredFile::from(file.path())).unwrap();
        let lengths = [1, AHEAD, 0, AHEAD * 3, 5 << 20, 5 << 20, 5 << 20, 5 << 20, 0, 7];
        let mut end = 0;
        let parts = lengths.iter().enumerate().map(|(number, length)| {
            end += length;
            (end - length..end, number)
        });
        let expected: Vec<_> = parts.collect();
        let found: Vec<_> = Foreseen::new(&file, expected.clone().into_iter()).collect();
        assert_eq!(found, expected);
    }
}
