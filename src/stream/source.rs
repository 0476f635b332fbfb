//! The file under a stream: positioned reads, one-pass reads with a running sum, and the places where
//! things are found from the start and from the end.

use std::ops::Range;
use std::path::PathBuf;

use simd_adler32::Adler32;

use crate::cancel::Cancel;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::stored::{OpenFile, Stamp, StoredFile};
use crate::stream::ahead::Ahead;
use crate::stream::frame::{HEADER_LEN, Header, Kind, TERMINATOR};
use crate::stream::index::HASH_LEN;
use crate::stream::meta::{MAX_LEN, Meta};

/// Unit of sequential reading: what is read is still in the processor's cache when it is summed.
const CHUNK: usize = 256 << 10;

/// Shorter files are read by who sums them.
const AHEAD: u64 = 2 << 20;

/// What was read leaves the page cache in steps of so many bytes, where that is wanted.
const FORGET_STEP: u64 = 8 << 20;

/// Length of the longest `.chksum` file that can be one: ten digits and white space.
const MAX_SUM_LEN: u64 = 64;

/// Told how far a long pass has come, and asked whether to go on.
#[derive(Clone, Copy)]
pub(super) struct Watch<'w> {
    /// Gets the bytes read since the last call.
    pub(super) progress: &'w dyn Fn(u64),
    pub(super) cancel: &'w Cancel,
}

/// An open file whose size is known.
#[derive(Debug)]
pub(super) struct StreamFile {
    file: OpenFile,
    pub(super) stored: StoredFile,
    /// What messages call it.
    pub(super) path: PathBuf,
    pub(super) size: u64,
}

impl StreamFile {
    pub(super) fn open(stored: StoredFile) -> Result<Self> {
        let file = stored.open()?;
        Ok(Self { size: file.size(), path: stored.path().to_owned(), file, stored })
    }

    /// Identity and times of the file.
    pub(super) fn stamp(&self) -> Result<Stamp> {
        self.file.stamp().map_err(|error| Error::io("stat", error).path(&self.path))
    }

    /// Fills `buffer` from `position`.
    pub(super) fn read_at(&self, buffer: &mut [u8], position: u64) -> Result<()> {
        self.file.read_exact_at(buffer, position).map_err(|error| self.unread(error, position))
    }

    /// What `error` at `position` means.
    fn unread(&self, error: std::io::Error, position: u64) -> Error {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.short(position),
            _ => Error::io("read", error).path(&self.path).at(position),
        }
    }

    /// Where the next bytes are at or behind `position` that are no hole; none up to the end. A file system
    /// without holes has none.
    pub(super) fn next_data(&self, position: u64) -> Result<Option<u64>> {
        if position >= self.size {
            return Ok(None);
        }
        let found = self.file.next_data(position);
        found.map_err(|error| Error::io("look for holes", error).path(&self.path).at(position))
    }

    /// Where the next hole is behind `position`, at the latest the end.
    pub(super) fn next_hole(&self, position: u64) -> Result<u64> {
        let found = self.file.next_hole(position);
        found.map_err(|error| Error::io("look for holes", error).path(&self.path).at(position))
    }

    /// The frame header at `position`.
    pub(super) fn header_at(&self, position: u64) -> Result<Header> {
        let mut bytes = [0; HEADER_LEN];
        self.read_at(&mut bytes, position)?;
        Header::decode(&bytes).map_err(|error| error.path(&self.path).at(position))
    }

    /// The error of a file that ends before what should be at `position`.
    pub(super) fn short(&self, position: u64) -> Error {
        Error::incomplete("file ends early").path(&self.path).at(position).hint(CUT_HINT)
    }

    /// Where the payload is whose header of `kind` follows it and ends at `end`.
    pub(super) fn trailing(&self, kind: Kind, end: u64, from: u64) -> Result<Range<u64>> {
        let name = kind.letters();
        let missing = || {
            Error::incomplete(format!("the closing \"{}\" is missing", name.escape_ascii()))
                .path(&self.path)
                .at(end)
                .hint(CUT_HINT)
        };
        let position = end.checked_sub(HEADER_LEN as u64).filter(|&position| position >= from).ok_or_else(missing)?;
        let header = self.header_at(position).map_err(|error| match error.kind() {
            ErrorKind::Corrupt => missing(),
            _ => error,
        })?;
        let stop = position.checked_sub(TERMINATOR.len() as u64).ok_or_else(missing)?;
        let start = stop.checked_sub(header.length).filter(|&start| start >= from).ok_or_else(missing)?;
        if header.kind != kind || header.start != 0 {
            return Err(missing());
        }
        let mut terminator = TERMINATOR;
        self.read_at(&mut terminator, stop)?;
        if terminator != TERMINATOR {
            return Err(Error::corrupt("line end is damaged").path(&self.path).at(stop));
        }
        Ok(start..stop)
    }

    /// What `FILE.chksum` says; `None` where there is none, or only the word that zip sets have.
    pub(super) fn checksum(&self) -> Result<Option<u32>> {
        let sum = self.stored.beside(&format!("{}.chksum", self.stored.name()));
        let text = match sum.read(MAX_SUM_LEN) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match text.trim_ascii() {
            b"None" => Ok(None),
            digits => match std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()) {
                Some(sum) => Ok(Some(sum)),
                None => Err(Error::corrupt(format!("not a checksum: \"{}\"", text.escape_ascii())).path(sum.path())),
            },
        }
    }
}

