//! What is served.

use std::ops::Range;
use std::sync::Arc;

use super::gate::Turn;
use super::wire::flag;
use crate::error::Result;
use crate::extent::Extent;

/// The largest payload of a request: what clients may assume where a server names none.
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// A disk that clients read, and perhaps write. Calls come from many threads.
pub trait Export: Send + Sync {
    /// Bytes of the disk, constant.
    fn size(&self) -> u64;

    /// Whether it may be written; the calls that write are made only then.
    fn is_writable(&self) -> bool;

    /// Unit that suits it best, a power of two.
    fn preferred_block(&self) -> u32;

    /// Fills `buffer` from `offset`, within the disk. Without a `turn` only if that takes no more than
    /// copying; false: it would, and `buffer` is undefined.
    ///
    /// # Errors
    /// Where the content can't be had, or not be proven.
    fn read(&self, buffer: &mut [u8], offset: u64, turn: Option<&Turn<'_>>) -> Result<bool>;

    /// What `range` holds, from its start: data and zero extents without a gap, at most `limit` of them.
    fn extents(&self, range: Range<u64>, limit: usize) -> Vec<Extent>;

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// Where it can't be kept.
    fn write(&self, data: &[u8], offset: u64, turn: &Turn<'_>) -> Result<()>;

    /// Makes `range` read as zeroes, giving space back.
    ///
    /// # Errors
    /// As for [`Export::write`].
    fn write_zeroes(&self, range: Range<u64>, turn: &Turn<'_>) -> Result<()>;

    /// Makes everything written durable.
    ///
    /// # Errors
    /// Where it is not safe.
    fn flush(&self) -> Result<()>;
}

/// An export and its name.
#[derive(Clone)]
pub struct Named {
    /// The name that clients ask for.
    pub name: String,
    /// A line for people.
    pub description: String,
    /// The disk.
    pub export: Arc<dyn Export>,
}

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Named").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Named {
    /// The transmission flags; `structured`: whether chunks can be sent.
    pub fn flags(&self, structured: bool) -> u16 {
        // Readers and writers share everything: several connections see the same.
        let mut flags = flag::HAS_FLAGS | flag::CAN_MULTI_CONN | flag::SEND_CACHE | flag::SEND_FLUSH;
        if structured {
            flags |= flag::SEND_DF;
        }
        if self.export.is_writable() {
            flags | flag::SEND_FUA | flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO
        } else {
            flags | flag::READ_ONLY
        }
    }
}

/// All that a server serves.
#[derive(Debug, Clone, Default)]
pub struct Exports(Vec<Named>);

impl Exports {
    /// These.
    pub fn new(exports: Vec<Named>) -> Self {
        Self(exports)
    }

    /// The export called `name`; the only one has the empty name, too.
    pub fn find(&self, name: &[u8]) -> Option<&Named> {
        match self.0.as_slice() {
            [only] if name.is_empty() => Some(only),
            all => all.iter().find(|export| export.name.as_bytes() == name),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Named> {
        self.0.iter()
    }
}
