//! What one thread does with a part of a stream.

use std::ops::Range;

use super::Walk;
use super::blocks::Blocks;
use super::parts::Pieces;
use crate::error::{Error, Result};
use crate::stream::codec::Decompressor;
use crate::stream::frame::HEADER_LEN;
use crate::stream::index::Piece;
use crate::stream::sequential::{Sequential, Watch};
use crate::stream::sum::Sums;
use crate::stream::verify::Findings;

/// What a part was found to be.
pub(super) struct Checked {
    /// Its length in the file.
    pub(super) length: u64,
    /// The headers in it, one behind the other.
    pub(super) headers: Vec<u8>,
    /// What is wrong with the rest.
    pub(super) findings: Findings,
    /// Over its bytes; or why it could not be read to its end.
    pub(super) sums: Result<Sums>,
}

/// A thread's memory.
pub(super) struct Reading<'w> {
    walk: Walk<'w>,
    input: Sequential<'w>,
    decompressor: Decompressor,
    stored: Vec<u8>,
    content: Vec<u8>,
}

impl<'w> Reading<'w> {
    pub(super) fn new(walk: &Walk<'w>, watch: Watch<'w>) -> Self {
        let input = Sequential::new(walk.file, watch);
        Self { walk: *walk, input, decompressor: Decompressor::new(), stored: Vec::new(), content: Vec::new() }
    }

    /// Reads a part: `range` of the file, in which `pieces` are.
    pub(super) fn check(&mut self, (range, pieces): (Range<u64>, Pieces)) -> Checked {
        let (mut headers, mut findings) = (Vec::new(), Findings::default());
        let length = range.end - range.start;
        self.input.turn_to(range.clone());
        let sums = self.read(range.end, pieces, &mut headers, &mut findings);
        Checked { length, headers, findings, sums }
    }

    fn read(&mut self, end: u64, pieces: Pieces, headers: &mut Vec<u8>, findings: &mut Findings) -> Result<Sums> {
        let walk = self.walk;
        // The meta frame was proven when the index was loaded, from the same bytes.
        self.input.skip(walk.frame.end.saturating_sub(self.input.position()))?;
        let all = &walk.index.pieces;
        let mut blocks = Blocks::new(&walk, &all[pieces.start.min(all.len())..pieces.end.min(all.len())]);
        for number in pieces {
            self.headers(walk.header(number) + HEADER_LEN as u64, headers)?;
            let Some(piece) = all.get(number) else { break };
            self.payload(piece, &mut blocks, findings)?;
            if !self.input.terminator()? {
                let error = Error::corrupt("payload is not followed by a line end").at(self.input.position() - 2);
                findings.add(error, None);
            }
        }
        self.headers(end, headers)?;
        blocks.finish(findings)?;
        self.input.finish()
    }

    /// Reads the headers up to `end`.
    fn headers(&mut self, end: u64, headers: &mut Vec<u8>) -> Result<()> {
        self.input.feed(end - self.input.position(), &mut |bytes| {
            headers.extend_from_slice(bytes);
            Ok(())
        })
    }

    /// Reads a payload and compares the guest's bytes in it.
    fn payload(&mut self, piece: &Piece, blocks: &mut Blocks<'_>, findings: &mut Findings) -> Result<()> {
        if !self.walk.frame.meta.compression.is_lz4() {
            let mut offset = piece.offset;
            return self.input.feed(piece.stored, &mut |part| {
                blocks.update(offset, part, findings)?;
                offset += part.len() as u64;
                Ok(())
            });
        }
        // Both bounded when the index was loaded: below 32 MiB, and what those can take.
        self.stored.resize(piece.stored as usize, 0);
        self.input.take(&mut self.stored)?;
        self.content.resize(piece.length as usize, 0);
        if let Err(error) = self.decompressor.decompress_exact(&mut self.stored, &mut self.content) {
            blocks.spoil(piece, error, findings);
        }
        blocks.update(piece.offset, &self.content, findings)
    }
}
