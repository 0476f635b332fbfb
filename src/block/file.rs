//! A disk as a raw file or block device, kept sparse where the file system can.
//!
//! | zeroes on | become |
//! |---|---|
//! | a new file, not yet written | nothing: the file is one hole |
//! | anything else | a punched hole; if refused, a zeroed range; if refused, written zero bytes |
//!
//! `fallocate` does the same to block devices (discard that zeroes, or "write zeroes").

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::block::BlockSink;
use crate::error::{Error, Kind, Result};
use crate::file_writer::{FileWriter, Way};
use crate::units::{GIB, MIB};

/// Zero bytes written at once when nothing better works.
const ZERO_BUFFER: usize = MIB as usize;

/// Longest range of one `fallocate`: on a device it may write, and can't be interrupted.
const ZERO_STEP: u64 = GIB;

/// The ways to zero a range without sending zeroes, best first.
const FAST_WAYS: [FallocateFlags; 2] =
    [FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE), FallocateFlags::ZERO_RANGE];

/// A raw file or block device that is written as a disk.
#[derive(Debug)]
pub struct FileSink {
    writer: FileWriter,
    path: PathBuf,
    size: u64,
    zeroed: bool,
}

impl FileSink {
    /// A new sparse file of `size` bytes.
    ///
    /// # Errors
    /// [`Kind::Busy`] if the file exists.
    pub fn create(path: &Path, size: u64) -> Result<Self> {
        let file = create_new(path)?;
        file.set_len(size).map_err(|error| Error::io("set the size", error).path(path))?;
        Ok(Self { writer: FileWriter::new(file), path: path.to_owned(), size, zeroed: true })
    }

    /// An existing file, which becomes `size` bytes long, or a block device, which has at least as
    /// many. Its old content shows wherever nothing is written.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the device is too small, [`Kind::Busy`] if it is in use.
    pub fn open_existing(path: &Path, size: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let kind = path.metadata().map_err(|error| Error::io("open", error).path(path))?.file_type();
        if kind.is_block_device() {
            // On a device this means: not while it is mounted or part of another one.
            options.custom_flags(rustix::fs::OFlags::EXCL.bits() as i32);
        } else if !kind.is_file() {
            return Err(Error::usage("neither a file nor a block device").path(path));
        }
        let mut file = options.open(path).map_err(|error| {
            let busy = Errno::from_io_error(&error) == Some(Errno::BUSY);
            if busy {
                Error::new(Kind::Busy, "the device is in use").path(path)
            } else {
                Error::io("open", error).path(path)
            }
        })?;
        if kind.is_file() {
            file.set_len(size).map_err(|error| Error::io("set the size", error).path(path))?;
        } else {
            let room = file.seek(SeekFrom::End(0)).map_err(|error| Error::io("ask for the size", error).path(path))?;
            if room < size {
                let message = format!("the device has {room} bytes, the disk needs {size}");
                return Err(Error::usage(message).path(path));
            }
        }
        Ok(Self { writer: FileWriter::new(file), path: path.to_owned(), size, zeroed: false })
    }

    /// The same, written another way.
    pub fn with_way(self, way: Way) -> Self {
        Self { writer: self.writer.with_way(way), ..self }
    }

    /// Sets all of the space of a new file aside, so that it can't run out later.
    ///
    /// # Errors
    /// [`Kind::Io`] if there is not enough.
    pub fn allocate(&self) -> Result<()> {
        allocate(self.writer.file(), self.size).map_err(|error| error.path(&self.path))
    }

    fn check(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::usage("write beyond the end of the disk").path(&self.path).at(offset)),
        }
    }
}

impl BlockSink for FileSink {
    fn size(&self) -> u64 {
        self.size
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        self.writer.write_at(data, offset).map_err(|error| Error::io("write", error).path(&self.path))
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.check(range.start, range.end - range.start)?;
        if self.zeroed {
            return Ok(());
        }
        let file = self.writer.file();
        zero(file, range, &mut |way, offset, length| fallocate(file, way, offset, length))
            .map_err(|error| error.path(&self.path))
    }

    fn is_zeroed(&self) -> bool {
        self.zeroed
    }

    fn flush(&self) -> Result<()> {
        self.writer.sync().map_err(|error| Error::io("flush", error).path(&self.path))
    }
}

/// A new file that is the user's alone: what it gets is as secret as the disk.
///
/// # Errors
/// [`Kind::Busy`] if it exists.
pub(super) fn create_new(path: &Path) -> Result<File> {
    let created = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    created.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Error::new(Kind::Busy, "the file exists").path(path),
        _ => Error::io("create", error).path(path),
    })
}

/// Sets `size` bytes aside for a new file; with zeroes, where the file system knows no other way.
pub(super) fn allocate(file: &File, size: u64) -> Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::NOTSUP | Errno::NOSYS) => write_zero_bytes(file, 0, size),
        result => result.map_err(|error| Error::io("allocate", error)),
    }
}

/// How `fallocate` is called; tests put a refusal in its place.
type Fallocate<'f> = dyn FnMut(FallocateFlags, u64, u64) -> rustix::io::Result<()> + 'f;

fn zero(file: &File, range: Range<u64>, fallocate: &mut Fallocate<'_>) -> Result<()> {
    let mut offset = range.start;
    while offset < range.end {
        let length = ZERO_STEP.min(range.end - offset);
        if !zero_fast(offset, length, fallocate)? {
            write_zero_bytes(file, offset, length)?;
        }
        offset += length;
    }
    Ok(())
}

/// False if the file refuses all [`FAST_WAYS`].
fn zero_fast(offset: u64, length: u64, fallocate: &mut Fallocate<'_>) -> Result<bool> {
    for way in FAST_WAYS {
        loop {
            match fallocate(way, offset, length) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                // EINVAL is what devices say to ranges that don't suit their sectors.
                Err(Errno::NOTSUP | Errno::NOSYS | Errno::INVAL | Errno::NODEV | Errno::PERM) => break,
                Err(error) => return Err(Error::io("write zeroes", error).at(offset)),
            }
        }
    }
    Ok(false)
}

fn write_zero_bytes(file: &File, offset: u64, length: u64) -> Result<()> {
    let zeroes = vec![0; ZERO_BUFFER];
    let mut position = offset;
    let end = offset + length;
    while position < end {
        // At most the length of the buffer.
        let part = &zeroes[..(end - position).min(ZERO_BUFFER as u64) as usize];
        file.write_all_at(part, position).map_err(|error| Error::io("write zeroes", error).at(position))?;
        position += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
