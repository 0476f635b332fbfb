//! The index of a stream: what is where, what reads as zero, and how to prove it.
//!
//! ```text
//! header │ frame table │ zero table │ digest table │ digest of all before
//! ```
//!
//! The tables are deltas from one entry to the next, as varints (LEB128): an entry takes about 10 bytes
//! where numbers would take 32. Digests stay in the file and are read where needed.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::extent::{self, Extent};
use crate::stream::digest::{self, DIGEST_LEN};
use crate::stream::frame::{HEADER_LEN as FRAME_HEADER_LEN, TERMINATOR};
use crate::stream::meta::Meta;
use crate::stream::varint::{MAX_VARINT, get_varint, varint_of};
use crate::stream::{BLOCK, COMPRESSED_LIMIT, codec};

/// First bytes of an index.
pub const MAGIC: [u8; 8] = *b"VKINDEX\0";

/// Version of the index written and read.
pub const VERSION: u16 = 1;

/// Flag of an index that belongs to a raw image.
const FLAG_RAW: u16 = 1;

/// Bytes of the fixed part.
pub const HEADER_LEN: usize = 136;

/// Bytes of a whole BLAKE3 digest.
pub const HASH_LEN: usize = 32;

/// Fewest bytes of an entry in the frame and the zero table: one per number.
const MIN_FRAME_ENTRY: u64 = 4;
const MIN_ZERO_ENTRY: u64 = 2;

/// Entries of a table that memory is set aside for before they are read.
const RESERVED: u64 = 1 << 16;

/// The fixed part of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whether it is the index of a raw image (see [`crate::stream::raw`]), not of a stream.
    pub raw: bool,
    /// Bytes of the guest's disk, as in the meta.
    pub virtual_size: u64,
    /// Position in the file of the first frame after the meta frame.
    pub first_frame: u64,
    /// Entries in the frame table.
    pub frames: u64,
    /// Bytes of the frame table.
    pub frames_len: u64,
    /// Entries in the zero table.
    pub zeros: u64,
    /// Bytes of the zero table.
    pub zeros_len: u64,
    /// Entries in the digest table.
    pub digests: u64,
    /// BLAKE3 over the header and the JSON of the meta frame.
    pub meta_hash: [u8; HASH_LEN],
    /// BLAKE3 over the headers of all data and zero frames and of `stop`, in file order.
    pub headers_hash: [u8; HASH_LEN],
}

impl Header {
    /// The bytes in the file.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(if self.raw { FLAG_RAW } else { 0 }.to_le_bytes());
        bytes.extend((BLOCK as u32).to_le_bytes());
        for value in [
            self.virtual_size,
            self.first_frame,
            self.frames,
            self.frames_len,
            self.zeros,
            self.zeros_len,
            self.digests,
        ] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(self.meta_hash);
        bytes.extend(self.headers_hash);
        let mut fixed = [0; HEADER_LEN];
        fixed.copy_from_slice(&bytes);
        fixed
    }

    /// The header in `bytes`; `len` is the length of the whole index, which the tables must fill.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt), or
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) for versions we don't know.
    pub fn decode(bytes: &[u8; HEADER_LEN], len: u64) -> Result<Self> {
        let mut rest = Fields(bytes);
        if rest.take::<8>() != MAGIC {
            return Err(Error::corrupt("no index"));
        }
        let (version, flags) = (u16::from_le_bytes(rest.take()), u16::from_le_bytes(rest.take()));
        if version != VERSION || flags & !FLAG_RAW != 0 {
            return Err(Error::unsupported(format!("index version {version}, flags {flags:#x}"))
                .hint("use the virtkeep release that wrote it, or a newer one"));
        }
        let block = u32::from_le_bytes(rest.take());
        if u64::from(block) != BLOCK {
            return Err(Error::unsupported(format!("index with blocks of {block} bytes")));
        }
        let mut number = || u64::from_le_bytes(rest.take());
        let header = Self {
            raw: flags & FLAG_RAW != 0,
            virtual_size: number(),
            first_frame: number(),
            frames: number(),
            frames_len: number(),
            zeros: number(),
            zeros_len: number(),
            digests: number(),
            meta_hash: rest.take(),
            headers_hash: rest.take(),
        };
        let filled = header.digests.checked_mul(DIGEST_LEN as u64).and_then(|digests| {
            digests
                .checked_add((HEADER_LEN + HASH_LEN) as u64)?
                .checked_add(header.frames_len)?
                .checked_add(header.zeros_len)
        });
        if filled != Some(len)
            || header.frames > header.frames_len / if header.raw { MIN_ZERO_ENTRY } else { MIN_FRAME_ENTRY }
            || header.zeros > header.zeros_len / MIN_ZERO_ENTRY
        {
            return Err(Error::corrupt("index tables don't fit their counts"));
        }
        Ok(header)
    }
}

/// Takes fields off the fixed header, whose length is known.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        let (now, rest) = self.0.split_at(N.min(self.0.len()));
        field[..now.len()].copy_from_slice(now);
        self.0 = rest;
        field
    }
}

