//! Positioned reading of a stream in which every byte handed out is proven.

use std::ops::Range;
use std::path::Path;

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::stream::index::Piece;
use crate::stream::meta::Meta;

/// How far the bytes of a stream can be proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// By the digests of the stream's own index.
    Digests,
    /// By the Adler-32 in its `.chksum` file, which held when the stream was opened.
    Checksum,
    /// There is no sum: only the structure, and the checksums within LZ4 payloads.
    Unproven,
}

/// Buffers for [`StreamReader::read`], and the last payload decompressed. One per thread; it serves
/// any number of readers.
#[derive(Default)]
pub struct Scratch {}

/// A stream open for reading. Reads are positioned: threads share it, each with its own [`Scratch`].
#[derive(Debug)]
pub struct StreamReader {}

impl StreamReader {
    /// Opens `path` and proves its structure: by its index, or, for a stream without one, by reading
    /// all of it once.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind::NotFound), [`Kind::Io`](crate::error::Kind::Io),
    /// [`Kind::Incomplete`](crate::error::Kind::Incomplete),
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt),
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported).
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_watched(path, &|_| (), &Cancel::new())
    }

    /// [`StreamReader::open`] that tells `progress` the bytes read since it was last called, and
    /// stops when `cancel` is set.
    ///
    /// # Errors
    /// As for [`StreamReader::open`].
    pub fn open_watched(path: &Path, progress: &dyn Fn(u64), cancel: &Cancel) -> Result<Self> {
        let _ = (progress, cancel);
        Err(Error::unsupported("not yet").path(path))
    }

    /// What the stream says about itself.
    pub fn meta(&self) -> &Meta {
        todo!()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        todo!()
    }

    /// How far the bytes can be proven.
    pub fn proof(&self) -> Proof {
        todo!()
    }

    /// Bytes of the file.
    pub fn stored_size(&self) -> u64 {
        todo!()
    }

    /// The digest that ends the index, if the stream has its own: names its whole content.
    pub fn index_digest(&self) -> Option<[u8; 32]> {
        todo!()
    }

    /// The pieces of payload, ascending.
    pub fn frames(&self) -> &[Piece] {
        todo!()
    }

    /// What the stream says of each guest range, covering `0..virtual_size`: data it carries, ranges
    /// that read as zero, and, in an inc or diff, ranges that are clean.
    pub fn content(&self) -> Vec<Extent> {
        todo!()
    }

    /// Puts every guest byte that the stream carries in `range` at its place in `buffer`, whose first
    /// byte is that of `range`; other bytes of `buffer` stay. Returns the data extents carried.
    ///
    /// `range` begins on a multiple of [`BLOCK`](crate::stream::BLOCK) and ends on one or at the
    /// disk's end: whole blocks are what can be proven.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt) with the place in the file and in the disk;
    /// [`Kind::Incomplete`](crate::error::Kind::Incomplete) when the file has become shorter;
    /// [`Kind::Io`](crate::error::Kind::Io); [`Kind::Usage`](crate::error::Kind::Usage) for another
    /// `range` or a `buffer` of other size.
    pub fn read(&self, range: Range<u64>, buffer: &mut [u8], scratch: &mut Scratch) -> Result<Vec<Extent>> {
        let _ = (range, buffer, scratch);
        todo!()
    }
}
