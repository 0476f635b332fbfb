//! Positioned reading of a stream in which every byte handed out is proven.
//!
//! ```text
//! blocks of 1 MiB   |     0     |     1     |     2     |     3     |
//! frames               [-----] [------------------]  [--]
//! read 1..3                    |    [ whole blocks ]  |
//! ```
//!
//! A frame that reaches out of the range is decompressed whole and remembered for the next call; a
//! plain one is read in part. Each block's digest is over the bytes carried of it, so whole blocks
//! are what can be proven, whichever frames they come from.

mod part;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::extent::{self, Extent, Kind as ExtentKind};
use crate::stored::StoredFile;
use crate::stream::cache::Cache;
use crate::stream::codec::{Compression, Decompressor};
use crate::stream::digest::{self, Digest};
use crate::stream::index::{HASH_LEN, Index, Piece};
use crate::stream::meta::Meta;
use crate::stream::raw::{self, RawImage};
use crate::stream::source::{StreamFile, read_meta};
use crate::stream::sum::Sums;
use crate::stream::{BLOCK, SLICE, cache, load};
use crate::units::{align_down, align_up};

/// How far the bytes of a stream can be proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// By the digests of the stream's own index.
    Digests,
    /// By the Adler-32 in its `.chksum` file, or the CRC-32 of the zip file that it is in, which held when
    /// the stream was opened.
    Checksum,
    /// There is no sum: only the structure, and the checksums within LZ4 payloads.
    Unproven,
}

/// How streams are opened.
#[derive(Clone, Copy)]
pub struct Opening<'o> {
    /// Gets the bytes read, since it was last called, of streams without an index, which are read as a whole.
    pub progress: &'o (dyn Fn(u64) + Sync),
    /// Stops that.
    pub cancel: &'o Cancel,
    /// Where their tables are kept, so that they are read once only.
    pub cache: Option<&'o Cache>,
}

/// Buffers for [`StreamReader::read`], and the last payload decompressed. One per thread; it serves
/// any number of readers.
#[derive(Default)]
pub struct Scratch {
    decompressor: Decompressor,
    stored: Vec<u8>,
    content: Vec<u8>,
    /// Reader and piece whose content `content` is.
    cached: Option<(u64, usize)>,
    /// Reader and piece whose header was checked last.
    checked: Option<(u64, usize)>,
    /// Where an LZ4 block of a piece begins, in the content and in the file.
    walked: Option<((u64, usize), u64, u64)>,
}

impl Scratch {
    /// Bytes of memory that it holds.
    pub fn memory(&self) -> usize {
        self.stored.capacity() + self.content.capacity()
    }
}

/// A stream open for reading. Reads are positioned: threads share it, each with its own [`Scratch`].
#[derive(Debug)]
pub struct StreamReader {
    /// Tells readers that share a [`Scratch`] apart.
    id: u64,
    file: StreamFile,
    meta: Meta,
    index: Index,
    /// The file with the digests, where that is another.
    index_file: Option<StreamFile>,
    /// Digests of a stream that has none of its own, taken when it was read as a whole.
    taken: Option<Vec<Digest>>,
    proof: Proof,
    /// There are no frames: the file is the disk's image.
    raw: bool,
}

impl StreamReader {
    /// Opens a raw image, and proves its index, where it has one. Without, all of it is taken for data but the
    /// holes of the file, and nothing proves it.
    ///
    /// # Errors
    /// As for [`StreamReader::open`].
    pub fn open_raw(image: &RawImage<'_>) -> Result<Self> {
        let located = |error: Error| error.disk(image.target).path(image.file.path());
        let file = StreamFile::open(image.file.into())?;
        let (index_file, index) = match image.index {
            Some(index) => raw::open(index).map(|(file, index)| (Some(file), index)).map_err(located)?,
            None => (None, raw::pieces_of_holes(&file).map_err(located)?),
        };
        let size = index.own.as_ref().map_or(file.size, |own| own.header.virtual_size);
        if size != file.size {
            let message = format!("file has {} bytes, the disk {size}", file.size);
            return Err(located(Error::incomplete(message)));
        }
        let proof = if index.own.is_some() { Proof::Digests } else { Proof::Unproven };
        let meta = Meta {
            virtual_size: size,
            data_size: index.pieces.iter().map(|piece| piece.length).sum(),
            date: String::new(),
            disk_name: image.target.to_owned(),
            disk_format: "raw".to_owned(),
            checkpoint_name: String::new(),
            parent_checkpoint: String::new(),
            incremental: false,
            compression: Compression::None,
            stream_version: 2,
            own: None,
        };
        Ok(Self { id: next_id(), file, meta, index, index_file, taken: None, proof, raw: true })
    }