/// Guest bytes that are stored in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First guest byte.
    pub offset: u64,
    /// Guest bytes.
    pub length: u64,
    /// Position of the payload in the file.
    pub position: u64,
    /// Bytes of the payload.
    pub stored: u64,
    /// Where the digest of the first block it touches stands in the digest table.
    pub(super) rank: u64,
}

impl Piece {
    /// One past the last guest byte.
    pub const fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// The guest bytes as a range.
    pub const fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.length
    }
}

/// Checks pieces as they are appended: ascending, within the disk, counted in blocks.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pub(super) list: Vec<Piece>,
    /// Blocks touched so far: entries of the digest table.
    pub(super) blocks: u64,
    /// Guest bytes so far.
    pub(super) data_size: u64,
}

impl Pieces {
    pub(super) fn end(&self) -> u64 {
        self.list.last().map_or(0, Piece::end)
    }

    /// Appends a piece whose `rank` is filled in here.
    pub(super) fn push(&mut self, mut piece: Piece, virtual_size: u64) -> Result<()> {
        let end = piece.offset.checked_add(piece.length).filter(|&end| end <= virtual_size);
        if piece.length == 0 || piece.offset < self.end() || end.is_none() {
            return Err(Error::corrupt(format!(
                "frame of {} bytes at guest offset {} is empty, out of order or beyond the disk's end {virtual_size}",
                piece.length, piece.offset
            )));
        }
        let touched = digest::blocks(piece.offset, piece.length);
        let shared = self.list.last().is_some_and(|last| (last.end() - 1) / BLOCK == touched.start);
        piece.rank = self.blocks - u64::from(shared);
        self.blocks = piece.rank + (touched.end - touched.start);
        self.data_size += piece.length;
        self.list.push(piece);
        Ok(())
    }
}

/// What is where in a stream, in memory; the digests stay in the file.
#[derive(Debug)]
pub struct Index {
    /// The pieces of payload, ascending.
    pub pieces: Vec<Piece>,
    /// Ranges that read as zero: in an inc or diff those that were dirty; in a full of virtnbdbackup all the
    /// rest; in one of ours none: whatever the pieces leave is zero.
    pub zeros: Vec<Extent>,
    /// Position of the `stop` header in the file.
    pub stop: u64,
    /// The digests, if this index came from the file itself.
    pub own: Option<OwnIndex>,
}

/// What only an index in the file has.
#[derive(Debug, Clone)]
pub struct OwnIndex {
    /// The fixed part.
    pub header: Header,
    /// Position of the first index byte in the file.
    pub position: u64,
    /// Position of the digest table in the file.
    pub digests: u64,
    /// The digest at the index's end, over all of it.
    pub hash: [u8; HASH_LEN],
}

/// The bytes of an index, in order.
pub(super) trait Bytes {
    /// The next bytes, at least one.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt) at the end.
    fn chunk(&mut self) -> Result<&[u8]>;

    /// Passes over `len` bytes of the chunk.
    fn consume(&mut self, len: usize);
}

impl Bytes for &[u8] {
    fn chunk(&mut self) -> Result<&[u8]> {
        if self.is_empty() { Err(Error::corrupt("index ends early")) } else { Ok(self) }
    }

    fn consume(&mut self, len: usize) {
        *self = &self[len..];
    }
}

/// Decodes the tables; `bytes` begins after the fixed part, `position` is where the index begins in the file. Everything is checked against the disk's and the file's bounds.
///
/// # Errors
/// [`Kind::Corrupt`](crate::error::Kind::Corrupt) for anything the writer would not write.
pub(super) fn decode_tables<B: Bytes>(header: &Header, meta: &Meta, position: u64, bytes: &mut B) -> Result<Index> {
    let stop = position.checked_sub(FRAME_HEADER_LEN as u64).ok_or_else(|| Error::corrupt("index overlaps meta"))?;
    let mut counted = Counted { bytes, left: header.frames_len };
    let pieces = decode_frames(header, meta, stop, &mut counted)?;
    counted.expect_end("frame table")?;
    counted.left = header.zeros_len;
    let zeros = decode_zeros(header, &mut counted)?;
    counted.expect_end("zero table")?;
    check_disjoint(&pieces.list, &zeros)?;
    // Zero frames of a full and the zero table exclude each other.
    if !meta.incremental && !zeros.is_empty() {
        return Err(Error::corrupt("index of a full has a zero table"));
    }
    if pieces.blocks != header.digests {
        return Err(Error::corrupt(format!("index has {} digests for {} blocks", header.digests, pieces.blocks)));
    }
    if pieces.data_size != meta.data_size {
        return Err(Error::corrupt(format!(
            "frames carry {} bytes, the meta says {}",
            pieces.data_size, meta.data_size
        )));
    }
    Ok(Index { pieces: pieces.list, zeros, stop, own: None })
}

