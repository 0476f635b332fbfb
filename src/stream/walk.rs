//! One pass over a stream of ours, along its index: every byte of the file is compared with what it
//! must be, or with a digest of it.

use std::cell::RefCell;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::stream::BLOCK;
use crate::stream::codec::Decompressor;
use crate::stream::digest::{self, BlockHasher, DIGEST_LEN, Digest};
use crate::stream::frame::{HEADER_LEN, Header, Kind};
use crate::stream::index::{Index, OwnIndex, Piece};
use crate::stream::load::{self, Tail};
use crate::stream::reader::locate;
use crate::stream::source::{MetaFrame, Sequential, StreamFile, Sums, Watch};
use crate::stream::verify::Report;

/// Digests read at once.
const DIGESTS: usize = 4096;

/// The pass over a stream of ours.
pub(super) struct Walk<'w> {
    pub(super) file: &'w StreamFile,
    pub(super) frame: &'w MetaFrame,
    pub(super) index: &'w Index,
    pub(super) own: &'w OwnIndex,
    pub(super) tail: &'w Tail,
}

impl Walk<'_> {
    /// Reads the whole file; its sums. Damages go into `report`; an error ends the pass.
    pub(super) fn run(&self, watch: Watch<'_>, report: &mut Report) -> Result<Option<Sums>> {
        let mut input = Sequential::new(self.file, watch, false).forgetting();
        // Proven when the index was loaded, from the same bytes.
        input.skip(self.frame.end)?;
        let mut headers = blake3::Hasher::new();
        let findings = RefCell::new(report);
        let mut blocks = Blocks::new(self, &findings);
        let mut payload = Payload::default();
        let mut guest = 0;
        for piece in &self.index.pieces {
            let header = piece.position - HEADER_LEN as u64;
            self.zero_headers(&mut input, guest..piece.offset, header, &mut headers, &findings)?;
            let expected = Header::new(Kind::Data, piece.offset, piece.length);
            self.header(&mut input, expected, Some(piece.range()), &mut headers, &findings)?;
            payload.check(self, &mut input, piece, &mut blocks)?;
            if !input.terminator()? {
                let error = Error::corrupt("payload is not followed by a line end").at(input.position() - 2);
                findings.borrow_mut().add(error, None);
            }
            guest = piece.end();
        }
        blocks.finish()?;
        self.zero_headers(&mut input, guest..self.frame.meta.virtual_size, self.index.stop, &mut headers, &findings)?;
        self.header(&mut input, Header::new(Kind::Stop, 0, 0), None, &mut headers, &findings)?;
        if *headers.finalize().as_bytes() != self.own.header.headers_hash {
            let error = Error::corrupt("frame headers don't match their digest").at(self.frame.end);
            findings.borrow_mut().add(error, None);
        }
        self.sizes(&mut input, &findings)?;
        input.finish()
    }

    /// The header that must be next.
    fn header(
        &self,
        input: &mut Sequential<'_>,
        expected: Header,
        range: Option<Range<u64>>,
        headers: &mut blake3::Hasher,
        findings: &RefCell<&mut Report>,
    ) -> Result<()> {
        let position = input.position();
        let (bytes, header) = input.header()?;
        headers.update(&bytes);
        let error = match header {
            Ok(header) if header == expected => return Ok(()),
            Ok(_) => Error::corrupt("frame header is not the one in the index"),
            Err(error) => error,
        };
        findings.borrow_mut().add(error.at(position), range);
        Ok(())
    }

    /// The headers of zero frames up to file position `end`: together they are `gap`.
    fn zero_headers(
        &self,
        input: &mut Sequential<'_>,
        gap: Range<u64>,
        end: u64,
        headers: &mut blake3::Hasher,
        findings: &RefCell<&mut Report>,
    ) -> Result<()> {
        if self.frame.meta.incremental {
            return Ok(());
        }
        let start = input.position();
        let mut guest = Some(gap.start);
        while input.position() < end {
            let (bytes, header) = input.header()?;
            headers.update(&bytes);
            guest = guest.and_then(|guest| match header {
                Ok(Header { kind: Kind::Zero, start, length }) if start == guest && length > 0 => {
                    guest.checked_add(length)
                }
                _ => None,
            });
        }
        if guest != Some(gap.end) {
            findings.borrow_mut().add(Error::corrupt("zero frames don't fill their gap").at(start), Some(gap));
        }
        Ok(())
    }

    /// The list of stored sizes, text for text what the index makes it.
    fn sizes(&self, input: &mut Sequential<'_>, findings: &RefCell<&mut Report>) -> Result<()> {
        let Some(range) = &self.tail.sizes else { return Ok(()) };
        input.skip(range.start - input.position())?;
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
            findings.borrow_mut().add(error, None);
        }
        Ok(())
    }
}

