//! Compares blocks with their digests, in the order of the table.

use std::ops::Range;

use super::Walk;
use crate::error::{Error, Result};
use crate::stream::BLOCK;
use crate::stream::digest::{self, BlockHasher, Digest};
use crate::stream::index::Piece;
use crate::stream::load::Digests;
use crate::stream::reader::locate;
use crate::stream::verify::Findings;

/// The blocks of one part.
pub(super) struct Blocks<'w> {
    walk: Walk<'w>,
    hasher: BlockHasher,
    known: Digests<'w>,
    /// Blocks whose damage was reported already: of the last damaged payloads, and of those before,
    /// whose last block may not be complete yet.
    spoilt: Range<u64>,
    spoilt_before: Range<u64>,
}

impl<'w> Blocks<'w> {
    /// Those that `pieces` touch; no other piece touches them.
    pub(super) fn new(walk: &Walk<'w>, pieces: &[Piece]) -> Self {
        let ranks = pieces.first().zip(pieces.last()).map_or(0..0, |(first, last)| {
            let touched = digest::blocks(last.offset, last.length);
            first.rank..last.rank + (touched.end - touched.start)
        });
        let known = Digests::new(walk.file, walk.own, ranks);
        Self { walk: *walk, hasher: BlockHasher::new(), known, spoilt: 0..0, spoilt_before: 0..0 }
    }

    /// `piece` can't be decompressed, which is told here: not once more for each of its blocks.
    pub(super) fn spoil(&mut self, piece: &Piece, error: Error, findings: &mut Findings) {
        let touched = digest::blocks(piece.offset, piece.length);
        if touched.start <= self.spoilt.end && !self.spoilt.is_empty() {
            self.spoilt.end = touched.end;
        } else {
            self.spoilt_before = std::mem::replace(&mut self.spoilt, touched);
        }
        findings.add(locate(error, piece, piece.range(), true), Some(piece.range()));
    }

    /// Goes on with `bytes`, which are at `offset` in the guest.
    pub(super) fn update(&mut self, offset: u64, bytes: &[u8], findings: &mut Findings) -> Result<()> {
        let mut hasher = std::mem::take(&mut self.hasher);
        hasher.update(offset, bytes, &mut |block, digest| self.compare(block, digest, findings))?;
        self.hasher = hasher;
        Ok(())
    }

    /// The end of the part.
    pub(super) fn finish(&mut self, findings: &mut Findings) -> Result<()> {
        std::mem::take(&mut self.hasher).finish(&mut |block, digest| self.compare(block, digest, findings))
    }

    fn compare(&mut self, block: u64, digest: Digest, findings: &mut Findings) -> Result<()> {
        let known = self.known.next()?;
        if known != digest && !self.spoilt.contains(&block) && !self.spoilt_before.contains(&block) {
            let Walk { frame, index, .. } = self.walk;
            let guest = block * BLOCK..((block + 1) * BLOCK).min(frame.meta.virtual_size);
            let number = index.pieces.partition_point(|piece| piece.end() <= guest.start);
            if let Some(piece) = index.pieces.get(number) {
                let error = Error::corrupt("block does not match its digest");
                let error = locate(error, piece, guest.clone(), frame.meta.compression.is_lz4());
                findings.add(error, Some(guest));
            }
        }
        Ok(())
    }
}