const CUT_HINT: &str = "the file was cut short; take it from another copy, or restore to an earlier point";

/// The meta frame of a file.
pub(super) struct MetaFrame {
    pub(super) meta: Meta,
    /// Position of the first frame after it.
    pub(super) end: u64,
    /// BLAKE3 over header and JSON.
    pub(super) hash: [u8; HASH_LEN],
}

/// Reads the meta frame; its length is believed only within the file and [`MAX_LEN`].
pub(super) fn read_meta(file: &StreamFile) -> Result<MetaFrame> {
    if file.size == 0 {
        return Err(Error::incomplete("file is empty").path(&file.path).hint(CUT_HINT));
    }
    let mut bytes = vec![0; HEADER_LEN];
    file.read_at(&mut bytes, 0)?;
    let header = file.header_at(0)?;
    if header.kind != Kind::Meta || header.start != 0 || header.length > MAX_LEN {
        return Err(Error::corrupt("no meta frame").path(&file.path).at(0));
    }
    let position = HEADER_LEN as u64;
    let end = position + header.length + TERMINATOR.len() as u64;
    if end > file.size {
        return Err(file.short(file.size));
    }
    bytes.resize(end as usize, 0);
    file.read_at(&mut bytes[HEADER_LEN..], position)?;
    let (hashed, terminator) = bytes.split_at(bytes.len() - TERMINATOR.len());
    if terminator != TERMINATOR {
        return Err(Error::corrupt("line end is damaged").path(&file.path).at(end - TERMINATOR.len() as u64));
    }
    let meta = Meta::decode(&hashed[HEADER_LEN..]).map_err(|error| error.path(&file.path).at(position))?;
    Ok(MetaFrame { meta, end, hash: *blake3::hash(hashed).as_bytes() })
}

/// Sums over a whole file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    pub(super) adler32: u32,
    /// Only of a file for which one is known.
    pub(super) crc32: Option<u32>,
}

struct Hashers {
    adler: Adler32,
    crc: Option<crc32fast::Hasher>,
}

/// Reads a file once, front to back, summing every byte; or hops over payloads without reading them.
pub(super) struct Sequential<'f> {
    file: &'f StreamFile,
    watch: Watch<'f>,
    /// Sums of the bytes handed out; none when hopping.
    sums: Option<Hashers>,
    /// The thread that reads a file of many chunks.
    ahead: Option<Ahead>,
    buffer: Vec<u8>,
    /// The part of `buffer` not handed out yet.
    ready: Range<usize>,
    position: u64,
    /// Up to where the page cache was told to forget; none where it is left alone.
    forgotten: Option<u64>,
}

