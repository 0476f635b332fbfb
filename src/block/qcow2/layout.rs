//! Where everything in a new qcow2 image lies, known before the first byte is written.
//!
//! All that is known of the guest's disk is known by then, too: each cluster with data gets its place, in the order of
//! the disk, and nothing ever has to move or grow.
//!
//! ```text
//! | header | refcount table | refcount blocks | L1 table | L2 tables | clusters with data |
//! ```
//!
//! Every cluster of the file is used once.

use super::geometry::Geometry;
use crate::error::{Error, Result};
use crate::extent::{Extent, Kind};

/// QEMU opens no image whose L1 table is larger (`QCOW_MAX_L1_SIZE`).
const MAX_L1: u64 = 32 << 20;

/// QEMU opens no image whose refcount table is larger (`QCOW_MAX_REFTABLE_SIZE`).
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;

/// Clusters of the guest, one behind the other, that lie one behind the other in the file, too.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Its first cluster of the guest.
    first: u64,
    /// Clusters of all runs before it.
    before: u64,
}

/// The clusters with data.
#[derive(Debug, Default)]
struct Runs {
    list: Vec<Run>,
    /// Clusters of all of them.
    count: u64,
}

impl Runs {
    /// The clusters that hold data of `extents`.
    fn of(cluster: u64, extents: &[Extent]) -> Self {
        let mut runs = Self::default();
        let mut end = 0;
        for extent in extents.iter().filter(|extent| extent.kind() == Kind::Data) {
            // A cluster that two extents share is there once.
            let first = (extent.offset / cluster).max(end);
            let behind = extent.end().div_ceil(cluster);
            if behind <= first {
                continue;
            }
            if runs.list.is_empty() || first > end {
                runs.list.push(Run { first, before: runs.count });
            }
            runs.count += behind - first;
            end = behind;
        }
        runs
    }

    /// A run and how many clusters it has.
    fn get(&self, index: usize) -> Option<(Run, u64)> {
        let run = *self.list.get(index)?;
        Some((run, self.list.get(index + 1).map_or(self.count, |next| next.before) - run.before))
    }

    fn iter(&self) -> impl Iterator<Item = (Run, u64)> + '_ {
        (0..self.list.len()).filter_map(|index| self.get(index))
    }

    /// The L2 tables, of `entries` clusters each, that they need.
    fn tables(&self, entries: u64) -> impl Iterator<Item = u64> + '_ {
        let mut end = 0;
        self.iter().flat_map(move |(run, count)| {
            let behind = (run.first + count).div_ceil(entries);
            (run.first / entries).max(std::mem::replace(&mut end, behind))..behind
        })
    }
}

/// A part of the file, in clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its first cluster.
    pub start: u64,
    /// How many there are.
    pub clusters: u64,
}

impl Part {
    /// The cluster behind it.
    pub fn end(&self) -> u64 {
        self.start + self.clusters
    }
}

/// The places of an image. Takes 16 bytes for each run of clusters.
#[derive(Debug)]
pub struct Layout {
    /// What is laid out.
    pub geometry: Geometry,
    runs: Runs,
    /// The refcount table.
    pub refcount_table: Part,
    /// The refcount blocks.
    pub refcount_blocks: Part,
    /// The L1 table.
    pub l1: Part,
    /// The L2 tables, of one cluster each.
    pub l2: Part,
    /// The first cluster of data, and how many there are.
    pub data: Part,
}

impl Layout {
    /// Lays out an image whose data is that of `extents`.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) if the disk is too large for clusters of that size.
    pub fn new(geometry: Geometry, extents: &[Extent]) -> Result<Self> {
        let runs = Runs::of(geometry.cluster, extents);
        let l1_bytes = entries(&geometry) * 8;
        let l2 = runs.tables(geometry.l2_entries()).count() as u64;
        let l1 = l1_bytes.div_ceil(geometry.cluster);
        let (table, blocks) = refcounts(&geometry, 1 + l1 + l2 + runs.count);
        if l1_bytes > MAX_L1 || table * geometry.cluster > MAX_REFCOUNT_TABLE.max(geometry.cluster) {
            let message = format!(
                "a disk of {} bytes is too large for qcow2 with clusters of {}",
                geometry.size, geometry.cluster
            );
            return Err(Error::unsupported(message));
        }
        let refcount_table = Part { start: 1, clusters: table };
        let refcount_blocks = Part { start: refcount_table.end(), clusters: blocks };
        let l1 = Part { start: refcount_blocks.end(), clusters: l1 };
        let l2 = Part { start: l1.end(), clusters: l2 };
        let data = Part { start: l2.end(), clusters: runs.count };
        Ok(Self { geometry, runs, refcount_table, refcount_blocks, l1, l2, data })
    }

    /// Entries of the L1 table.
    pub fn l1_entries(&self) -> u64 {
        entries(&self.geometry)
    }

    /// Bytes of the whole file.
    pub fn file_size(&self) -> u64 {
        self.data.end() * self.geometry.cluster
    }

    /// The runs of clusters with data: the first of the guest, how many, and the first in the file.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.runs.iter().map(|(run, count)| (run.first, count, self.data.start + run.before))
    }

    /// The L2 tables that the image has, by their entries in the L1 table.
    pub fn l2_tables(&self) -> impl Iterator<Item = u64> + '_ {
        self.runs.tables(self.geometry.l2_entries())
    }

    /// Where in the file the guest's byte at `offset` lies, and how many from there on lie behind it. None where there
    /// is no data.
    pub fn place(&self, offset: u64) -> Option<(u64, u64)> {
        let cluster = self.geometry.cluster;
        let index = self.runs.list.partition_point(|run| run.first <= offset / cluster).checked_sub(1)?;
        let (run, count) = self.runs.get(index)?;
        let within = offset - run.first * cluster;
        let length = count * cluster;
        (within < length).then(|| ((self.data.start + run.before) * cluster + within, length - within))
    }
}

/// L2 tables that a disk of this size can have.
fn entries(geometry: &Geometry) -> u64 {
    geometry.size.div_ceil(geometry.cluster).div_ceil(geometry.l2_entries())
}

/// Clusters of the refcount table and of its blocks, for `others` clusters and themselves.
fn refcounts(geometry: &Geometry, others: u64) -> (u64, u64) {
    let (mut table, mut blocks) = (1, 1);
    loop {
        let needed = (others + table + blocks).div_ceil(geometry.refcounts());
        let room = (needed * 8).div_ceil(geometry.cluster);
        if (room, needed) == (table, blocks) {
            return (table, blocks);
        }
        (table, blocks) = (room, needed);
    }
}
