//! The file of an overlay.
//!
//! | position | what |
//! |---|---|
//! | 0 | header, one page: magic, version, cluster size, disk size, identity of the backup, whether it is open; the last 32 bytes are the BLAKE3 over the others |
//! | 4096 | the states of the clusters, in pages of 4080 states and a digest of 16 bytes over the page's number and them; a page that was never written is zero |
//! | the next multiple of 64 KiB | the clusters, at their places in the disk: sparse |
//!
//! A flush makes the data durable before the states that say that it is there. So after a crash the file
//! holds what was flushed; a page that was torn does not match its digest, and the file is refused.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use super::{BACKUP, CLUSTER, ZERO};
use crate::error::{Error, Kind, Result};
use crate::units::align_up;

const MAGIC: [u8; 8] = *b"VKOVERLY";
const VERSION: u32 = 1;
const PAGE: usize = 4096;
const HASH: usize = 32;
/// Bytes of a page's digest.
const DIGEST: usize = 16;
/// States in a page.
const STATES: u64 = (PAGE - DIGEST) as u64;

pub(super) struct OverlayFile {
    file: File,
    path: PathBuf,
    /// Position of the first cluster.
    data: u64,
    header: Header,
    /// Nobody looks at it again: nothing but the data need be written.
    temporary: bool,
    /// Pages of states that are to be written; locked during a flush.
    changed: Mutex<BTreeSet<u64>>,
    flushing: Mutex<Flushed>,
}

/// What earlier flushes met.
#[derive(Default)]
struct Flushed {
    /// The system said that data was lost: it says so once.
    failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    size: u64,
    identity: [u8; HASH],
    open: bool,
}

impl Header {
    fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&VERSION.to_le_bytes());
        page[12..16].copy_from_slice(&(CLUSTER as u32).to_le_bytes());
        page[16..24].copy_from_slice(&self.size.to_le_bytes());
        page[24..24 + HASH].copy_from_slice(&self.identity);
        page[24 + HASH] = u8::from(self.open);
        let hash = blake3::hash(&page[..PAGE - HASH]);
        page[PAGE - HASH..].copy_from_slice(hash.as_bytes());
        page
    }

    fn decode(page: &[u8; PAGE]) -> Result<Self> {
        if page[..8] != MAGIC {
            return Err(
                Error::usage("is no overlay of virtkeep").hint("--overlay takes a file that it made, or a new name")
            );
        }
        if page[PAGE - HASH..] != *blake3::hash(&page[..PAGE - HASH]).as_bytes() {
            return Err(Error::corrupt("the header of the overlay does not match its digest"));
        }
        let mut identity = [0; HASH];
        identity.copy_from_slice(&page[24..24 + HASH]);
        let size = page[16..24].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let header = Self { size, identity, open: page[24 + HASH] == 1 };
        // Everything else in the page has one value.
        if header.encode() != *page {
            return Err(Error::unsupported("an overlay of another version")
                .hint("use the virtkeep release that wrote it, or a newer one"));
        }
        Ok(header)
    }
}

/// Pages of states for a disk of `size`.
fn pages(size: u64) -> u64 {
    size.div_ceil(CLUSTER).div_ceil(STATES)
}

/// Where the clusters begin.
fn data_start(size: u64) -> u64 {
    align_up((1 + pages(size)) * PAGE as u64, CLUSTER)
}

fn digest(number: u64, states: &[u8]) -> [u8; DIGEST] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(states);
    let mut digest = [0; DIGEST];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..DIGEST]);
    digest
}

impl OverlayFile {
    /// A file without a name.
    pub(super) fn temporary(directory: &Path, size: u64) -> Result<Self> {
        let failed = |error| Error::io("create a temporary overlay", error).path(directory);
        let file = tempfile::tempfile_in(directory).map_err(failed)?;
        file.set_len(data_start(size) + size).map_err(failed)?;
        let header = Header { size, identity: [0; HASH], open: true };
        Ok(Self::new(file, directory, header, true))
    }

    fn new(file: File, path: &Path, header: Header, temporary: bool) -> Self {
        Self {
            file,
            path: path.to_owned(),
            data: data_start(header.size),
            header,
            temporary,
            changed: Mutex::default(),
            flushing: Mutex::default(),
        }
    }