impl<'f> Sequential<'f> {
    /// A pass from the start of the file that reads and sums every byte, or hops.
    pub(super) fn new(file: &'f StreamFile, watch: Watch<'f>, hop: bool) -> Self {
        let is_long = !hop && file.size > AHEAD;
        let ahead = if is_long { Ahead::new(file.file.clone(), CHUNK) } else { None };
        let buffer = match ahead {
            Some(_) => Vec::new(),
            None => vec![0; if hop { HEADER_LEN } else { CHUNK }],
        };
        let hashers = || Hashers { adler: Adler32::new(), crc: file.stored.crc32().map(|_| crc32fast::Hasher::new()) };
        Self { file, watch, sums: (!hop).then(hashers), ahead, buffer, ready: 0..0, position: 0, forgotten: None }
    }

    /// The file is not read again: it leaves the page cache, which others need.
    pub(super) fn forgetting(self) -> Self {
        Self { forgotten: Some(0), ..self }
    }

    /// Position of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Hands out the next `length` bytes in parts.
    pub(super) fn feed(&mut self, mut length: u64, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if length > self.file.size.saturating_sub(self.position) {
            return Err(self.file.short(self.file.size));
        }
        while length > 0 {
            if self.ready.is_empty() {
                self.refill()?;
            }
            let len = self.ready.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let part = &self.buffer[self.ready.start..self.ready.start + len];
            if let Some(sums) = &mut self.sums {
                sums.adler.write(part);
                if let Some(crc) = &mut sums.crc {
                    crc.update(part);
                }
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
        if self.sums.is_some() {
            return self.feed(length, &mut |_| Ok(()));
        }
        if length > self.file.size.saturating_sub(self.position) {
            return Err(self.file.short(self.file.size));
        }
        self.ready = 0..0;
        self.position += length;
        Ok(())
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

    /// The next 40 bytes and what they say.
    pub(super) fn header(&mut self) -> Result<([u8; HEADER_LEN], Result<Header>)> {
        let position = self.position;
        let mut bytes = [0; HEADER_LEN];
        self.take(&mut bytes)?;
        let header = Header::decode(&bytes).map_err(|error| error.path(&self.file.path).at(position));
        Ok((bytes, header))
    }

    /// Whether the next two bytes end a payload.
    pub(super) fn terminator(&mut self) -> Result<bool> {
        let mut bytes = TERMINATOR;
        self.take(&mut bytes)?;
        Ok(bytes == TERMINATOR)
    }

    /// Passes over the rest of the file; its sums, unless hopping.
    pub(super) fn finish(mut self) -> Result<Option<Sums>> {
        self.skip(self.file.size.saturating_sub(self.position))?;
        self.forget(0);
        Ok(self.sums.map(|sums| Sums { adler32: sums.adler.finish(), crc32: sums.crc.map(|crc| crc.finalize()) }))
    }

    fn refill(&mut self) -> Result<()> {
        self.watch.cancel.check()?;
        self.forget(FORGET_STEP);
        let len = if let Some(ahead) = &mut self.ahead {
            let part = ahead.next(std::mem::take(&mut self.buffer));
            let (buffer, len) = part.map_err(|error| self.file.unread(error, self.position))?;
            self.buffer = buffer;
            len
        } else {
            let left = self.file.size - self.position;
            let len = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.file.read_at(&mut self.buffer[..len], self.position)?;
            len
        };
        self.ready = 0..len;
        (self.watch.progress)(len as u64);
        Ok(())
    }

    /// Has the page cache forget what was read, if that are `least` bytes.
    fn forget(&mut self, least: u64) {
        if let Some(forgotten) = self.forgotten.filter(|forgotten| self.position - forgotten >= least) {
            self.file.file.forget(forgotten..self.position);
            self.forgotten = Some(self.position);
        }
    }
}
