//! Loads the index of a stream of ours, from the end of the file, and proves it.

use std::ops::Range;

use crate::error::{Error, Kind as ErrorKind, Result};
use crate::stream::digest::{DIGEST_LEN, Digest};
use crate::stream::frame::{HEADER_LEN as FRAME_HEADER_LEN, Header as FrameHeader, Kind};
use crate::stream::index::{self, Bytes, HASH_LEN, HEADER_LEN, Header, Index, OwnIndex};
use crate::stream::source::{MetaFrame, StreamFile};

/// Unit of reading the index.
const CHUNK: u64 = 256 << 10;

/// Digests read at once.
const DIGESTS: u64 = 4096;

/// Where the index and, in a compressed stream, the list of stored sizes stand in the file.
pub(super) struct Tail {
    pub(super) index: Range<u64>,
    pub(super) sizes: Option<Range<u64>>,
}

/// Finds both from the end of the file.
pub(super) fn find_tail(file: &StreamFile, frame: &MetaFrame) -> Result<Tail> {
    let hint = "the index that this stream announces is not at its end";
    let from = frame.end + FRAME_HEADER_LEN as u64;
    let find = |kind, end| file.trailing(kind, end, from).map_err(|error| error.hint(hint));
    if frame.meta.compression.is_lz4() {
        let sizes = find(Kind::Comp, file.size)?;
        Ok(Tail { index: find(Kind::Indx, sizes.start)?, sizes: Some(sizes) })
    } else {
        Ok(Tail { index: find(Kind::Indx, file.size)?, sizes: None })
    }
}

/// Reads and proves the index: its own digest, the meta's, its agreement with the file's layout. Not
/// proven here: frame headers and payloads.
pub(super) fn load(file: &StreamFile, frame: &MetaFrame) -> Result<(Index, Tail)> {
    let tail = find_tail(file, frame)?;
    let at = |error: Error| error.path(&file.path).at(tail.index.start);
    let len = tail.index.end - tail.index.start;
    if len < (HEADER_LEN + HASH_LEN) as u64 {
        return Err(at(Error::corrupt("index is too short")));
    }
    let mut fixed = [0; HEADER_LEN];
    file.read_at(&mut fixed, tail.index.start)?;
    let header = Header::decode(&fixed, len).map_err(at)?;
    if header.raw
        || header.virtual_size != frame.meta.virtual_size
        || header.first_frame != frame.end
        || header.meta_hash != frame.hash
    {
        return Err(Error::corrupt("meta is not the one that the index was made for").path(&file.path).at(0));
    }
    let mut bytes = Hashed::new(file, tail.index.start, tail.index.end - HASH_LEN as u64);
    bytes.skip(HEADER_LEN)?;
    let mut index = index::decode_tables(&header, &frame.meta, tail.index.start, &mut bytes).map_err(at)?;
    let computed = bytes.finish()?;
    let mut hash = [0; HASH_LEN];
    file.read_at(&mut hash, tail.index.end - HASH_LEN as u64)?;
    if hash != computed {
        return Err(at(Error::corrupt("index does not match its digest")));
    }
    let stop = file.header_at(index.stop)?;
    if stop != FrameHeader::new(Kind::Stop, 0, 0) {
        return Err(Error::corrupt("no stop frame before the index").path(&file.path).at(index.stop));
    }
    let digests = tail.index.end - HASH_LEN as u64 - header.digests * DIGEST_LEN as u64;
    index.own = Some(OwnIndex { header, position: tail.index.start, digests, hash });
    Ok((index, tail))
}

/// Reads `count` digests from entry `rank` of the digest table, which was proven when loaded.
pub(super) fn read_digests(file: &StreamFile, own: &OwnIndex, rank: u64, digests: &mut [Digest]) -> Result<()> {
    let last = rank.checked_add(digests.len() as u64);
    if last.is_none_or(|last| last > own.header.digests) {
        return Err(Error::new(ErrorKind::Corrupt, "digest table is too short").path(&file.path));
    }
    file.read_at(digests.as_flattened_mut(), own.digests + rank * DIGEST_LEN as u64)
}

/// Entries of the digest table in their order, some of them read at a time.
pub(super) struct Digests<'d> {
    file: &'d StreamFile,
    own: &'d OwnIndex,
    known: std::vec::IntoIter<Digest>,
    /// Not read yet.
    left: Range<u64>,
}

impl<'d> Digests<'d> {
    /// The entries `left` of the table that `file` has.
    pub(super) fn new(file: &'d StreamFile, own: &'d OwnIndex, left: Range<u64>) -> Self {
        Self { file, own, known: Vec::new().into_iter(), left }
    }

    /// The next one.
    pub(super) fn next(&mut self) -> Result<Digest> {
        if self.known.len() == 0 {
            let count = (self.left.end.saturating_sub(self.left.start)).min(DIGESTS);
            let mut digests = vec![[0; DIGEST_LEN]; count as usize];
            read_digests(self.file, self.own, self.left.start, &mut digests)?;
            self.left.start += count;
            self.known = digests.into_iter();
        }
        self.known.next().ok_or_else(|| Error::corrupt("digest table is too short").path(&self.file.path))
    }
}

/// Bytes of the index, all of them hashed.
pub(super) struct Hashed<'f> {
    file: &'f StreamFile,
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    next: usize,
    hasher: blake3::Hasher,
}

impl<'f> Hashed<'f> {
    pub(super) fn new(file: &'f StreamFile, position: u64, end: u64) -> Self {
        Self { file, position, end, buffer: Vec::new(), next: 0, hasher: blake3::Hasher::new() }
    }

    /// The next byte.
    pub(super) fn next(&mut self) -> Result<u8> {
        let byte = self.chunk()?[0];
        self.consume(1);
        Ok(byte)
    }

    pub(super) fn skip(&mut self, mut count: usize) -> Result<()> {
        while count > 0 {
            let len = self.chunk()?.len().min(count);
            self.consume(len);
            count -= len;
        }
        Ok(())
    }

    /// The hash of everything, what was not asked for included.
    pub(super) fn finish(mut self) -> Result<[u8; HASH_LEN]> {
        while self.refill()? {}
        Ok(*self.hasher.finalize().as_bytes())
    }

    fn refill(&mut self) -> Result<bool> {
        let len = (self.end - self.position).min(CHUNK);
        self.buffer.resize(len as usize, 0);
        self.next = 0;
        self.file.read_at(&mut self.buffer, self.position)?;
        self.hasher.update(&self.buffer);
        self.position += len;
        Ok(len > 0)
    }
}

impl Bytes for Hashed<'_> {
    fn chunk(&mut self) -> Result<&[u8]> {
        if self.next == self.buffer.len() && !self.refill()? {
            return Err(Error::corrupt("index ends early"));
        }
        Ok(&self.buffer[self.next..])
    }

    fn consume(&mut self, len: usize) {
        self.next += len;
    }
}
