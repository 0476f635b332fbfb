//! Block-shaped things: what can be read as a disk ([`BlockSource`]) and written as one
//! ([`BlockSink`]).

pub mod file;
pub mod memory;
pub mod nbd;
pub mod qcow2;

use std::ops::Range;

use crate::error::Result;
use crate::extent::Extent;

/// Something that reads as a disk. Calls are positioned and take `&self`: several threads may read
/// at once where the source allows it.
pub trait BlockSource: Send + Sync {
    /// Virtual size in bytes, constant after open.
    fn size(&self) -> u64;

    /// What is known of `range`: a list that covers it (see [`crate::extent`]), without
    /// [`Clean`](crate::extent::Kind::Clean) extents.
    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>>;

    /// Fills `buffer` from `offset`, all of it or an error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
}

/// Something that is written as a disk, in any order, each range at most once.
pub trait BlockSink: Send + Sync {
    /// Virtual size in bytes, constant after open.
    fn size(&self) -> u64;

    /// Writes all of `data` at `offset`.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes `range` read as zeroes, without allocating where the sink can.
    fn write_zeroes(&self, range: Range<u64>) -> Result<()>;

    /// Whether the sink reads as zeroes where nothing was written: a fresh image, not an old device.
    fn is_zeroed(&self) -> bool;

    /// Bytes, a power of two: writes at multiples of it, and as long, are the quick ones. Parts of it may be read, changed
    /// and written again.
    fn block(&self) -> u64 {
        1
    }

    /// Makes everything written durable. An error here means that the content is not safe.
    fn flush(&self) -> Result<()>;
}
