//! Writes a stream front to back, with its index and trailer, checking that the caller keeps to the
//! format. Memory stays flat: what belongs to the end is spooled to unnamed files.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::ops::Range;
use std::path::Path;

use simd_adler32::{Adler32, adler32};

use crate::error::{Error, Result};
use crate::stream::digest::{self, Digest};
use crate::stream::frame::{Header, Kind, TERMINATOR};
use crate::stream::index::{self, HASH_LEN};
use crate::stream::meta::Meta;
use crate::stream::out::{Out, Pending};
use crate::stream::varint::put_varint;
use crate::stream::{COMPRESSED_LIMIT, FRAME_ALIGNMENT, codec, sum};

/// What became of a stream that was written to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Bytes of the file.
    pub stored_size: u64,
    /// Adler-32 over all of them: the content of `FILE.chksum`.
    pub adler32: u32,
    /// Guest bytes carried.
    pub data_size: u64,
    /// The digest at the end of the index: names the content of the whole stream.
    pub index_digest: [u8; HASH_LEN],
}

/// Writes one stream. Frames and zero extents come in ascending order of guest offset; the digest of
/// a block comes after the first frame that touches it, digests ascending too.
pub struct StreamWriter<O: Out> {
    out: Summed<O>,
    meta: Meta,
    /// End of what was written or declared last.
    guest: u64,
    /// End of the last data frame in the guest and of its payload in the file.
    data_end: (u64, u64),
    data_size: u64,
    /// Blocks whose digest is owed, ascending.
    owed: VecDeque<Range<u64>>,
    index: index::Header,
    headers: blake3::Hasher,
    frames: Spool,
    zeros: Spool,
    digests: Spool,
    sizes: Spool,
    scratch: Vec<u8>,
}

impl<O: Out> StreamWriter<O> {
    /// Writes the meta frame to `out`, which should be buffered: frames have small parts. `spool_dir` must have room for the index: 16 bytes per MiB of
    /// data and a few per frame.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a meta that doesn't announce an index,
    /// [`Kind::Io`](crate::error::Kind::Io).
    pub fn new(out: O, meta: &Meta, spool_dir: &Path) -> Result<Self> {
        if !meta.has_index() {
            return Err(Error::usage("a stream of ours has an index: its meta must say so"));
        }
        let json = meta.encode()?;
        let header = Header::new(Kind::Meta, 0, json.len() as u64).encode();
        let mut out = Summed { inner: out, adler: Adler32::new(), position: 0 };
        out.put(&header)?;
        out.put(&json)?;
        out.put(&TERMINATOR)?;
        let first_frame = out.position;
        let index = index::Header {
            raw: false,
            virtual_size: meta.virtual_size,
            first_frame,
            frames: 0,
            frames_len: 0,
            zeros: 0,
            zeros_len: 0,
            digests: 0,
            meta_hash: *blake3::Hasher::new().update(&header).update(&json).finalize().as_bytes(),
            headers_hash: [0; HASH_LEN],
        };
        let spool = || Spool::new(spool_dir);
        Ok(Self {
            out,
            meta: meta.clone(),
            guest: 0,
            data_end: (0, first_frame),
            data_size: 0,
            owed: VecDeque::new(),
            index,
            headers: blake3::Hasher::new(),
            frames: spool()?,
            zeros: spool()?,
            digests: spool()?,
            sizes: spool()?,
            scratch: Vec::new(),
        })
    }

    /// Whether zeroes are declared, not written as frames.
    pub fn is_incremental(&self) -> bool {
        self.meta.incremental
    }

    /// Bytes written so far.
    pub fn stored_size(&self) -> u64 {
        self.out.position
    }

    /// Writes a data frame of `length` guest bytes at `offset`; `stored` is its payload: the guest
    /// bytes, or the LZ4 frame of them where the meta says compressed.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a frame out of order, beyond the disk, of
    /// forbidden length or alignment; [`Kind::Io`](crate::error::Kind::Io).
    pub fn data_frame(&mut self, offset: u64, length: u64, stored: &[u8]) -> Result<()> {
        self.summed_frame(offset, length, stored, adler32(&stored))
    }