/// Reads payloads and turns them into guest bytes.
#[derive(Default)]
struct Payload {
    decompressor: Decompressor,
    stored: Vec<u8>,
    content: Vec<u8>,
}

impl Payload {
    fn check(
        &mut self,
        walk: &Walk<'_>,
        input: &mut Sequential<'_>,
        piece: &Piece,
        blocks: &mut Blocks<'_>,
    ) -> Result<()> {
        if !walk.frame.meta.compression.is_lz4() {
            let mut offset = piece.offset;
            return input.feed(piece.stored, &mut |part| {
                blocks.update(offset, part)?;
                offset += part.len() as u64;
                Ok(())
            });
        }
        // Both bounded when the index was loaded: below 32 MiB, and what those can take.
        self.stored.resize(piece.stored as usize, 0);
        input.take(&mut self.stored)?;
        self.content.resize(piece.length as usize, 0);
        if let Err(error) = self.decompressor.decompress_exact(&mut self.stored, &mut self.content) {
            blocks.spoil(piece, error);
        }
        blocks.update(piece.offset, &self.content)
    }
}

/// Compares blocks with their digests, in the order of the table.
struct Blocks<'b> {
    walk: &'b Walk<'b>,
    findings: &'b RefCell<&'b mut Report>,
    hasher: BlockHasher,
    known: Vec<Digest>,
    /// Entry of the digest table that `known` begins with, and the entry of the next block.
    loaded: u64,
    rank: u64,
    /// Blocks whose damage was reported already: of the last damaged payloads, and of those before,
    /// whose last block may not be complete yet.
    spoilt: Range<u64>,
    spoilt_before: Range<u64>,
}

impl<'b> Blocks<'b> {
    fn new(walk: &'b Walk<'b>, findings: &'b RefCell<&'b mut Report>) -> Self {
        Self {
            walk,
            findings,
            hasher: BlockHasher::new(),
            known: Vec::new(),
            loaded: 0,
            rank: 0,
            spoilt: 0..0,
            spoilt_before: 0..0,
        }
    }

    fn spoil(&mut self, piece: &Piece, error: Error) {
        let touched = digest::blocks(piece.offset, piece.length);
        if touched.start <= self.spoilt.end && !self.spoilt.is_empty() {
            self.spoilt.end = touched.end;
        } else {
            self.spoilt_before = std::mem::replace(&mut self.spoilt, touched);
        }
        self.findings.borrow_mut().add(locate(error, piece, piece.range(), true), Some(piece.range()));
    }

    fn update(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut hasher = std::mem::take(&mut self.hasher);
        hasher.update(offset, bytes, &mut |block, digest| self.compare(block, digest))?;
        self.hasher = hasher;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        std::mem::take(&mut self.hasher).finish(&mut |block, digest| self.compare(block, digest))
    }

    fn compare(&mut self, block: u64, digest: Digest) -> Result<()> {
        let entry = self.rank - self.loaded;
        let known = match self.known.get(entry as usize) {
            Some(known) => *known,
            None => self.refill()?,
        };
        self.rank += 1;
        if known != digest && !self.spoilt.contains(&block) && !self.spoilt_before.contains(&block) {
            let walk = self.walk;
            let guest = block * BLOCK..((block + 1) * BLOCK).min(walk.frame.meta.virtual_size);
            let number = walk.index.pieces.partition_point(|piece| piece.end() <= guest.start);
            if let Some(piece) = walk.index.pieces.get(number) {
                let error = Error::corrupt("block does not match its digest");
                let error = locate(error, piece, guest.clone(), walk.frame.meta.compression.is_lz4());
                self.findings.borrow_mut().add(error, Some(guest));
            }
        }
        Ok(())
    }

    /// Loads the digests from the next block on and returns the first.
    fn refill(&mut self) -> Result<Digest> {
        let left = self.walk.own.header.digests.saturating_sub(self.rank);
        self.known.resize(left.min(DIGESTS as u64) as usize, [0; DIGEST_LEN]);
        load::read_digests(self.walk.file, self.walk.own, self.rank, &mut self.known)?;
        self.loaded = self.rank;
        self.known
            .first()
            .copied()
            .ok_or_else(|| Error::corrupt("digest table is too short").path(&self.walk.file.path))
    }
}