    /// Whether it is a raw image, not a stream.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// Opens `file` and proves its structure: by its index, or, for a stream without one, by reading
    /// all of it once.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind::NotFound), [`Kind::Io`](crate::error::Kind::Io),
    /// [`Kind::Incomplete`](crate::error::Kind::Incomplete),
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt),
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported).
    pub fn open(file: impl Into<StoredFile>) -> Result<Self> {
        Self::open_as(file, Opening { progress: &|_| (), cancel: &Cancel::new(), cache: None })
    }

    /// [`StreamReader::open`] as `opening` says.
    ///
    /// # Errors
    /// As for [`StreamReader::open`].
    pub fn open_as(file: impl Into<StoredFile>, opening: Opening<'_>) -> Result<Self> {
        let file = StreamFile::open(file.into())?;
        let frame = read_meta(&file)?;
        let opened = if frame.meta.has_index() {
            load::load(&file, &frame).map(|(index, _)| (index, Proof::Digests, None))
        } else {
            cache::open(&file, &frame, opening).map(|known| (known.index, known.proof, known.digests))
        };
        let (index, proof, taken) = opened.map_err(|error| error.disk(&frame.meta.disk_name).path(&file.path))?;
        Ok(Self { id: next_id(), file, meta: frame.meta, index, index_file: None, taken, proof, raw: false })
    }

    /// What the stream says about itself.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Where the file is.
    pub fn stored(&self) -> &StoredFile {
        &self.file.stored
    }

    /// How far the bytes can be proven.
    pub fn proof(&self) -> Proof {
        self.proof
    }

    /// Whether each block is proven by a digest when it is read: one of the stream's own, or one that was taken
    /// when all of it was read.
    pub fn has_digests(&self) -> bool {
        self.index.own.is_some() || self.taken.is_some()
    }

    /// Bytes of the file.
    pub fn stored_size(&self) -> u64 {
        self.file.size
    }

    /// The digest that ends the index, if the stream has its own: names its whole content.
    pub fn index_digest(&self) -> Option<[u8; HASH_LEN]> {
        self.index.own.as_ref().map(|own| own.hash)
    }

    /// The pieces of payload, ascending.
    pub fn frames(&self) -> &[Piece] {
        &self.index.pieces
    }

    /// What the stream says of each guest range, covering `0..virtual_size`: data it carries, ranges
    /// that read as zero, and, in an inc or diff, ranges that are clean.
    pub fn content(&self) -> Vec<Extent> {
        let mut list = Vec::new();
        self.visit(0..self.meta.virtual_size, &mut |extent| extent::push(&mut list, extent));
        list
    }

    /// [`StreamReader::content`] of `range` alone, as far as the stream's disk reaches: `found` gets its
    /// extents in order, and equal ones may follow each other. Takes time in what is found.
    pub fn visit(&self, range: Range<u64>, found: &mut dyn FnMut(Extent)) {
        let end = range.end.min(self.meta.virtual_size);
        // What pieces leave of a full of ours is zero; virtnbdbackup's says it all.
        let gap = if self.index.own.is_some() && !self.meta.incremental { ExtentKind::Zero } else { ExtentKind::Clean };
        let (pieces, zeros) = (&self.index.pieces, &self.index.zeros);
        let mut pieces = pieces[pieces.partition_point(|piece| piece.end() <= range.start)..].iter().peekable();
        let mut zeros = zeros[zeros.partition_point(|zero| zero.end() <= range.start)..].iter().peekable();
        let mut position = range.start;
        while position < end {
            let zero = zeros.peek().map_or(u64::MAX, |zero| zero.offset);
            let next = match pieces.peek() {
                Some(piece) if piece.offset < zero => {
                    let next = Extent::data(piece.offset, piece.length);
                    pieces.next();
                    next
                }
                _ => zeros.next().copied().unwrap_or(Extent::clean(end, 0)),
            };
            if next.offset > position {
                let stop = next.offset.min(end);
                found(Extent::new(position, stop - position, gap));
                position = stop;
            }
            let stop = next.end().min(end);
            if stop > position {
                found(Extent::new(position, stop - position, next.kind()));
                position = stop;
            }
        }
    }

    /// Puts every guest byte that the stream carries in `range` at its place in `buffer`, whose first
    /// byte is that of `range`; other bytes of `buffer` stay. Returns the data extents carried. After
    /// an error the content of `buffer` must not be used.
    ///
    /// `range` begins on a multiple of [`BLOCK`] and ends on one or at the disk's end: whole blocks
    /// are what can be proven.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt) with the place in the file and in the disk;
    /// [`Kind::Incomplete`](crate::error::Kind::Incomplete) when the file has become shorter;
    /// [`Kind::Io`](crate::error::Kind::Io); [`Kind::Usage`](crate::error::Kind::Usage) for another
    /// `range` or a `buffer` of other size.
    pub fn read(&self, range: Range<u64>, buffer: &mut [u8], scratch: &mut Scratch) -> Result<Vec<Extent>> {
        let ends_well = range.end % BLOCK == 0 || range.end == self.meta.virtual_size;
        if range.start % BLOCK != 0 || !ends_well {
            return Err(Error::usage(format!("guest range {range:?} is not made of whole blocks of the disk")));
        }
        let start = range.start;
        let carried = self.read_proven(range, buffer, scratch)?;
        let proven = if self.has_digests() { self.prove(start, buffer, &carried) } else { Ok(()) };
        proven.map(|()| carried).map_err(|error| error.disk(&self.meta.disk_name).path(&self.file.path))
    }

    /// [`StreamReader::read`] of any range, which compares no digests: for blocks that this reader has proven
    /// before. LZ4's own checksums are looked at where a whole frame is read.
    ///
    /// # Errors
    /// As for [`StreamReader::read`].
    pub fn read_proven(&self, range: Range<u64>, buffer: &mut [u8], scratch: &mut Scratch) -> Result<Vec<Extent>> {
        let read = self.read_range(range, buffer, scratch);
        read.map_err(|error| error.disk(&self.meta.disk_name).path(&self.file.path))
    }

    /// Fills `buffer` from guest `offset` without any proof: for blocks of a stream that is not compressed
    /// which this reader has proven before.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) where the stream does not carry all of it, or is
    /// compressed; [`Kind::Io`](crate::error::Kind::Io);
    /// [`Kind::Incomplete`](crate::error::Kind::Incomplete) when the file has become shorter.
    pub fn read_again(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let pieces = &self.index.pieces;
        let mut number = pieces.partition_point(|piece| piece.end() <= offset);
        let mut filled = 0;
        while filled < buffer.len() {
            let position = offset + filled as u64;
            let piece = pieces.get(number).filter(|piece| piece.offset <= position && !self.meta.compression.is_lz4());
            let Some(piece) = piece else {
                return Err(Error::usage("the stream does not carry this as it is").path(&self.file.path).at(position));
            };
            let len = ((piece.end() - position) as usize).min(buffer.len() - filled);
            self.file.read_at(&mut buffer[filled..filled + len], piece.position + (position - piece.offset))?;
            filled += len;
            number += 1;
        }
        Ok(())
    }

    /// Whether less than a block of a compressed stream can be decompressed for itself: [`SLICE`] bytes.
    pub fn is_sliced(&self) -> bool {
        let Some(piece) = self.index.pieces.first().filter(|_| self.index.own.is_some()) else { return false };
        self.meta.compression.is_lz4()
            && self.blocks_of(piece).is_ok_and(|blocks| blocks.is_some_and(|blocks| blocks.content <= SLICE))
    }

    /// The whole blocks that are best read together with `blocks`, as far as `limit` bytes allow: frames that
    /// can only be decompressed as a whole are then decompressed once.
    pub fn frames_around(&self, blocks: &Range<u64>, limit: u64) -> Range<u64> {
        let pieces = &self.index.pieces;
        let first = pieces.partition_point(|piece| piece.end() <= blocks.start);
        let last = pieces.partition_point(|piece| piece.offset < blocks.end);
        let touching = pieces.get(first..last).unwrap_or_default();
        // Of frames of ours parts can be decompressed.
        if self.index.own.is_some() {
            return blocks.clone();
        }
        let (Some(first), Some(last)) = (touching.first(), touching.last()) else { return blocks.clone() };
        let start = align_down(first.offset, BLOCK).min(blocks.start);
        let end = align_up(last.end(), BLOCK).min(self.meta.virtual_size).max(blocks.end);
        if end - start <= limit { start..end } else { blocks.clone() }
    }

    /// Guest bytes of the longest frame that touches `blocks`.
    pub fn longest_frame(&self, blocks: &Range<u64>) -> u64 {
        let first = self.index.pieces.partition_point(|piece| piece.end() <= blocks.start);
        let touching = self.index.pieces[first..].iter().take_while(|piece| piece.offset < blocks.end);
        touching.map(|piece| piece.length).max().unwrap_or(0)
    }

    /// The table, and the digests that were taken with it.
    #[cfg(test)]
    pub(super) fn table(&self) -> (&Index, &[Digest]) {
        (&self.index, self.taken.as_deref().unwrap_or_default())
    }

    /// Tells open streams apart, within this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    fn read_range(&self, range: Range<u64>, buffer: &mut [u8], scratch: &mut Scratch) -> Result<Vec<Extent>> {
        let is_within = range.start <= range.end && range.end <= self.meta.virtual_size;
        if !is_within || buffer.len() as u64 != range.end - range.start {
            return Err(Error::usage(format!("guest range {range:?} is not one of the disk, or not the buffer's")));
        }
        let pieces = &self.index.pieces;
        let first = pieces.partition_point(|piece| piece.end() <= range.start);
        let mut carried = Vec::new();
        for (number, piece) in pieces.iter().enumerate().skip(first) {
            let Some(part) = Extent::data(piece.offset, piece.length).clip(&range) else { break };
            // Within `buffer`, whose length was checked against `range`.
            let place = (part.offset - range.start) as usize..(part.end() - range.start) as usize;
            self.read_part(number, part.offset - piece.offset, &mut buffer[place], scratch)
                .map_err(|error| self.locate(error, piece, part.range()))?;
            extent::push(&mut carried, part);
        }
        Ok(carried)
    }

    /// Compares the digests of all blocks in `buffer`, which begins at `start`.
    fn prove(&self, start: u64, buffer: &[u8], carried: &[Extent]) -> Result<()> {
        let computed = digest::digest_blocks(start, buffer, carried)?;
        let first_piece = self.index.pieces.partition_point(|piece| piece.end() <= start);
        // The first with bytes there; there is none where nothing is carried.
        let (Some(&(first, _)), Some(piece)) = (computed.first(), self.index.pieces.get(first_piece)) else {
            return Ok(());
        };
        let mut known: Vec<Digest> = vec![[0; digest::DIGEST_LEN]; computed.len()];
        let rank = piece.rank + (first - piece.offset / BLOCK);
        match (&self.index.own, &self.taken) {
            (Some(own), _) => {
                load::read_digests(self.index_file.as_ref().unwrap_or(&self.file), own, rank, &mut known)?;
            }
            (None, Some(taken)) => {
                let found = taken.get(rank as usize..rank as usize + known.len());
                known.copy_from_slice(found.ok_or_else(|| Error::corrupt("digest table is too short"))?);
            }
            (None, None) => return Ok(()),
        }
        for ((block, computed), known) in computed.iter().zip(&known) {
            if computed != known {
                let block = block * BLOCK..((block + 1) * BLOCK).min(self.meta.virtual_size);
                let number = self.index.pieces.partition_point(|piece| piece.end() <= block.start);
                let error = Error::corrupt("block does not match its digest");
                let piece = self.index.pieces.get(number).unwrap_or(piece);
                return Err(self.locate(error, piece, block));
            }
        }
        Ok(())
    }

    /// Adds where it happened, in the file and in the disk.
    fn locate(&self, error: Error, piece: &Piece, guest: Range<u64>) -> Error {
        if error.kind() != crate::error::Kind::Corrupt {
            return error;
        }
        locate(error, piece, guest, self.meta.compression.is_lz4())
    }
}

