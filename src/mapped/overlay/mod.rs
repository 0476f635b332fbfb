//! Changes on top of a backup, kept beside it: the backup is never written to.
//!
//! A disk is cut into clusters of 64 KiB, each of which is the backup's, the overlay's, or zero. A write to
//! a part of a cluster takes the rest from the backup. Readers take no lock: a cluster's state is changed
//! when its content is there, and only writers to the same cluster wait for each other.

mod file;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::file::OverlayFile;
use super::MappedDisk;
use crate::error::{Error, Result};
use crate::extent::{self, Extent, Kind};
use crate::nbd::server::export::Export;
use crate::nbd::server::gate::Turn;

/// Bytes of a cluster.
pub const CLUSTER: u64 = 64 << 10;
/// Writers to clusters whose numbers are equal modulo this wait for each other.
const STRIPES: u64 = 64;

/// Where a cluster's content is.
const BACKUP: u8 = 0;
const HERE: u8 = 1;
const ZERO: u8 = 2;

/// A disk that can be written.
pub struct Overlay {
    base: Arc<MappedDisk>,
    file: OverlayFile,
    states: Vec<AtomicU8>,
    stripes: Vec<Mutex<()>>,
}

impl Overlay {
    /// An overlay that goes when this is dropped, in `directory`.
    ///
    /// # Errors
    /// [`Io`](crate::error::Kind::Io).
    pub fn temporary(base: Arc<MappedDisk>, directory: &Path) -> Result<Self> {
        let file = OverlayFile::temporary(directory, base.size())?;
        Self::new(base, file, Vec::new())
    }

    /// The overlay in the file at `path`, which is made if there is none.
    ///
    /// # Errors
    /// [`Usage`](crate::error::Kind::Usage) for a file that is none, or one of another disk or restore point;
    /// [`Corrupt`](crate::error::Kind::Corrupt) for a damaged one; [`Busy`](crate::error::Kind::Busy) while
    /// another map uses it.
    pub fn open(base: Arc<MappedDisk>, path: &Path) -> Result<Self> {
        let (file, states) = OverlayFile::open(path, base.size(), base.identity())?;
        Self::new(base, file, states)
    }

    fn new(base: Arc<MappedDisk>, file: OverlayFile, states: Vec<u8>) -> Result<Self> {
        let clusters = usize::try_from(base.size().div_ceil(CLUSTER))
            .map_err(|_| Error::unsupported("the disk is too large for this machine"))?;
        let mut states: Vec<AtomicU8> = states.into_iter().map(AtomicU8::new).collect();
        states.resize_with(clusters, || AtomicU8::new(BACKUP));
        Ok(Self { base, file, states, stripes: (0..STRIPES).map(|_| Mutex::new(())).collect() })
    }

    /// Writes down that the overlay is complete; the last call.
    ///
    /// # Errors
    /// Where it is not safe.
    pub fn close(&self) -> Result<()> {
        self.flush()?;
        self.file.close()
    }

    fn state(&self, cluster: u64) -> u8 {
        self.states.get(cluster as usize).map_or(BACKUP, |state| state.load(Ordering::Acquire))
    }

    fn set_state(&self, cluster: u64, state: u8) {
        if let Some(known) = self.states.get(cluster as usize) {
            known.store(state, Ordering::Release);
            self.file.changed(cluster);
        }
    }

