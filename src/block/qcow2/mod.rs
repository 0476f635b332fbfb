//! A new qcow2 image, written directly: what of it holds data is known beforehand, so every cluster has its place from
//! the start ([`layout`]), and threads write theirs at once without asking anybody.
//!
//! Only what a restore needs: no backing file, no data file, nothing compressed or encrypted. For these `qemu-nbd`
//! writes ([`super::nbd`]).

mod geometry;
mod layout;
mod tables;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use geometry::Geometry;
use layout::Layout;

use crate::block::{BlockSink, file};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::file_writer::{FileWriter, Way};
use crate::units::MIB;

/// A new qcow2 image that is written as a disk.
#[derive(Debug)]
pub struct Qcow2Sink {
    writer: FileWriter,
    path: PathBuf,
    layout: Layout,
}

impl Qcow2Sink {
    /// A new image whose data will be that of `extents`, which cover the disk; nothing else can be written. It is valid
    /// from the start, and reads as zeroes. With `allocate` the whole disk has its place, and the space is set aside.
    ///
    /// # Errors
    /// [`Busy`](crate::error::Kind::Busy) if the file exists, [`Unsupported`](crate::error::Kind::Unsupported) if the
    /// disk is too large for such an image, [`Cancelled`](crate::error::Kind::Cancelled). What there is of the file after
    /// others is to be removed.
    pub fn create(
        path: &Path,
        geometry: Geometry,
        extents: &[Extent],
        allocate: bool,
        cancel: &Cancel,
    ) -> Result<Self> {
        let whole = [Extent::data(0, geometry.size)];
        let extents = if allocate { &whole } else { extents };
        let layout = Layout::new(geometry, extents).map_err(|error| error.path(path))?;
        let file = file::create_new(path)?;
        let bad = |what| move |error| Error::io(what, error).path(path);
        if allocate {
            file::allocate(&file, layout.file_size()).map_err(|error| error.path(path))?;
        }
        file.set_len(layout.file_size()).map_err(bad("set the size"))?;
        let mut out = BufWriter::with_capacity(MIB as usize, Interruptible { file: &file, cancel });
        let written = tables::write(&layout, extents, &mut out).and_then(|()| out.flush());
        drop(out);
        written.map_err(bad("write the tables"))?;
        Ok(Self { writer: FileWriter::new(file), path: path.to_owned(), layout })
    }

    /// The same, written another way.
    pub fn with_way(self, way: Way) -> Self {
        Self { writer: self.writer.with_way(way), ..self }
    }
}

/// A file that is written to until that is cancelled: tables of large disks take minutes.
struct Interruptible<'f> {
    file: &'f File,
    cancel: &'f Cancel,
}

impl Write for Interruptible<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlockSink for Qcow2Sink {
    fn size(&self) -> u64 {
        self.layout.geometry.size
    }

    fn write_at(&self, mut data: &[u8], mut offset: u64) -> Result<()> {
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > self.size()) {
            return Err(Error::usage("write beyond the end of the disk").path(&self.path).at(offset));
        }
        while !data.is_empty() {
            let Some((place, room)) = self.layout.place(offset) else {
                return Err(Error::usage("write where no data was announced").path(&self.path).at(offset));
            };
            let (part, rest) = data.split_at(room.min(data.len() as u64) as usize);
            self.writer.write_at(part, place).map_err(|error| Error::io("write", error).path(&self.path))?;
            data = rest;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Nothing: no range is written twice.
    fn write_zeroes(&self, _range: Range<u64>) -> Result<()> {
        Ok(())
    }

    fn is_zeroed(&self) -> bool {
        true
    }

    fn flush(&self) -> Result<()> {
        self.writer.sync().map_err(|error| Error::io("flush", error).path(&self.path))
    }
}

#[cfg(test)]
mod tests;