/// [`Error::corrupt`] on top of `error` that names the guest range and the place in the file.
pub(super) fn locate(error: Error, piece: &Piece, guest: Range<u64>, compressed: bool) -> Error {
    let skip = if compressed { 0 } else { guest.start.saturating_sub(piece.offset) };
    Error::corrupt(format!("data for guest range {}..{} is damaged", guest.start, guest.end))
        .at(piece.position + skip)
        .hint("restore this disk from another copy of the file, or to a point before it")
        .caused_by(error)
}

/// Compares the sums over a file of virtnbdbackup with its `.chksum` and with that of the zip file it is in.
pub(super) fn foreign_proof(file: &StreamFile, sums: Option<Sums>) -> Result<Proof> {
    let Some(sums) = sums else { return Ok(Proof::Unproven) };
    check_crc(file, sums)?;
    match file.checksum()? {
        Some(known) if known == sums.adler32 => Ok(Proof::Checksum),
        Some(known) => {
            Err(Error::corrupt(format!("Adler-32 of the file is {}, its .chksum says {known}", sums.adler32)))
        }
        None if sums.crc32.is_some() => Ok(Proof::Checksum),
        None => Ok(Proof::Unproven),
    }
}

/// Compares the sum over a member of a zip file with the one that this has.
fn check_crc(file: &StreamFile, sums: Sums) -> Result<()> {
    match (file.stored.crc32(), sums.crc32) {
        (Some(known), Some(computed)) if known != computed => {
            Err(Error::corrupt(format!("CRC-32 is {computed:08x}, the zip file says {known:08x}")))
        }
        _ => Ok(()),
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
