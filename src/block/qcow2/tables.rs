//! The header and the tables of a new qcow2 image, as bytes. All numbers are big-endian; "QCOW2 image format" in QEMU's
//! documentation (`docs/interop/qcow2.rst`) names every field.

use std::io::{self, Write};

use super::geometry::{Geometry, SUBCLUSTERS};
use super::layout::Layout;
use crate::extent::{self, Extent, Kind};

const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");

/// Bytes of the header of version 3, with the compression type.
const HEADER: u32 = 112;

/// Incompatible feature: the compression type is not zlib.
const COMPRESSION_TYPE: u64 = 1 << 3;

/// Incompatible feature: subclusters.
const EXTENDED_L2: u64 = 1 << 4;

/// Compatible feature: lazy reference counts.
const LAZY_REFCOUNTS: u64 = 1;

/// Compression type zstd.
const ZSTD: u8 = 1;

/// Of an entry of L1 and L2: what it points to is used this once.
const COPIED: u64 = 1 << 63;

/// Writes all that comes before the data, in order.
pub fn write(layout: &Layout, extents: &[Extent], out: &mut dyn Write) -> io::Result<()> {
    padded(out, &header(layout), layout.geometry.cluster)?;
    refcount_table(layout, out)?;
    refcount_blocks(layout, out)?;
    l1(layout, out)?;
    l2(layout, extents, out)
}

fn header(layout: &Layout) -> Vec<u8> {
    let Geometry { size, cluster, refcount_bits, is_old, lazy_refcounts, extended_l2, zstd } = layout.geometry;
    let common = [
        &MAGIC.to_be_bytes()[..],
        &(if is_old { 2u32 } else { 3 }).to_be_bytes(),
        // No backing file: offset and length of its name.
        &0u64.to_be_bytes(),
        &0u32.to_be_bytes(),
        &cluster.trailing_zeros().to_be_bytes(),
        &size.to_be_bytes(),
        // Not encrypted.
        &0u32.to_be_bytes(),
        // These two were held against QEMU's limits, which are far below 2^32.
        &(layout.l1_entries() as u32).to_be_bytes(),
        &(layout.l1.start * cluster).to_be_bytes(),
        &(layout.refcount_table.start * cluster).to_be_bytes(),
        &(layout.refcount_table.clusters as u32).to_be_bytes(),
        // No snapshots: number and place.
        &0u32.to_be_bytes(),
        &0u64.to_be_bytes(),
    ]
    .concat();
    if is_old {
        return common;
    }
    let flag = |on: bool, flag: u64| if on { flag } else { 0 };
    let newer = [
        &(flag(zstd, COMPRESSION_TYPE) | flag(extended_l2, EXTENDED_L2)).to_be_bytes()[..],
        &flag(lazy_refcounts, LAZY_REFCOUNTS).to_be_bytes(),
        // What a program that does not know it would have to clear.
        &0u64.to_be_bytes(),
        &refcount_bits.trailing_zeros().to_be_bytes(),
        &HEADER.to_be_bytes(),
        &[if zstd { ZSTD } else { 0 }, 0, 0, 0, 0, 0, 0, 0],
    ];
    [common, newer.concat()].concat()
}

fn refcount_table(layout: &Layout, out: &mut dyn Write) -> io::Result<()> {
    let cluster = layout.geometry.cluster;
    let blocks = layout.refcount_blocks;
    for block in blocks.start..blocks.end() {
        out.write_all(&(block * cluster).to_be_bytes())?;
    }
    zeroes(out, layout.refcount_table.clusters * cluster - blocks.clusters * 8)
}

/// Every cluster of the file counts one.
fn refcount_blocks(layout: &Layout, out: &mut dyn Write) -> io::Result<()> {
    let Geometry { cluster, refcount_bits: bits, .. } = layout.geometry;
    let mut left = layout.data.end();
    for _ in 0..layout.refcount_blocks.clusters {
        let used = left.min(layout.geometry.refcounts());
        left -= used;
        let mut block = Vec::with_capacity(cluster as usize);
        for position in 0..used {
            match bits {
                1..=4 => {
                    // Several in a byte, the first one in its lowest bits.
                    let shift = position * bits % 8;
                    match block.last_mut() {
                        Some(last) if shift > 0 => *last |= 1u8 << shift,
                        _ => block.push(1),
                    }
                }
                _ => block.extend_from_slice(&1u64.to_be_bytes()[8 - bits as usize / 8..]),
            }
        }
        padded(out, &block, cluster)?;
    }
    Ok(())
}

fn l1(layout: &Layout, out: &mut dyn Write) -> io::Result<()> {
    let cluster = layout.geometry.cluster;
    let mut written = 0;
    for (index, table) in layout.l2_tables().zip(layout.l2.start..) {
        zeroes(out, (index - written) * 8)?;
        out.write_all(&((table * cluster) | COPIED).to_be_bytes())?;
        written = index + 1;
    }
    zeroes(out, layout.l1.clusters * cluster - written * 8)
}

fn l2(layout: &Layout, extents: &[Extent], out: &mut dyn Write) -> io::Result<()> {
    let Geometry { cluster, extended_l2, .. } = layout.geometry;
    let entries = layout.geometry.l2_entries();
    let entry_bytes = layout.geometry.l2_entry();
    // The guest's cluster whose entry comes next in the table that is being written.
    let mut next = 0;
    for (first, count, host) in layout.runs() {
        for (guest, host) in (first..first + count).zip(host..) {
            if guest / entries != next / entries {
                zeroes(out, (next.next_multiple_of(entries) - next) * entry_bytes)?;
                next = guest / entries * entries;
            }
            zeroes(out, (guest - next) * entry_bytes)?;
            out.write_all(&((host * cluster) | COPIED).to_be_bytes())?;
            if extended_l2 {
                out.write_all(&allocated(extents, guest * cluster, cluster).to_be_bytes())?;
            }
            next = guest + 1;
        }
    }
    zeroes(out, (next.next_multiple_of(entries) - next) * entry_bytes)
}

/// The subclusters of the cluster at `offset` that hold data, a bit each; what holds none is unallocated, and reads as
/// zeroes.
fn allocated(extents: &[Extent], offset: u64, cluster: u64) -> u64 {
    let size = cluster / SUBCLUSTERS;
    let data = extent::clip(extents, offset..offset + cluster).filter(|extent| extent.kind() == Kind::Data);
    data.fold(0, |bits, extent| {
        let subclusters = (extent.offset - offset) / size..(extent.end() - offset).div_ceil(size);
        subclusters.fold(bits, |bits, index| bits | 1 << index)
    })
}

/// Writes `bytes` and zeroes up to a length of `length`.
fn padded(out: &mut dyn Write, bytes: &[u8], length: u64) -> io::Result<()> {
    out.write_all(bytes)?;
    zeroes(out, length - bytes.len() as u64)
}

fn zeroes(out: &mut dyn Write, count: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), count), out).map(drop)
}
