//! The file under a stream: positioned reads, and the places where things are found from the start and from the
//! end.

use std::ops::Range;
use std::path::PathBuf;

use crate::error::{Error, Kind as ErrorKind, Result};
use crate::stored::{OpenFile, Stamp, StoredFile};
use crate::stream::frame::{HEADER_LEN, Header, Kind, TERMINATOR};
use crate::stream::index::HASH_LEN;
use crate::stream::meta::{MAX_LEN, Meta};

/// Length of the longest `.chksum` file that can be one: ten digits and white space.
const MAX_SUM_LEN: u64 = 64;

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

    /// Says that `range` is not read again: it leaves the page cache, which others need.
    pub(super) fn forget(&self, range: Range<u64>) {
        self.file.forget(range);
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