    fn lock(&self, cluster: u64) -> MutexGuard<'_, ()> {
        self.stripes[(cluster % STRIPES) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of the disk that `cluster` is.
    fn range_of(&self, cluster: u64) -> Range<u64> {
        cluster * CLUSTER..((cluster + 1) * CLUSTER).min(self.size())
    }

    /// The longest stretch from `offset` on, up to `end`, whose clusters have one state.
    fn run(&self, offset: u64, end: u64) -> (u8, u64) {
        let mut cluster = offset / CLUSTER;
        let state = self.state(cluster);
        let mut stop = self.range_of(cluster).end;
        while stop < end && self.state(cluster + 1) == state {
            cluster += 1;
            stop = self.range_of(cluster).end;
        }
        (state, stop.min(end))
    }

    /// Writes `data`, or zeroes, to a part of one cluster that is not the overlay's yet.
    fn fill(&self, cluster: u64, part: Range<u64>, data: Option<&[u8]>, turn: &Turn<'_>) -> Result<()> {
        let whole = self.range_of(cluster);
        let mut content = vec![0; (whole.end - whole.start) as usize];
        let is_part = part != whole;
        if is_part && self.state(cluster) == BACKUP {
            self.base.read(&mut content, whole.start, Some(turn))?;
        }
        let place = &mut content[(part.start - whole.start) as usize..(part.end - whole.start) as usize];
        match data {
            Some(data) => place.copy_from_slice(data),
            None => place.fill(0),
        }
        self.file.write(&content, whole.start)?;
        self.set_state(cluster, HERE);
        Ok(())
    }

    fn zero_cluster(&self, cluster: u64, part: Range<u64>, turn: &Turn<'_>) -> Result<()> {
        let _alone = self.lock(cluster);
        let whole = self.range_of(cluster);
        match self.state(cluster) {
            ZERO => Ok(()),
            // Nothing is to be kept where the backup has zeroes, too.
            BACKUP if self.is_zero_in_backup(&part) => Ok(()),
            BACKUP | HERE if part == whole => {
                self.set_state(cluster, ZERO);
                self.file.punch(whole);
                Ok(())
            }
            HERE => self.file.write(&vec![0; (part.end - part.start) as usize], part.start),
            _ => self.fill(cluster, part, None, turn),
        }
    }

    fn is_zero_in_backup(&self, part: &Range<u64>) -> bool {
        let extents = self.base.extents(part.clone(), 1);
        extents.first().is_some_and(|first| first.kind() == Kind::Zero && first.end() == part.end)
    }
}

impl Export for Overlay {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn preferred_block(&self) -> u32 {
        CLUSTER as u32
    }

    fn read(&self, buffer: &mut [u8], offset: u64, turn: Option<&Turn<'_>>) -> Result<bool> {
        let end = offset + buffer.len() as u64;
        let mut position = offset;
        while position < end {
            let (state, stop) = self.run(position, end);
            let place = &mut buffer[(position - offset) as usize..(stop - offset) as usize];
            match state {
                HERE => self.file.read(place, position)?,
                ZERO => place.fill(0),
                _ => {
                    if !self.base.read(place, position, turn)? {
                        return Ok(false);
                    }
                }
            }
            position = stop;
        }
        Ok(true)
    }

    fn extents(&self, range: Range<u64>, limit: usize) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut position = range.start;
        while position < range.end {
            let (state, stop) = self.run(position, range.end);
            let found = match state {
                HERE => vec![Extent::data(position, stop - position)],
                ZERO => vec![Extent::zero(position, stop - position)],
                _ => self.base.extents(position..stop, limit),
            };
            for next in found {
                if extents.len() == limit && extents.last().is_some_and(|last| last.kind() != next.kind()) {
                    return extents;
                }
                position = next.end();
                extent::push(&mut extents, next);
            }
            // The list of the backup ended at its limit.
            if position < stop {
                return extents;
            }
        }
        extents
    }

    fn write(&self, data: &[u8], offset: u64, turn: &Turn<'_>) -> Result<()> {
        let end = offset + data.len() as u64;
        let mut position = offset;
        while position < end {
            let cluster = position / CLUSTER;
            let stop = self.range_of(cluster).end.min(end);
            let part = &data[(position - offset) as usize..(stop - offset) as usize];
            let _alone = self.lock(cluster);
            if self.state(cluster) == HERE {
                self.file.write(part, position)?;
            } else {
                self.fill(cluster, position..stop, Some(part), turn)?;
            }
            position = stop;
        }
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>, turn: &Turn<'_>) -> Result<()> {
        let mut position = range.start;
        while position < range.end {
            let cluster = position / CLUSTER;
            let stop = self.range_of(cluster).end.min(range.end);
            self.zero_cluster(cluster, position..stop, turn)?;
            position = stop;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.file.flush(&|cluster| self.state(cluster))
    }
}