    /// [`StreamWriter::data_frame`] of a payload whose Adler-32 is `sum`.
    ///
    /// # Errors
    /// As for [`StreamWriter::data_frame`].
    pub fn summed_frame(&mut self, offset: u64, length: u64, stored: &[u8], sum: u32) -> Result<()> {
        self.check_frame(offset, length)?;
        let fits = if self.meta.compression.is_lz4() {
            length < COMPRESSED_LIMIT && stored.len() as u64 <= codec::max_stored(length) && !stored.is_empty()
        } else {
            stored.len() as u64 == length
        };
        if !fits {
            return Err(Error::usage(format!("{} bytes can't be the payload of {length}", stored.len())).at(offset));
        }
        self.header(Kind::Data, offset, length)?;
        let position = self.out.position;
        self.out.payload(stored, sum)?;
        self.out.put(&TERMINATOR)?;
        self.scratch.clear();
        put_varint(&mut self.scratch, offset - self.data_end.0);
        put_varint(&mut self.scratch, length);
        put_varint(&mut self.scratch, position - self.data_end.1);
        put_varint(&mut self.scratch, stored.len() as u64);
        self.frames.put(&self.scratch)?;
        if self.meta.compression.is_lz4() {
            let separator = if self.index.frames == 0 { "" } else { ", " };
            self.sizes.put(format!("{separator}{}", stored.len()).as_bytes())?;
        }
        self.index.frames += 1;
        self.owe(offset, length);
        self.guest = offset + length;
        self.data_end = (self.guest, position + stored.len() as u64);
        self.data_size += length;
        Ok(())
    }

    /// Writes a zero frame: full and copy only.
    ///
    /// # Errors
    /// As for [`StreamWriter::data_frame`].
    pub fn zero_frame(&mut self, offset: u64, length: u64) -> Result<()> {
        if self.meta.incremental {
            return Err(Error::usage("zero frame in an incremental stream").at(offset));
        }
        self.check_frame(offset, length)?;
        self.header(Kind::Zero, offset, length)?;
        self.guest = offset + length;
        Ok(())
    }

    /// Declares that a range which changed since the base reads as zero: inc and diff only. It goes
    /// into the index alone.
    ///
    /// # Errors
    /// As for [`StreamWriter::data_frame`].
    pub fn zero_extent(&mut self, offset: u64, length: u64) -> Result<()> {
        if !self.meta.incremental {
            return Err(Error::usage("zero extent in a full stream").at(offset));
        }
        self.check_range(offset, length)?;
        self.scratch.clear();
        put_varint(&mut self.scratch, offset - self.zeros.last);
        put_varint(&mut self.scratch, length);
        self.zeros.put(&self.scratch)?;
        self.zeros.last = offset + length;
        self.index.zeros += 1;
        self.guest = offset + length;
        Ok(())
    }

    /// Adds the digest over the bytes that the data frames carry of guest block `block`.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) unless `block` is the next one touched by data.
    pub fn digest(&mut self, block: u64, digest: Digest) -> Result<()> {
        match self.owed.front_mut() {
            Some(range) if range.start == block => {
                range.start += 1;
                if range.is_empty() {
                    self.owed.pop_front();
                }
            }
            _ => return Err(Error::usage(format!("digest of block {block} is out of order"))),
        }
        self.index.digests += 1;
        self.digests.put(&digest)
    }

    /// Hands out what was not written yet, see [`Out::take`].
    pub fn take(&mut self, pending: &mut Pending) {
        self.out.inner.take(pending);
    }

    /// Writes everything after the last frame and returns the output, complete.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) when frames, digests or totals are missing;
    /// [`Kind::Io`](crate::error::Kind::Io).
    pub fn finish(mut self) -> Result<(O, Finished)> {
        if self.data_size != self.meta.data_size {
            return Err(Error::usage(format!(
                "frames carry {} bytes, the meta says {}",
                self.data_size, self.meta.data_size
            )));
        }
        if !self.meta.incremental && self.guest != self.meta.virtual_size {
            return Err(Error::usage("frames of a full end before the disk").at(self.guest));
        }
        if let Some(range) = self.owed.front() {
            return Err(Error::usage(format!("digest of block {} is missing", range.start)));
        }
        self.header(Kind::Stop, 0, 0)?;
        let index_digest = self.write_index()?;
        if self.meta.compression.is_lz4() {
            let start = self.out.position;
            self.out.put(b"[")?;
            self.sizes.replay(&mut |bytes| self.out.put(bytes))?;
            self.out.put(b"]")?;
            self.out.trail(Kind::Comp, start)?;
        }
        self.out.inner.complete(self.out.position).map_err(|error| Error::io("write", error))?;
        let finished = Finished {
            stored_size: self.out.position,
            adler32: self.out.adler.finish(),
            data_size: self.data_size,
            index_digest,
        };
        Ok((self.out.inner, finished))
    }

