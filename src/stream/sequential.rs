//! Reads a file, or a part of it, front to back.

use std::ops::Range;

use simd_adler32::Adler32;

use crate::cancel::Cancel;
use crate::error::Result;
use crate::stream::frame::{HEADER_LEN, Header, TERMINATOR};
use crate::stream::source::StreamFile;
use crate::stream::sum::Sums;

/// Unit of reading: what is read is still in the processor's cache when it is summed.
const CHUNK: usize = 256 << 10;

/// Unit of reading parts, which several threads do at once: to the disk these are requests one behind the other.
const PART_CHUNK: u64 = 2 << 20;

/// Told how far a long pass has come, and asked whether to go on. Several threads may do that.
#[derive(Clone, Copy)]
pub(super) struct Watch<'w> {
    /// Gets the bytes read since the last call.
    pub(super) progress: &'w (dyn Fn(u64) + Sync),
    pub(super) cancel: &'w Cancel,
}

struct Hashers {
    adler: Adler32,
    crc: Option<crc32fast::Hasher>,
}

impl Hashers {
    fn new(file: &StreamFile) -> Self {
        Self { adler: Adler32::new(), crc: file.stored.crc32().map(|_| crc32fast::Hasher::new()) }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.adler.write(bytes);
        if let Some(crc) = &mut self.crc {
            crc.update(bytes);
        }
    }

    fn finish(self) -> Sums {
        Sums { adler32: self.adler.finish(), crc32: self.crc.map(crc32fast::Hasher::finalize) }
    }
}

/// Reads a part of a file once, front to back, summing every byte; or hops over payloads.
pub(super) struct Sequential<'f> {
    file: &'f StreamFile,
    watch: Watch<'f>,
    /// Whether only what is asked for is read, and nothing summed.
    hops: bool,
    /// Of the bytes handed out.
    hashers: Hashers,
    buffer: Vec<u8>,
    /// The bytes of `buffer` not handed out yet.
    ready: Range<usize>,
    position: u64,
    /// Nothing is read beyond it.
    end: u64,
}

impl<'f> Sequential<'f> {
    /// A pass over the file that reads and sums every byte.
    pub(super) fn new(file: &'f StreamFile, watch: Watch<'f>) -> Self {
        let (hashers, buffer) = (Hashers::new(file), vec![0; CHUNK]);
        Self { file, watch, hops: false, hashers, buffer, ready: 0..0, position: 0, end: file.size }
    }

    /// A pass over the file that reads what is asked for, and nothing of what is skipped.
    pub(super) fn hopping(file: &'f StreamFile, watch: Watch<'f>) -> Self {
        let (hashers, buffer) = (Hashers::new(file), vec![0; HEADER_LEN]);
        Self { file, watch, hops: true, hashers, buffer, ready: 0..0, position: 0, end: file.size }
    }

    /// Goes to the start of `part`, at the end of which it ends; sums begin anew.
    pub(super) fn turn_to(&mut self, part: Range<u64>) {
        self.hashers = Hashers::new(self.file);
        self.ready = 0..0;
        (self.position, self.end) = (part.start, part.end.min(self.file.size));
        // At most 2 MiB.
        self.buffer.resize((self.end - self.position).clamp(1, PART_CHUNK) as usize, 0);
    }

    /// Position of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Hands out the next `length` bytes in parts.
    pub(super) fn feed(&mut self, mut length: u64, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.expect(length)?;
        while length > 0 {
            if self.ready.is_empty() {
                self.refill()?;
            }
            let len = self.ready.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let part = &self.buffer[self.ready.start..self.ready.start + len];
            if !self.hops {
                self.hashers.update(part);
            }
            self.ready.start += len;
            self.position += len as u64;
            length -= len as u64;
            sink(part)?;
        }
        Ok(())
    }

    /// Passes over `length` bytes: summed, or not read at all when hopping.
    pub(super) fn skip(&mut self, length: u64) -> Result<()> {
        if !self.hops {
            return self.feed(length, &mut |_| Ok(()));
        }
        self.expect(length)?;
        self.ready = 0..0;
        self.position += length;
        Ok(())
    }

    /// That there are `length` bytes more.
    fn expect(&self, length: u64) -> Result<()> {
        if length > self.end.saturating_sub(self.position) { Err(self.file.short(self.end)) } else { Ok(()) }
    }

    /// Fills `buffer` with the next bytes.
    pub(super) fn take(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        self.feed(buffer.len() as u64, &mut |part| {
            buffer[filled..filled + part.len()].copy_from_slice(part);
            filled += part.len();
            Ok(())
        })
    }

    /// What the next 40 bytes say.
    pub(super) fn header(&mut self) -> Result<Header> {
        let position = self.position;
        let mut bytes = [0; HEADER_LEN];
        self.take(&mut bytes)?;
        Header::decode(&bytes).map_err(|error| error.path(&self.file.path).at(position))
    }

    /// Whether the next two bytes end a payload.
    pub(super) fn terminator(&mut self) -> Result<bool> {
        let mut bytes = TERMINATOR;
        self.take(&mut bytes)?;
        Ok(bytes == TERMINATOR)
    }

    /// Passes over the rest; the sums over all that was read.
    pub(super) fn finish(&mut self) -> Result<Sums> {
        self.skip(self.end.saturating_sub(self.position))?;
        Ok(std::mem::replace(&mut self.hashers, Hashers::new(self.file)).finish())
    }

    fn refill(&mut self) -> Result<()> {
        self.watch.cancel.check()?;
        let left = self.end - self.position;
        let len = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.file.read_at(&mut self.buffer[..len], self.position)?;
        self.ready = 0..len;
        (self.watch.progress)(len as u64);
        Ok(())
    }
}
