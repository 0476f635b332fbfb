//! The table of a zip file: what lies where in it. Files of a set are stored in it as they are, so that they
//! can be read in place.
//!
//! A zip file comes from anybody. What it says of itself is believed only as far as it fits together: members
//! lie within the file, do not overlap, fill it from its first byte, and are called the same at both places.
//! A guest's disk may hold zip files, too: one that a cut made the end of the file is not taken for the whole.
//!
//! Format: PKWARE's APPNOTE.TXT 6.3.10; `rawzip` reads it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rawzip::{CompressionMethod, ErrorKind, FileReader, ZipArchive, ZipArchiveEntryWayfinder};

use crate::error::{Error, Result};

/// Longer than the longest entry of a table: three fields of 65535 bytes.
const BUFFER: usize = 256 << 10;

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Position of its first byte in the file.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
    /// CRC-32 of its content.
    pub crc32: u32,
}

/// An open zip file.
#[derive(Debug)]
pub struct Archive {
    /// The file.
    pub file: Arc<File>,
    /// Its members in the order in which they lie there; directories are left out.
    pub entries: Vec<Entry>,
}

impl Archive {
    /// Opens the zip file at `path` and reads its table.
    ///
    /// # Errors
    /// [`Incomplete`](crate::error::Kind::Incomplete) for one without an end,
    /// [`Unsupported`](crate::error::Kind::Unsupported) for members that are compressed or encrypted,
    /// [`Corrupt`](crate::error::Kind::Corrupt) for a table that contradicts itself or the file,
    /// [`Usage`](crate::error::Kind::Usage) for what is no zip file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).map_err(|error| error.path(path))
    }

    fn read(path: &Path) -> Result<Self> {
        let io = |error: std::io::Error| Error::io("open", error);
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::usage("is no file"));
        }
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut buffer = vec![0; BUFFER];
        let archive = ZipArchive::from_file(file, &mut buffer).map_err(|error| locate(error, path, size))?;
        if archive.end_offset() != size {
            return Err(cut_short());
        }
        let mut found = entries(&archive, &mut buffer)?;
        found.sort_by_key(|(entry, _)| entry.start);
        check_layout(&archive, &found)?;
        let entries = found.into_iter().map(|(entry, _)| entry).filter(|entry| !entry.name.ends_with('/')).collect();
        Ok(Self { file: Arc::new(archive.into_inner().into_inner()), entries })
    }
}

/// All entries of the table, directories included, each with the position of its local header.
fn entries(archive: &ZipArchive<FileReader>, buffer: &mut [u8]) -> Result<Vec<(Entry, u64)>> {
    let mut found = Vec::new();
    let mut local = vec![0; BUFFER];
    let mut table = archive.entries(buffer);
    while let Some(record) = table.next_entry().map_err(damaged)? {
        let path = record.file_path();
        let name = std::str::from_utf8(path.as_ref())
            .map_err(|error| Error::corrupt("a member's name is no text").caused_by(error))?;
        if record.flags().is_encrypted() || record.compression_method() != CompressionMethod::STORE {
            return Err(packed(name));
        }
        let (start, end) = place(archive, record.wayfinder(), name, &mut local)?;
        let length = record.uncompressed_size_hint();
        if end - start != length {
            return Err(Error::corrupt(format!("{name:?} is stored, but has two sizes: {} and {length}", end - start)));
        }
        let entry = Entry { name: name.to_owned(), start, length, crc32: record.crc32() };
        found.push((entry, record.local_header_offset()));
    }
    if found.len() as u64 != archive.entries_hint() {
        return Err(Error::corrupt(format!("its table has {} members, not {}", found.len(), archive.entries_hint())));
    }
    Ok(found)
}

/// Where a member's bytes are; its local header must be its own.
fn place(
    archive: &ZipArchive<FileReader>,
    wayfinder: ZipArchiveEntryWayfinder,
    name: &str,
    local: &mut [u8],
) -> Result<(u64, u64)> {
    let entry = archive.get_entry(wayfinder).map_err(damaged)?;
    let header = entry.local_header(local).map_err(damaged)?;
    if header.file_path().as_ref() != name.as_bytes() {
        return Err(Error::corrupt(format!("where {name:?} should be there is another member")));
    }
    if header.compression_method() != CompressionMethod::STORE || header.flags().is_encrypted() {
        return Err(packed(name));
    }
    Ok(entry.compressed_data_range())
}

/// That the members fill the file from its begin, one behind the other, up to the table.
fn check_layout(archive: &ZipArchive<FileReader>, found: &[(Entry, u64)]) -> Result<()> {
    let mut end = 0;
    for (number, (entry, header)) in found.iter().enumerate() {
        if number == 0 && *header != 0 {
            return Err(cut_short());
        }
        if *header < end {
            return Err(Error::corrupt(format!("{:?} overlaps another member", entry.name)));
        }
        end = entry.start + entry.length;
    }
    if end > archive.directory_offset() {
        return Err(Error::corrupt("a member reaches into the table"));
    }
    Ok(())
}

fn packed(name: &str) -> Error {
    Error::unsupported(format!("{name:?} is compressed or encrypted in it: only stored files can be read in place"))
        .hint("unzip it into a directory, and name that")
}

fn cut_short() -> Error {
    Error::incomplete("the zip file has no end: it was cut short, or is still being written, or was changed")
        .hint("take it from another copy; without this file, points that do not need it can still be restored")
}

fn damaged(error: rawzip::Error) -> Error {
    match error.kind() {
        ErrorKind::IO(_) => Error::new(crate::error::Kind::Io, "read").caused_by(error),
        ErrorKind::Eof => cut_short().caused_by(error),
        _ => Error::corrupt("the table of the zip file is damaged").caused_by(error),
    }
}

/// What a file is of which no end was found.
fn locate(error: rawzip::Error, path: &Path, size: u64) -> Error {
    if !matches!(error.kind(), ErrorKind::MissingEndOfCentralDirectory | ErrorKind::Eof) {
        return damaged(error);
    }
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
    match read {
        _ if size == 0 => Error::incomplete("is empty"),
        Ok(()) if magic == *b"PK\x03\x04" => cut_short(),
        _ => Error::usage("is neither the directory of a set nor a zip file")
            .hint("-i takes the directory that `virtkeep backup -o DIR` wrote, or the zip files of `-o -`"),
    }
}
