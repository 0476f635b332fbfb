//! Cuts a stream into parts that can be checked each for itself.

use std::ops::Range;

use super::Walk;
use crate::stream::BLOCK;
use crate::stream::frame::HEADER_LEN;

/// The numbers of the pieces in a part; one more than there are pieces stands for `stop`. None in a part that holds
/// headers of zero frames only, of which there may be millions in a row.
pub(super) type Pieces = Range<usize>;

/// The parts from the first byte of the file to behind `stop`, each with its place in the file. No block is in two of
/// them.
pub(super) struct Parts<'w> {
    walk: Walk<'w>,
    position: u64,
    /// The next piece.
    next: usize,
}

impl<'w> Parts<'w> {
    pub(super) fn new(walk: &Walk<'w>) -> Self {
        Self { walk: *walk, position: 0, next: 0 }
    }

    /// Bytes of zero frames before the next piece that no part has yet.
    fn room(&self) -> u64 {
        self.walk.header(self.next) - self.position.max(self.walk.frame.end)
    }

    /// Whether no block has bytes of the next piece and of the one before.
    fn can_cut(&self) -> bool {
        let pieces = &self.walk.index.pieces;
        let before = self.next.checked_sub(1).and_then(|before| pieces.get(before));
        before.zip(pieces.get(self.next)).is_none_or(|(before, next)| (before.end() - 1) / BLOCK < next.offset / BLOCK)
    }
}

impl Iterator for Parts<'_> {
    type Item = (Range<u64>, Pieces);

    fn next(&mut self) -> Option<Self::Item> {
        let count = self.walk.index.pieces.len();
        let (start, first) = (self.position, self.next);
        if first > count {
            return None;
        }
        let part = self.walk.part;
        if self.room() > part && self.can_cut() {
            let headers = (part / HEADER_LEN as u64).max(1);
            self.position = start.max(self.walk.frame.end) + headers * HEADER_LEN as u64;
            return Some((start..self.position, first..first));
        }
        while self.next <= count {
            self.position = match self.next < count {
                true => self.walk.begin(self.next + 1),
                false => self.walk.index.stop + HEADER_LEN as u64,
            };
            self.next += 1;
            if self.next <= count && (self.position - start >= part || self.room() > part) && self.can_cut() {
                break;
            }
        }
        Some((start..self.position, first..self.next))
    }
}