    /// Opens or makes the file at `path`; with the states of the clusters.
    pub(super) fn open(path: &Path, size: u64, identity: [u8; HASH]) -> Result<(Self, Vec<u8>)> {
        let io = |operation: &'static str| move |error: std::io::Error| Error::io(operation, error).path(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io("open the overlay"))?;
        let metadata = file.metadata().map_err(io("open the overlay"))?;
        if !metadata.is_file() {
            return Err(Error::usage("is not a regular file").path(path));
        }
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => Error::new(Kind::Busy, "another map uses this overlay").path(path),
            error => Error::io("lock the overlay", error).path(path),
        })?;
        let wanted = Header { size, identity, open: true };
        let mut states = Vec::new();
        let mut first = [0; PAGE];
        let is_new = metadata.len() == 0 || {
            file.read_exact_at(&mut first, 0).map_err(|_| Error::usage("is no overlay of virtkeep").path(path))?;
            // Its size was set, and then the machine stopped.
            first == [0; PAGE] && metadata.len() == data_start(size) + size
        };
        if !is_new {
            let header = Header::decode(&first).map_err(|error| error.path(path))?;
            if header.size != size || header.identity != identity {
                return Err(Error::usage("the overlay was made on another disk or restore point")
                    .path(path)
                    .hint("its restore point is needed (--until), or another name for --overlay"));
            }
            if metadata.len() != data_start(size) + size {
                return Err(Error::corrupt(format!(
                    "the overlay has {} bytes instead of {}",
                    metadata.len(),
                    data_start(size) + size
                ))
                .path(path));
            }
            states = read_states(&file, size).map_err(|error| error.path(path))?;
            if header.open {
                tracing::warn!(
                    "{}: the overlay was not closed: writes that were not flushed may be missing",
                    path.display()
                );
            }
        }
        file.set_len(data_start(size) + size).map_err(io("set the size"))?;
        file.write_all_at(&wanted.encode(), 0).map_err(io("write"))?;
        file.sync_all().map_err(io("sync"))?;
        Ok((Self::new(file, path, wanted, false), states))
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let read = self.file.read_exact_at(buffer, self.data + offset);
        read.map_err(|error| self.failed("read the overlay", error, offset))
    }

    pub(super) fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let written = self.file.write_all_at(data, self.data + offset);
        written.map_err(|error| self.failed("write the overlay", error, offset))
    }

    fn failed(&self, operation: &str, error: std::io::Error, offset: u64) -> Error {
        Error::io(operation, error).path(&self.path).at(self.data + offset)
    }

    /// Gives the space of `range` back, where the file system can.
    pub(super) fn punch(&self, range: Range<u64>) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = fallocate(&self.file, flags, self.data + range.start, range.end - range.start) {
            tracing::trace!("space stays taken: {error}");
        }
    }

    /// Remembers that the state of `cluster` is to be written.
    pub(super) fn changed(&self, cluster: u64) {
        if !self.temporary {
            self.pages().insert(cluster / STATES);
        }
    }

    fn pages(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what was written before the call durable.
    pub(super) fn flush(&self, state: &dyn Fn(u64) -> u8) -> Result<()> {
        if self.temporary {
            return Ok(());
        }
        let mut flushed = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        if flushed.failed {
            return Err(
                Error::new(Kind::Io, "an earlier flush of the overlay failed: data may be lost").path(&self.path)
            );
        }
        // States first: whatever they say is here was written before, so it is synced below.
        let numbers = std::mem::take(&mut *self.pages());
        let pages: Vec<(u64, [u8; PAGE])> = numbers.iter().map(|&number| (number, self.page(number, state))).collect();
        let result = self.store(&pages);
        if let Err(error) = &result {
            flushed.failed = true;
            tracing::error!("{}", crate::error::report(error));
        }
        result
    }

    fn store(&self, pages: &[(u64, [u8; PAGE])]) -> Result<()> {
        let io = |error: std::io::Error| Error::io("sync the overlay", error).path(&self.path);
        self.file.sync_data().map_err(io)?;
        for (number, page) in pages {
            self.file.write_all_at(page, (1 + number) * PAGE as u64).map_err(io)?;
        }
        if pages.is_empty() { Ok(()) } else { self.file.sync_data().map_err(io) }
    }

    fn page(&self, number: u64, state: &dyn Fn(u64) -> u8) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        let first = number * STATES;
        let count = STATES.min(self.header.size.div_ceil(CLUSTER) - first);
        for index in 0..count {
            page[index as usize] = state(first + index);
        }
        let digest = digest(number, &page[..PAGE - DIGEST]);
        page[PAGE - DIGEST..].copy_from_slice(&digest);
        page
    }

    /// Marks the file as closed; everything was flushed.
    pub(super) fn close(&self) -> Result<()> {
        if self.temporary {
            return Ok(());
        }
        let io = |error: std::io::Error| Error::io("close the overlay", error).path(&self.path);
        let header = Header { open: false, ..self.header };
        self.file.write_all_at(&header.encode(), 0).map_err(io)?;
        self.file.sync_all().map_err(io)
    }
}

/// The states of all clusters, page by page proven.
fn read_states(file: &File, size: u64) -> Result<Vec<u8>> {
    let clusters = size.div_ceil(CLUSTER);
    let mut states = Vec::new();
    for number in 0..pages(size) {
        let position = (1 + number) * PAGE as u64;
        let mut page = [0; PAGE];
        file.read_exact_at(&mut page, position).map_err(|error| Error::io("read", error).at(position))?;
        let damaged = || Error::corrupt("a table of the overlay does not match its digest").at(position);
        let count = STATES.min(clusters - number * STATES) as usize;
        let (found, rest) = page.split_at(PAGE - DIGEST);
        if page != [0; PAGE] && rest != digest(number, found) {
            return Err(damaged());
        }
        if found[..count].iter().any(|&state| state > ZERO) || found[count..].iter().any(|&state| state != BACKUP) {
            return Err(damaged());
        }
        states.extend_from_slice(&found[..count]);
    }
    Ok(states)
}
