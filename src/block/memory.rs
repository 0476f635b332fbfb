//! A disk in memory, drawn as a picture: for tests that read like pictures.
//!
//! Each character is one block: `0` zeroes that the source knows of, `-` zeroes that it takes for
//! data (a mere hole), anything else a block of data full of that character.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::block::{BlockSink, BlockSource};
use crate::error::{Error, Result};
use crate::extent::{self, Extent, Kind};

/// A disk in memory: source and sink.
#[derive(Debug)]
pub struct MemoryDisk {
    block: usize,
    /// One byte per byte.
    content: Mutex<Vec<u8>>,
    known: Vec<Extent>,
    flushes: Mutex<u32>,
}

impl MemoryDisk {
    /// The disk of a picture with `block` bytes (not 0) per character.
    pub fn from_picture(picture: &str, block: usize) -> Self {
        let block = block.max(1);
        let mut content = Vec::with_capacity(picture.len() * block);
        let mut known = Vec::new();
        for symbol in picture.bytes() {
            let offset = content.len() as u64;
            let kind = if symbol == b'0' { Kind::Zero } else { Kind::Data };
            extent::push(&mut known, Extent::new(offset, block as u64, kind));
            let fill = if matches!(symbol, b'0' | b'-') { 0 } else { symbol };
            content.resize(content.len() + block, fill);
        }
        Self { block, content: Mutex::new(content), known, flushes: Mutex::new(0) }
    }

    /// The content as a picture: `0` for a block of zeroes, its character for a uniform block, `?`
    /// for a mixed one.
    pub fn picture(&self) -> String {
        let symbol = |block: &[u8]| match block {
            [first, rest @ ..] if rest.iter().all(|byte| byte == first) => {
                if *first == 0 {
                    '0'
                } else {
                    char::from(*first)
                }
            }
            _ => '?',
        };
        self.lock().chunks(self.block).map(symbol).collect()
    }

    /// The content.
    pub fn content(&self) -> Vec<u8> {
        self.lock().clone()
    }

    /// How often it was flushed.
    pub fn flushes(&self) -> u32 {
        *self.flushes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The range in memory, if it is inside the disk.
    fn span(&self, offset: u64, length: u64) -> Result<Range<usize>> {
        let size = BlockSource::size(self);
        let end = offset.checked_add(length).filter(|&end| end <= size);
        // Inside the disk, so inside memory.
        end.map(|end| offset as usize..end as usize)
            .ok_or_else(|| Error::usage("beyond the end of the disk").at(offset))
    }
}

impl BlockSource for MemoryDisk {
    fn size(&self) -> u64 {
        self.known.last().map_or(0, Extent::end)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        Ok(extent::clip(&self.known, range).collect())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let span = self.span(offset, buffer.len() as u64)?;
        buffer.copy_from_slice(&self.lock()[span]);
        Ok(())
    }
}

impl BlockSink for MemoryDisk {
    fn size(&self) -> u64 {
        BlockSource::size(self)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let span = self.span(offset, data.len() as u64)?;
        self.lock()[span].copy_from_slice(data);
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        let span = self.span(range.start, range.end.saturating_sub(range.start))?;
        self.lock()[span].fill(0);
        Ok(())
    }

    /// True only as long as nothing but zeroes is in it.
    fn is_zeroed(&self) -> bool {
        self.lock().iter().all(|&byte| byte == 0)
    }

    fn flush(&self) -> Result<()> {
        *self.flushes.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_disks() {
        let disk = MemoryDisk::from_picture("A0-B", 4);
        assert_eq!(disk.content(), b"AAAA\0\0\0\0\0\0\0\0BBBB");
        assert_eq!(disk.extents(0..16).unwrap(), [Extent::data(0, 4), Extent::zero(4, 4), Extent::data(8, 8)]);
        assert_eq!(disk.extents(6..9).unwrap(), [Extent::zero(6, 2), Extent::data(8, 1)]);
        assert!(disk.read_at(&mut [0; 2], 15).is_err());
        assert!(disk.write_at(&[1], u64::MAX).is_err());
        disk.write_at(b"CC", 7).unwrap();
        disk.write_zeroes(12..16).unwrap();
        disk.flush().unwrap();
        assert_eq!((disk.picture().as_str(), disk.flushes()), ("A??0", 1));
    }
}
