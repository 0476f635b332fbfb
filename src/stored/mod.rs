//! A file that is read from where it is stored: in a directory, or in place inside a zip file.
//!
//! Everything that reads a set (streams, manifests, configuration, sums) reads through [`StoredFile`] and
//! knows nothing else of where the bytes are.
//!
//! | module | owns |
//! |---|---|
//! | [`archive`] | the table of a zip file, which may have been written by anybody |
//! | [`zips`] | the members of several zip files as the files of one set |
//! | [`zip_writer`] | a zip file written front to back |

pub mod archive;
pub mod zip_writer;
pub mod zips;

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;

use self::zips::Zips;
use crate::error::{Error, Result};

/// Unit of reading whole files.
const PART: u64 = 256 << 10;

/// Where a file is; that it is there is not said.
#[derive(Debug, Clone)]
pub struct StoredFile {
    /// What messages call it: a member is `ARCHIVE/NAME`.
    path: PathBuf,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Path,
    /// The member of that number.
    Member(Arc<Zips>, usize),
    /// No member has that name.
    Missing(Arc<Zips>),
}

impl<P: Into<PathBuf>> From<P> for StoredFile {
    fn from(path: P) -> Self {
        Self { path: path.into(), place: Place::Path }
    }
}

impl From<&StoredFile> for StoredFile {
    fn from(file: &StoredFile) -> Self {
        file.clone()
    }
}

impl StoredFile {
    /// The member called `name`, or the lack of one.
    pub(self) fn member(zips: &Arc<Zips>, name: &str) -> Self {
        match zips.find(name) {
            Some((number, archive)) => {
                Self { path: archive.join(name), place: Place::Member(Arc::clone(zips), number) }
            }
            None => Self { path: zips.place().join(name), place: Place::Missing(Arc::clone(zips)) },
        }
    }

    /// What messages call it; of a member the archive's path and its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name, without the folder.
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// The file called `name` in the same folder.
    pub fn beside(&self, name: &str) -> Self {
        match &self.place {
            Place::Path => Self::from(self.path.with_file_name(name)),
            Place::Member(zips, _) | Place::Missing(zips) => Self::member(zips, name),
        }
    }

    /// Whether it is there, as far as can be seen.
    pub fn exists(&self) -> bool {
        match &self.place {
            Place::Path => self.path.exists(),
            Place::Member(..) => true,
            Place::Missing(_) => false,
        }
    }

    /// The CRC-32 of its content that a zip file has beside it.
    pub fn crc32(&self) -> Option<u32> {
        match &self.place {
            Place::Member(zips, number) => Some(zips.entry(*number).crc32),
            Place::Path | Place::Missing(_) => None,
        }
    }

    /// Its size in bytes.
    ///
    /// # Errors
    /// [`NotFound`](crate::error::Kind::NotFound), [`Io`](crate::error::Kind::Io).
    pub fn size(&self) -> Result<u64> {
        match &self.place {
            Place::Path => Ok(std::fs::metadata(&self.path).map_err(|error| self.io("stat", error))?.len()),
            Place::Member(zips, number) => Ok(zips.entry(*number).length),
            Place::Missing(_) => Err(self.missing()),
        }
    }

    /// Opens it for positioned reads.
    ///
    /// # Errors
    /// [`NotFound`](crate::error::Kind::NotFound), [`Io`](crate::error::Kind::Io),
    /// [`Usage`](crate::error::Kind::Usage) for what is no regular file: a pipe may never end.
    pub fn open(&self) -> Result<OpenFile> {
        match &self.place {
            Place::Path => {
                // Looked at first: to open a pipe can last for ever.
                let metadata = std::fs::metadata(&self.path).map_err(|error| self.io("open", error))?;
                if !metadata.is_file() {
                    return Err(Error::usage("not a regular file").path(&self.path));
                }
                let file = File::open(&self.path).map_err(|error| self.io("open", error))?;
                let size = file.metadata().map_err(|error| self.io("open", error))?.len();
                Ok(OpenFile { file: Arc::new(file), start: 0, size })
            }
            Place::Member(zips, number) => {
                let entry = zips.entry(*number);
                Ok(OpenFile { file: zips.file(*number), start: entry.start, size: entry.length })
            }
            Place::Missing(_) => Err(self.missing()),
        }
    }

