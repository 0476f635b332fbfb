//! Where the bytes of a stream or image go: one after the other into anything that is written to, or to their places
//! in a file, payloads from several threads at once.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use crate::file_writer::{FileWriter, MAX_WRITE};

/// Zeroes that are written at once where there are no holes.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Small parts are gathered up to this size where no payload comes between them.
const GATHERED: usize = 1 << 20;

/// Slices of one write: what Linux takes.
const MAX_SLICES: usize = 1024;

/// An output that is written front to back.
pub trait Out {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// Of the output.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Appends a payload, or leaves a place for it: then [`Out::take`] says where it is to be written.
    ///
    /// # Errors
    /// Of the output.
    fn payload(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// The next `length` bytes read as zeroes.
    ///
    /// # Errors
    /// Of the output.
    fn zeroes(&mut self, length: u64) -> io::Result<()>;

    /// The output is complete with `length` bytes.
    ///
    /// # Errors
    /// Of the output.
    fn complete(&mut self, length: u64) -> io::Result<()>;

    /// Puts into `pending`, which is empty, all that was appended since the last call and is not written.
    fn take(&mut self, _pending: &mut Pending) {}
}

/// What is written to in order: a pipe, a member of a zip file, memory.
impl<W: Write> Out for W {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn payload(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn zeroes(&mut self, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let part = length.min(ZEROES.len() as u64);
            self.write_all(&ZEROES[..part as usize])?;
            length -= part;
        }
        Ok(())
    }

    fn complete(&mut self, _length: u64) -> io::Result<()> {
        self.flush()
    }
}

/// A new file in which everything has its place as soon as what is before it is known. Nothing is written by
/// [`Out::payload`]: what [`Out::take`] hands out has to be written with [`Pending::write`], in any order, by any
/// thread. Zeroes are holes.
#[derive(Debug)]
pub struct Placed {
    target: Arc<FileWriter>,
    /// One past the last byte that has a place.
    end: u64,
    pending: Pending,
}

/// What was given a place in a file and is not written yet: small parts, which are here, and places of payloads.
#[derive(Debug, Default)]
pub struct Pending {
    target: Option<Arc<FileWriter>>,
    small: Vec<u8>,
    parts: Vec<Part>,
}

/// Bytes one behind the other in a file.
#[derive(Debug)]
struct Part {
    position: u64,
    len: usize,
    is_payload: bool,
}

impl Placed {
    /// An output into `file`, which is empty.
    pub fn new(file: FileWriter) -> Self {
        let target = Arc::new(file);
        Self { target, end: 0, pending: Pending::default() }
    }

    /// Makes what was written durable; it leaves the page cache.
    ///
    /// # Errors
    /// Of the file.
    pub fn sync(&self) -> io::Result<()> {
        self.target.sync()
    }

    fn append(&mut self, len: usize, is_payload: bool) {
        match self.pending.parts.last_mut() {
            Some(last) if !is_payload && !last.is_payload && last.position + last.len as u64 == self.end => {
                last.len += len;
            }
            _ => self.pending.parts.push(Part { position: self.end, len, is_payload }),
        }
        self.end += len as u64;
    }

    /// Writes what waits; no payload is among it.
    fn flush(&mut self) -> io::Result<()> {
        let mut pending = Pending::default();
        self.take(&mut pending);
        let written = pending.write(&mut std::iter::empty());
        // The memory is used again.
        (self.pending, self.pending.target) = (pending, None);
        written
    }
}

impl Out for Placed {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.pending.small.len() + bytes.len() > GATHERED && self.pending.parts.iter().all(|part| !part.is_payload) {
            self.flush()?;
        }
        self.append(bytes.len(), false);
        self.pending.small.extend_from_slice(bytes);
        Ok(())
    }

    fn payload(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.append(bytes.len(), true);
        Ok(())
    }

    fn zeroes(&mut self, length: u64) -> io::Result<()> {
        self.end += length;
        Ok(())
    }

    fn complete(&mut self, length: u64) -> io::Result<()> {
        self.flush()?;
        self.target.drain()?;
        self.target.file().set_len(length)
    }

    fn take(&mut self, pending: &mut Pending) {
        std::mem::swap(&mut self.pending, pending);
        pending.target = Some(Arc::clone(&self.target));
    }
}

impl Pending {
    /// Writes everything to its place and is empty then. `payloads` are those that were appended, in that order.
    ///
    /// # Errors
    /// Of the file, with what was written undefined; [`InvalidInput`](io::ErrorKind::InvalidInput) where a payload
    /// is not as long as its place.
    pub fn write(&mut self, payloads: &mut dyn Iterator<Item = &[u8]>) -> io::Result<()> {
        let Some(target) = self.target.take() else { return Ok(()) };
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(self.parts.len().min(MAX_SLICES));
        let (mut small, mut start, mut len) = (self.small.as_slice(), 0, 0);
        for part in &self.parts {
            let mut bytes = if part.is_payload {
                payloads.next().filter(|bytes| bytes.len() == part.len).ok_or(io::ErrorKind::InvalidInput)?
            } else {
                let (bytes, rest) = small.split_at(part.len);
                small = rest;
                bytes
            };
            if start + len as u64 != part.position {
                target.write(&mut slices, start)?;
                slices.clear();
                (start, len) = (part.position, 0);
            }
            while !bytes.is_empty() {
                let (now, rest) = bytes.split_at(bytes.len().min(MAX_WRITE - len));
                slices.push(IoSlice::new(now));
                (bytes, len) = (rest, len + now.len());
                if slices.len() == MAX_SLICES || len == MAX_WRITE {
                    target.write(&mut slices, start)?;
                    slices.clear();
                    (start, len) = (start + len as u64, 0);
                }
            }
        }
        target.write(&mut slices, start)?;
        self.small.clear();
        self.parts.clear();
        Ok(())
    }
}

#[cfg(test)]
#[path = "out_tests.rs"]
mod tests;
