//! One pass over a stream of ours, along its index: every byte of the file is compared with what it must be, or with
//! a digest of it.
//!
//! Several threads read the file, each a part of it at a time (`parts`): they sum its bytes, decompress, and compare
//! blocks with their digests (`reading`, `blocks`). The headers between the payloads are looked at in the order of the
//! file (`frames`).

mod blocks;
mod frames;
mod parts;
mod reading;

use std::ops::Range;

use self::frames::Frames;
use self::parts::Parts;
use self::reading::{Checked, Reading};
use crate::error::{Error, Result};
use crate::side_by_side::in_order;
use crate::stream::frame::{HEADER_LEN, TERMINATOR};
use crate::stream::index::{Index, OwnIndex};
use crate::stream::load::Tail;
use crate::stream::page_cache::Forgotten;
use crate::stream::sequential::{Sequential, Watch};
use crate::stream::source::{MetaFrame, StreamFile};
use crate::stream::sum::Sums;
use crate::stream::verify::Findings;

/// Bytes of a part.
pub(super) const PART: u64 = 1 << 20;

/// The pass over a stream of ours.
#[derive(Clone, Copy)]
pub(super) struct Walk<'w> {
    pub(super) file: &'w StreamFile,
    pub(super) frame: &'w MetaFrame,
    pub(super) index: &'w Index,
    pub(super) own: &'w OwnIndex,
    pub(super) tail: &'w Tail,
    /// Bytes of a part; it is longer up to the end of a piece, and of the last block that this touches.
    pub(super) part: u64,
}

impl Walk<'_> {
    /// Reads the whole file; its sums. Damages go into `findings`; an error ends the pass.
    pub(super) fn run(&self, threads: usize, watch: Watch<'_>, findings: &mut Findings) -> Result<Sums> {
        let mut sums = Sums::empty(self.file.stored.crc32().is_some());
        let mut frames = Frames::new(self);
        let most = usize::try_from(self.file.size.div_ceil(self.part)).unwrap_or(usize::MAX);
        let mut forgotten = Forgotten::new(self.file);
        let merge = |checked: Checked| {
            frames.check(&checked.headers, findings);
            findings.append(checked.findings);
            sums = sums.then(checked.sums?, checked.length);
            forgotten.advance(checked.length);
            Ok(())
        };
        let state = || Reading::new(self, watch);
        in_order(Parts::new(self), threads.min(most), state, |reading, part| reading.check(part), merge)?;
        frames.finish(findings);
        let rest = self.index.stop + HEADER_LEN as u64..self.file.size;
        let length = rest.end - rest.start;
        let sums = sums.then(self.rest(rest, watch, findings)?, length);
        forgotten.advance(length);
        Ok(sums)
    }

    /// What follows the frames: the index, proven when it was loaded from the same bytes, and the list of sizes.
    fn rest(&self, range: Range<u64>, watch: Watch<'_>, findings: &mut Findings) -> Result<Sums> {
        let mut input = Sequential::new(self.file, watch);
        input.turn_to(range);
        if let Some(sizes) = &self.tail.sizes {
            input.skip(sizes.start - input.position())?;
            self.sizes(&mut input, sizes, findings)?;
        }
        input.finish()
    }

    /// The list of stored sizes, text for text what the index makes it.
    fn sizes(&self, input: &mut Sequential<'_>, range: &Range<u64>, findings: &mut Findings) -> Result<()> {
        let mut same = true;
        let mut text = String::from("[");
        let mut found = Vec::new();
        let mut left = range.end - range.start;
        let last = self.index.pieces.len();
        for number in 0..=last {
            match self.index.pieces.get(number) {
                Some(piece) => {
                    let separator = if number == 0 { "" } else { ", " };
                    text.push_str(&format!("{separator}{}", piece.stored));
                }
                None => text.push(']'),
            }
            if text.len() as u64 > left {
                same = false;
                break;
            }
            found.resize(text.len(), 0);
            input.take(&mut found)?;
            left -= text.len() as u64;
            same &= found == text.as_bytes();
            text.clear();
        }
        if !same || left > 0 {
            let error = Error::corrupt("list of stored sizes differs from the index").at(range.start);
            findings.add(error, None);
        }
        Ok(())
    }

    /// Where what belongs to the piece of that number begins: with the headers of zero frames before it. For the
    /// number of pieces, where those before `stop` do.
    fn begin(&self, number: usize) -> u64 {
        let before = number.checked_sub(1).and_then(|before| self.index.pieces.get(before));
        before.map_or(self.frame.end, |piece| piece.position + piece.stored + TERMINATOR.len() as u64)
    }

    /// Where the header of the piece of that number is. For the number of pieces, where that of `stop` is.
    fn header(&self, number: usize) -> u64 {
        self.index.pieces.get(number).map_or(self.index.stop, |piece| piece.position - HEADER_LEN as u64)
    }
}