    /// All of it, if it has no more than `limit` bytes; a member is compared with its CRC-32.
    ///
    /// # Errors
    /// As for [`StoredFile::open`]; [`Corrupt`](crate::error::Kind::Corrupt) for one that is longer or damaged.
    pub fn read(&self, limit: u64) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        self.feed(limit, &mut |part| content.extend_from_slice(part))?;
        Ok(content)
    }

    /// As [`StoredFile::read`], in parts.
    ///
    /// # Errors
    /// As for [`StoredFile::read`]; what was handed out before is not to be used then.
    pub fn feed(&self, limit: u64, sink: &mut dyn FnMut(&[u8])) -> Result<()> {
        let file = self.open()?;
        if file.size > limit {
            return Err(Error::corrupt(format!("{} bytes are too many for it", file.size)).path(&self.path));
        }
        let mut buffer = vec![0; file.size.min(PART) as usize];
        let mut position = 0;
        let mut crc = crc32fast::Hasher::new();
        while position < file.size {
            let part = &mut buffer[..(file.size - position).min(PART) as usize];
            file.read_exact_at(part, position).map_err(|error| self.io("read", error))?;
            crc.update(part);
            sink(part);
            position += part.len() as u64;
        }
        match self.crc32() {
            Some(known) if known != crc.finalize() => {
                Err(Error::corrupt("does not match the zip file's CRC-32").path(&self.path))
            }
            _ => Ok(()),
        }
    }

    fn io(&self, operation: &str, error: std::io::Error) -> Error {
        Error::io(operation, error).path(&self.path)
    }

    fn missing(&self) -> Error {
        self.io("open", std::io::ErrorKind::NotFound.into())
    }
}

/// Identity and times of a file: inode, size, the part of it that is read, times of the last change of its content
/// and of its inode. The last one can't be set: who changes a file and puts its time back shows there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(pub [u64; 8]);

/// An open file of known size.
#[derive(Debug, Clone)]
pub struct OpenFile {
    file: Arc<File>,
    start: u64,
    size: u64,
}

impl OpenFile {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What tells the file from another one, and from itself after a change.
    ///
    /// # Errors
    /// Of the file system.
    pub fn stamp(&self) -> std::io::Result<Stamp> {
        let facts = self.file.metadata()?;
        Ok(Stamp([
            facts.ino(),
            facts.len(),
            self.start,
            self.size,
            facts.mtime() as u64,
            facts.mtime_nsec() as u64,
            facts.ctime() as u64,
            facts.ctime_nsec() as u64,
        ]))
    }

    /// Fills `buffer` from `position`.
    ///
    /// # Errors
    /// [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) where the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> std::io::Result<()> {
        let end = position.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buffer, self.start + position)
    }

    /// Says that `range` was read and that nobody here needs it again: it leaves the page cache. Advice that is not
    /// taken changes nothing.
    pub fn forget(&self, range: Range<u64>) {
        // No length would be all the rest of the file.
        if let Some(length) = NonZeroU64::new(range.end.saturating_sub(range.start)) {
            let _ = fadvise(&self.file, self.start + range.start, Some(length), Advice::DontNeed);
        }
    }

    /// Where the next bytes are at or behind `position` that are no hole; none up to the end. Where holes can't be
    /// told there are none.
    ///
    /// # Errors
    /// Of the file system.
    pub fn next_data(&self, position: u64) -> std::io::Result<Option<u64>> {
        match seek(&self.file, SeekFrom::Data(self.start + position)) {
            Ok(data) => Ok(Some(data.saturating_sub(self.start)).filter(|data| *data < self.size)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL | Errno::NOTSUP) => Ok(Some(position).filter(|data| *data < self.size)),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the next hole is behind `position`, at the latest the end.
    ///
    /// # Errors
    /// Of the file system.
    pub fn next_hole(&self, position: u64) -> std::io::Result<u64> {
        match seek(&self.file, SeekFrom::Hole(self.start + position)) {
            Ok(hole) if hole > self.start + position => Ok((hole - self.start).min(self.size)),
            Ok(_) | Err(Errno::NXIO | Errno::INVAL | Errno::NOTSUP) => Ok(self.size),
            Err(error) => Err(error.into()),
        }
    }
}