fn decode_frames<B: Bytes>(header: &Header, meta: &Meta, stop: u64, bytes: &mut Counted<'_, B>) -> Result<Pieces> {
    // The list grows with the bytes read: a sparse file can claim any size.
    let mut pieces = Pieces { list: Vec::with_capacity(header.frames.min(RESERVED) as usize), ..Pieces::default() };
    let mut end = header.first_frame;
    let mut shift = 0;
    let sum = |a: u64, b: u64| a.checked_add(b).ok_or_else(|| Error::corrupt("number in the index is too large"));
    for _ in 0..header.frames {
        let guest_end = pieces.end();
        let gap = bytes.varint()?;
        let length = bytes.varint()?;
        let skip = bytes.varint()?;
        let stored = bytes.varint()?;
        check_skip(meta, gap, skip.checked_sub(shift + FRAME_HEADER_LEN as u64))?;
        let position = sum(end, skip)?;
        end = sum(position, stored)?;
        if sum(end, TERMINATOR.len() as u64)? > stop {
            return Err(Error::corrupt("index has frames beyond the end of the data"));
        }
        check_stored(meta, length, stored)?;
        pieces.push(Piece { offset: sum(guest_end, gap)?, length, position, stored, rank: 0 }, header.virtual_size)?;
        shift = TERMINATOR.len() as u64;
    }
    check_skip(
        meta,
        header.virtual_size - pieces.end(),
        stop.checked_sub(end).and_then(|rest| rest.checked_sub(shift)),
    )?;
    Ok(pieces)
}

/// Between two payloads there is room for whole zero frame headers only, each of which stands for a byte at least: in a
/// full where the guest range has a gap, and nowhere else.
fn check_skip(meta: &Meta, gap: u64, room: Option<u64>) -> Result<()> {
    let fits = room.is_some_and(|room| {
        let headers = room / FRAME_HEADER_LEN as u64;
        room % FRAME_HEADER_LEN as u64 == 0 && headers <= gap && (room > 0) == (gap > 0 && !meta.incremental)
    });
    if fits { Ok(()) } else { Err(Error::corrupt("frames in the index don't adjoin in the file")) }
}

/// Whether `stored` bytes can be the payload for `length` guest bytes in a stream of ours.
fn check_stored(meta: &Meta, length: u64, stored: u64) -> Result<()> {
    let fits = if meta.compression.is_lz4() {
        length < COMPRESSED_LIMIT && stored <= codec::max_stored(length)
    } else {
        stored == length
    };
    if fits { Ok(()) } else { Err(Error::corrupt(format!("frame of {length} bytes is stored in {stored}"))) }
}

fn decode_zeros<B: Bytes>(header: &Header, bytes: &mut Counted<'_, B>) -> Result<Vec<Extent>> {
    let mut zeros = Vec::with_capacity(header.zeros.min(RESERVED) as usize);
    let mut end = 0u64;
    for _ in 0..header.zeros {
        let (gap, length) = (bytes.varint()?, bytes.varint()?);
        let start = end.checked_add(gap);
        let Some((start, stop)) = start.and_then(|start| Some((start, start.checked_add(length)?))) else {
            return Err(Error::corrupt("zero extent is too long"));
        };
        if length == 0 || stop > header.virtual_size {
            return Err(Error::corrupt("zero extent is empty or beyond the disk's end"));
        }
        extent::push(&mut zeros, Extent::zero(start, length));
        end = stop;
    }
    Ok(zeros)
}

/// Proves that no zero extent touches a piece.
fn check_disjoint(pieces: &[Piece], zeros: &[Extent]) -> Result<()> {
    let mut next = 0;
    for zero in zeros {
        while pieces.get(next).is_some_and(|piece| piece.end() <= zero.offset) {
            next += 1;
        }
        if pieces.get(next).is_some_and(|piece| piece.offset < zero.end()) {
            return Err(Error::corrupt("zero extent overlaps data in the index").at(zero.offset));
        }
    }
    Ok(())
}

/// The bytes of one table.
struct Counted<'n, B> {
    bytes: &'n mut B,
    left: u64,
}

impl<B: Bytes> Counted<'_, B> {
    fn varint(&mut self) -> Result<u64> {
        // Most numbers lie in one piece in memory; a million of them in a moment.
        let chunk = self.bytes.chunk()?;
        if chunk.len() >= MAX_VARINT && self.left >= MAX_VARINT as u64 {
            let (value, len) = varint_of(chunk)?;
            self.bytes.consume(len);
            self.left -= len as u64;
            return Ok(value);
        }
        let Self { bytes, left } = self;
        get_varint(&mut || {
            *left = left.checked_sub(1).ok_or_else(|| Error::corrupt("table in the index ends early"))?;
            let byte = bytes.chunk()?[0];
            bytes.consume(1);
            Ok(byte)
        })
    }

    fn expect_end(&self, table: &str) -> Result<()> {
        if self.left == 0 { Ok(()) } else { Err(Error::corrupt(format!("{table} in the index is too long"))) }
    }
}
