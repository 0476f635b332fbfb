//! Writes a raw image front to back, and its index.

use std::io::Write;
use std::path::Path;

use simd_adler32::adler32;

use crate::error::{Error, Result};
use crate::stream::digest::{self, Digest};
use crate::stream::index::{self, HASH_LEN};
use crate::stream::out::{Out, Pending};
use crate::stream::sum;
use crate::stream::varint::put_varint;
use crate::stream::writer::{Finished, Spool};

/// Writes one image. Data and zeroes come in ascending order without a gap; the digests of blocks come
/// ascending, too.
pub struct RawWriter<O: Out> {
    out: O,
    adler: u32,
    size: u64,
    /// End of what was written.
    position: u64,
    /// The range of data that may still grow, and the end of the one before.
    open: Option<(u64, u64)>,
    last_end: u64,
    /// Blocks touched by data: the digests owed.
    blocks: u64,
    last_block: Option<u64>,
    data_size: u64,
    index: index::Header,
    ranges: Spool,
    digests: Spool,
}

impl<O: Out> RawWriter<O> {
    /// An image of `size` bytes. `spool_dir` must have room for the index: 16 bytes per MiB of data.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io).
    pub fn new(out: O, size: u64, spool_dir: &Path) -> Result<Self> {
        let index = index::Header {
            raw: true,
            virtual_size: size,
            first_frame: 0,
            frames: 0,
            frames_len: 0,
            zeros: 0,
            zeros_len: 0,
            digests: 0,
            meta_hash: [0; HASH_LEN],
            headers_hash: [0; HASH_LEN],
        };
        Ok(Self {
            out,
            adler: sum::EMPTY,
            size,
            position: 0,
            open: None,
            last_end: 0,
            blocks: 0,
            last_block: None,
            data_size: 0,
            index,
            ranges: Spool::new(spool_dir)?,
            digests: Spool::new(spool_dir)?,
        })
    }

    /// Writes data at `offset`, which is where the last call ended.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for data out of order or beyond the end,
    /// [`Kind::Io`](crate::error::Kind::Io).
    pub fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.summed_data(offset, bytes, adler32(&bytes))
    }

    /// [`RawWriter::data`] of bytes whose Adler-32 is `sum`.
    ///
    /// # Errors
    /// As for [`RawWriter::data`].
    pub fn summed_data(&mut self, offset: u64, bytes: &[u8], sum: u32) -> Result<()> {
        let length = bytes.len() as u64;
        self.check(offset, length)?;
        self.out.payload(bytes).map_err(|error| Error::io("write", error).at(offset))?;
        self.adler = sum::combine(self.adler, sum, length);
        let touched = digest::blocks(offset, length);
        let shared = self.last_block.is_some_and(|last| last == touched.start);
        self.blocks += (touched.end - touched.start) - u64::from(shared && length > 0);
        if length > 0 {
            self.last_block = Some(touched.end - 1);
        }
        self.open = match self.open.take() {
            Some((start, end)) if end == offset => Some((start, offset + length)),
            other => {
                self.close(other)?;
                Some((offset, offset + length))
            }
        };
        self.position = offset + length;
        self.data_size += length;
        Ok(())
    }

    /// Says that `length` bytes from `offset` on, which is where the last call ended, read as zeroes.
    ///
    /// # Errors
    /// As for [`RawWriter::data`].
    pub fn zero(&mut self, offset: u64, length: u64) -> Result<()> {
        self.check(offset, length)?;
        self.out.zeroes(length).map_err(|error| Error::io("write", error).at(offset))?;
        self.adler = sum::combine(self.adler, sum::zeroes(length), length);
        self.position = offset + length;
        Ok(())
    }

    /// Adds the digest over the data of block `block`.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io).
    pub fn digest(&mut self, _block: u64, digest: Digest) -> Result<()> {
        self.index.digests += 1;
        self.digests.put(&digest)
    }

    /// Hands out what was not written yet, see [`Out::take`].
    pub fn take(&mut self, pending: &mut Pending) {
        self.out.take(pending);
    }

    /// Ends the image, writes its index to `index`, and returns the output, flushed.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) when data or digests are missing,
    /// [`Kind::Io`](crate::error::Kind::Io).
    pub fn finish(mut self, index: &mut dyn Write) -> Result<(O, Finished)> {
        if self.position != self.size {
            return Err(Error::usage("the image ends before the disk").at(self.position));
        }
        if self.blocks != self.index.digests {
            let message = format!("{} digests for {} blocks", self.index.digests, self.blocks);
            return Err(Error::usage(message));
        }
        self.out.complete(self.size).map_err(|error| Error::io("write", error))?;
        let open = self.open.take();
        self.close(open)?;
        self.index.frames_len = self.ranges.len;
        let mut hasher = blake3::Hasher::new();
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            index.write_all(bytes).map_err(|error| Error::io("write the index", error))
        };
        put(&self.index.encode())?;
        self.ranges.replay(&mut put)?;
        self.digests.replay(&mut put)?;
        let index_digest = *hasher.finalize().as_bytes();
        index
            .write_all(&index_digest)
            .and_then(|()| index.flush())
            .map_err(|error| Error::io("write the index", error))?;
        let finished =
            Finished { stored_size: self.size, adler32: self.adler, data_size: self.data_size, index_digest };
        Ok((self.out, finished))
    }

    fn check(&self, offset: u64, length: u64) -> Result<()> {
        let end = offset.checked_add(length).filter(|&end| end <= self.size);
        if offset != self.position || end.is_none() {
            let message = format!("range of {length} bytes is out of order or beyond the disk's end");
            return Err(Error::usage(message).at(offset));
        }
        Ok(())
    }

    /// Puts a range of data into the table.
    fn close(&mut self, range: Option<(u64, u64)>) -> Result<()> {
        let Some((start, end)) = range.filter(|(start, end)| start < end) else { return Ok(()) };
        let mut entry = Vec::new();
        put_varint(&mut entry, start - self.last_end);
        put_varint(&mut entry, end - start);
        self.ranges.put(&entry)?;
        self.index.frames += 1;
        self.last_end = end;
        Ok(())
    }
}
