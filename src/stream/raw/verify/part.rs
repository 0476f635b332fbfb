//! What one thread does with a part of a raw image: data against digests, the rest against zero.

use std::ops::Range;

use simd_adler32::Adler32;

use super::parts::Pieces;
use crate::error::{Error, Result};
use crate::stream::BLOCK;
use crate::stream::digest::{self, BlockHasher, Digest};
use crate::stream::index::OwnIndex;
use crate::stream::load::Digests;
use crate::stream::raw::verify::Image;
use crate::stream::source::StreamFile;
use crate::stream::sum;
use crate::stream::verify::Findings;

/// What a part was found to be.
pub(super) struct Checked {
    /// Its length.
    pub(super) length: u64,
    /// What is wrong with it.
    pub(super) findings: Findings,
    /// Over its bytes; or why it could not be read to its end.
    pub(super) adler32: Result<u32>,
}

/// A thread's memory.
pub(super) struct Reading<'r> {
    image: Image<'r>,
    /// Where the digests are.
    digests: &'r StreamFile,
    own: &'r OwnIndex,
    buffer: Vec<u8>,
}

impl<'r> Reading<'r> {
    pub(super) fn new(image: Image<'r>, digests: &'r StreamFile, own: &'r OwnIndex) -> Self {
        Self { image, digests, own, buffer: Vec::new() }
    }

    /// Reads the part `range`, in which bytes of `pieces` are.
    pub(super) fn check(&mut self, range: Range<u64>, pieces: Pieces<'_>) -> Checked {
        let mut findings = Findings::default();
        let length = range.end - range.start;
        let adler32 = self.read(range, pieces, &mut findings);
        Checked { length, findings, adler32 }
    }

    fn read(&mut self, range: Range<u64>, pieces: Pieces<'_>, findings: &mut Findings) -> Result<u32> {
        let mut adler = Adler32::new();
        let mut blocks = Blocks::new(self.digests, self.own, range.clone(), pieces);
        let mut hasher = BlockHasher::new();
        let mut position = range.start;
        for piece in pieces {
            let data = piece.offset.max(range.start)..piece.end().min(range.end);
            self.gap(position..data.start, &mut adler, findings)?;
            position = data.end;
            self.image.read(data, &mut self.buffer, &mut |offset, bytes| {
                adler.write(bytes);
                hasher.update(offset, bytes, &mut |block, digest| blocks.compare(block, digest, findings))
            })?;
        }
        hasher.finish(&mut |block, digest| blocks.compare(block, digest, findings))?;
        self.gap(position..range.end, &mut adler, findings)?;
        Ok(adler.finish())
    }

    /// What the index says is zero must read so.
    fn gap(&mut self, range: Range<u64>, adler: &mut Adler32, findings: &mut Findings) -> Result<()> {
        let mut summed = range.start;
        self.image.each_data(range.clone(), &mut self.buffer, &mut |offset, bytes| {
            add_zeroes(adler, offset - summed);
            adler.write(bytes);
            summed = offset + bytes.len() as u64;
            if bytes.iter().any(|byte| *byte != 0) {
                findings
                    .add(Error::corrupt("has data where it should read as zeroes").at(offset), Some(offset..summed));
            }
            Ok(())
        })?;
        add_zeroes(adler, range.end - summed);
        Ok(())
    }
}

/// As if `length` zero bytes were summed.
fn add_zeroes(adler: &mut Adler32, length: u64) {
    *adler = Adler32::from_checksum(sum::combine(adler.finish(), sum::zeroes(length), length));
}

/// Compares the blocks of a part with their digests, in the order of the table.
struct Blocks<'b> {
    known: Digests<'b>,
    virtual_size: u64,
}

impl<'b> Blocks<'b> {
    /// Those of `part`, which are whole, that `pieces` touch.
    fn new(file: &'b StreamFile, own: &'b OwnIndex, part: Range<u64>, pieces: Pieces<'_>) -> Self {
        // The entry of the table for a block that the piece touches.
        let ranks = pieces.first().zip(pieces.last()).map_or(0..0, |(first, last)| {
            let skipped = (part.start / BLOCK).saturating_sub(first.offset / BLOCK);
            let touched = digest::blocks(last.offset, last.end().min(part.end) - last.offset);
            first.rank + skipped..last.rank + (touched.end - touched.start)
        });
        Self { known: Digests::new(file, own, ranks), virtual_size: own.header.virtual_size }
    }

    fn compare(&mut self, block: u64, digest: Digest, findings: &mut Findings) -> Result<()> {
        if self.known.next()? != digest {
            let guest = block * BLOCK..((block + 1) * BLOCK).min(self.virtual_size);
            findings.add(Error::corrupt("block does not match its digest").at(guest.start), Some(guest));
        }
        Ok(())
    }
}