    fn write_index(&mut self) -> Result<[u8; HASH_LEN]> {
        self.index.headers_hash = *self.headers.finalize().as_bytes();
        self.index.frames_len = self.frames.len;
        self.index.zeros_len = self.zeros.len;
        let start = self.out.position;
        let mut hasher = blake3::Hasher::new();
        let out = &mut self.out;
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            out.put(bytes)
        };
        put(&self.index.encode())?;
        for table in [&mut self.frames, &mut self.zeros, &mut self.digests] {
            table.replay(&mut put)?;
        }
        let digest = *hasher.finalize().as_bytes();
        self.out.put(&digest)?;
        self.out.trail(Kind::Indx, start)?;
        Ok(digest)
    }

    fn header(&mut self, kind: Kind, offset: u64, length: u64) -> Result<()> {
        let bytes = Header::new(kind, offset, length).encode();
        self.headers.update(&bytes);
        self.out.put(&bytes)
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<()> {
        let end = offset.checked_add(length).filter(|&end| end <= self.meta.virtual_size);
        if length == 0 || offset < self.guest || end.is_none() {
            let message = format!("range of {length} bytes is empty, out of order or beyond the disk's end");
            return Err(Error::usage(message).at(offset));
        }
        Ok(())
    }

    fn check_frame(&self, offset: u64, length: u64) -> Result<()> {
        self.check_range(offset, length)?;
        let end = offset + length;
        if offset % FRAME_ALIGNMENT != 0 || end % FRAME_ALIGNMENT != 0 && end != self.meta.virtual_size {
            return Err(Error::usage(format!("frame of {length} bytes is not aligned")).at(offset));
        }
        if !self.meta.incremental && offset != self.guest {
            return Err(Error::usage("frames of a full leave a gap").at(self.guest));
        }
        Ok(())
    }

    /// Notes which digests the frame calls for. Its first block may be owed, or paid, already.
    fn owe(&mut self, offset: u64, length: u64) {
        let mut touched = digest::blocks(offset, length);
        if self.index.frames > 1 && touched.start == (self.data_end.0 - 1) / crate::stream::BLOCK {
            touched.start += 1;
        }
        match self.owed.back_mut() {
            Some(last) if last.end == touched.start => last.end = touched.end,
            _ if touched.is_empty() => {}
            _ => self.owed.push_back(touched),
        }
    }
}

/// The output, counted and summed.
struct Summed<O> {
    inner: O,
    adler: Adler32,
    position: u64,
}

impl<O: Out> Summed<O> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.put(bytes).map_err(|error| Error::io("write", error).at(self.position))?;
        self.adler.write(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn payload(&mut self, bytes: &[u8], sum: u32) -> Result<()> {
        self.inner.payload(bytes).map_err(|error| Error::io("write", error).at(self.position))?;
        self.adler = Adler32::from_checksum(sum::combine(self.adler.finish(), sum, bytes.len() as u64));
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Ends a payload that began at `start` with a header behind it.
    fn trail(&mut self, kind: Kind, start: u64) -> Result<()> {
        let length = self.position - start;
        self.put(&TERMINATOR)?;
        self.put(&Header::new(kind, 0, length).encode())
    }
}

/// Bytes for the end of the stream, in an unnamed file.
pub(super) struct Spool {
    file: BufWriter<File>,
    pub(super) len: u64,
    /// Where the next entry's delta starts.
    last: u64,
}

impl Spool {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(dir).map_err(|error| spool_failed(error).path(dir))?;
        Ok(Self { file: BufWriter::new(file), len: 0, last: 0 })
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        self.file.write_all(bytes).map_err(spool_failed)
    }

    /// Gives everything to `put`, in order.
    pub(super) fn replay(&mut self, put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.file.flush().map_err(spool_failed)?;
        let file = self.file.get_mut();
        file.rewind().map_err(spool_failed)?;
        let mut buffer = vec![0; 64 << 10];
        let mut left = self.len;
        while left > 0 {
            let read = file.read(&mut buffer).map_err(spool_failed)?;
            if read == 0 {
                return Err(Error::incomplete("temporary file lost its content"));
            }
            put(&buffer[..read])?;
            left = left.saturating_sub(read as u64);
        }
        Ok(())
    }
}

fn spool_failed(error: std::io::Error) -> Error {
    Error::io("write a temporary file for the index", error).hint("give --scratchdir a directory with room")
}
