//! Cuts a raw image into parts that can be checked each for itself.

use std::ops::Range;

use crate::stream::BLOCK;
use crate::stream::index::Piece;

/// Bytes of a part that has data: one request to the disk, behind that of the part before.
pub(super) const PART: u64 = BLOCK;

/// Bytes of one that is to be zero: mostly holes, which cost nothing.
const GAP: u64 = 1 << 30;

/// The parts of the image: ranges of whole blocks, with the data that is to be in each.
pub(super) struct Parts<'p> {
    /// Those that end behind `position`.
    pieces: &'p [Piece],
    position: u64,
    size: u64,
}

/// The pieces that have bytes of a part; they may reach out of it.
pub(super) type Pieces<'p> = &'p [Piece];

impl<'p> Parts<'p> {
    pub(super) fn new(pieces: &'p [Piece], size: u64) -> Self {
        Self { pieces, position: 0, size }
    }
}

impl<'p> Iterator for Parts<'p> {
    type Item = (Range<u64>, Pieces<'p>);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.position;
        if start >= self.size {
            return None;
        }
        let gone = self.pieces.partition_point(|piece| piece.end() <= start);
        self.pieces = &self.pieces[gone..];
        let end = match self.pieces.first() {
            Some(piece) if piece.offset < start + PART => start + PART,
            Some(piece) => (piece.offset / BLOCK * BLOCK).min(start + GAP),
            None => start + GAP,
        };
        let end = end.min(self.size);
        self.position = end;
        let count = self.pieces.partition_point(|piece| piece.offset < end);
        Some((start..end, &self.pieces[..count]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::index::Pieces;

    fn parts(pieces: &[(u64, u64)], size: u64) -> Vec<(Range<u64>, usize)> {
        let mut list = Pieces::default();
        for &(offset, length) in pieces {
            list.push(Piece { offset, length, position: offset, stored: length, rank: 0 }, size).unwrap();
        }
        Parts::new(&list.list, size).map(|(part, pieces)| (part, pieces.len())).collect()
    }

    #[test]
    fn parts_are_whole_blocks_and_leave_nothing_out() {
        assert_eq!(parts(&[], 0), []);
        assert_eq!(parts(&[], 7), [(0..7, 0)]);
        assert_eq!(parts(&[], GAP + 1), [(0..GAP, 0), (GAP..GAP + 1, 0)]);
        let end = 3 * PART + 5;
        assert_eq!(
            parts(&[(1, 2), (PART - 1, 2), (end - 4, 4)], end),
            [(0..PART, 2), (PART..2 * PART, 1), (2 * PART..3 * PART, 0), (3 * PART..end, 1)]
        );
        let far = GAP + PART + 3 * BLOCK + 7;
        assert_eq!(parts(&[(far, 1)], far + 1), [(0..GAP, 0), (GAP..far - 7, 0), (far - 7..far + 1, 1)]);
    }
}
