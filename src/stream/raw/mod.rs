//! A raw image of a disk, byte for byte as the guest sees it, and its index in a file of its own.
//!
//! ```text
//! vdb.copy.data         | data |  zeroes  | data | zeroes |    holes where the file system can
//! vdb.copy.data.index   header │ table of the data ranges │ digest table │ digest of all before
//! ```
//!
//! The image is what virtnbdbackup writes of a raw disk: nothing can be added to it. What the index does not
//! name reads as zeroes. An image of virtnbdbackup has no index, and nothing proves it.

mod load;
mod verify;
mod writer;

use crate::stored::StoredFile;

pub use self::verify::verify;
pub use self::writer::RawWriter;

pub(super) use self::load::{open, pieces_of_holes};

/// A raw image in a set.
#[derive(Debug, Clone, Copy)]
pub struct RawImage<'p> {
    /// Target name of the disk.
    pub target: &'p str,
    /// The image.
    pub file: &'p StoredFile,
    /// Its index; none where virtnbdbackup wrote it.
    pub index: Option<&'p StoredFile>,
}

#[cfg(test)]
mod tests;
