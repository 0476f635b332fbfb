//! The bytes of a stream: one disk in one backup.
//!
//! ```text
//! meta frame + JSON │ data / zero frames … │ stop │ index, indx │ sizes, comp (LZ4 only)
//! ```
//!
//! Everything up to `stop` and the compression trailer is what virtnbdbackup reads and writes; the
//! index between them is ours and invisible to it. `docs/stream-format.md` is the normative text.
//!
//! | module | owns |
//! |---|---|
//! | [`frame`] | the 40-byte frame header |
//! | [`meta`] | the JSON of the meta frame |
//! | [`head`] | the meta frame of a file, without the rest |
//! | [`codec`] | LZ4 frames as payloads |
//! | [`digest`] | digests of guest blocks |
//! | [`index`] | the index: table of frames, zero extents, digests |
//! | [`writer`] | writing a stream, front to back |
//! | [`out`] | where its bytes go: in order, or to their places in a file |
//! | [`sum`] | Adler-32 and CRC-32 of what was summed in pieces |
//! | [`reader`] | positioned, proven reading |
//! | [`cache`] | tables of virtnbdbackup's streams, kept for the next time |
//! | [`raw`] | raw images of disks, with an index in a file of its own |
//! | [`verify`] | every byte of a stream against everything known of it |
//! | `source` | the file: positioned reads, what is found from its ends |
//! | `sequential` | reading it, or a part of it, front to back |
//! | `page_cache` | what it is told of a file that several threads read |
//! | `load` | an index from the end of a file of ours |
//! | `walk` | the pass of `verify` over a stream of ours, by several threads |
//! | `scan` | the same table for virtnbdbackup's streams, in one pass |

pub mod cache;
pub mod codec;
pub mod digest;
pub mod frame;
pub mod head;
pub mod index;
mod load;
pub mod meta;
pub mod out;
mod page_cache;
pub mod raw;
pub mod reader;
mod scan;
mod sequential;
mod source;
pub mod sum;
#[cfg(test)]
mod tests;
mod varint;
pub mod verify;
mod walk;
pub mod writer;

/// Guest bytes per digest: a reader proves at least this much at a time.
pub const BLOCK: u64 = crate::units::MIB;

/// Guest bytes of a compressed stream that are decompressed each for themselves.
pub const SLICE: u64 = 64 * crate::units::KIB;

/// Frames start on multiples of this and end on one, or at the disk's end: virtnbdmap reads across
/// other boundaries wrongly.
pub const FRAME_ALIGNMENT: u64 = 4096;

/// Guest bytes in one LZ4 frame of virtnbdbackup, and the length from which a compressed data frame
/// is a list of them. We never write a compressed frame that long.
pub const COMPRESSED_LIMIT: u64 = 32 * crate::units::MIB;
