//! Which ranges of a disk a run copies.

use std::time::{Duration, Instant};

use super::plan::PlannedDisk;
use super::{Context, nbdinfo, zeroes};
use crate::error::Result;
use crate::extent::{Extent, Kind, align_data};
use crate::nbd::block_status;
use crate::nbd::client::Client;
use crate::phrases::OWN;
use crate::stream::FRAME_ALIGNMENT;
use crate::units::{GIB, format_bytes};

/// A disk whose tables QEMU keeps in memory, as it does by default: 32 MiB of them, with clusters of 64 KiB.
const COVERED: u64 = 256 * GIB;

/// A listing that takes longer is worth a word.
const SLOW: Duration = Duration::from_secs(5);

/// What of the disk goes into the stream: its data and, where that is known, what reads as zeroes.
///
/// # Errors
/// Of the connection; of the comparison with `nbdinfo`, where that is asked for.
pub fn extents(
    run: &Context<'_>,
    disk: &PlannedDisk,
    client: &mut Client,
    uri: &str,
    bitmap: Option<&str>,
) -> Result<Vec<Extent>> {
    let mut extents = match (&disk.base, bitmap) {
        (Some(base), Some(bitmap)) => {
            if run.args.classic.compare_extents {
                nbdinfo::compare(&disk.target, uri, Some(bitmap), &block_status::changed(client, bitmap)?)?;
            }
            zeroes::changed(run.catalogue, base, &disk.target, client, bitmap)?
        }
        _ => {
            let begin = Instant::now();
            let all = block_status::allocation(client)?;
            tell_slow(&disk.target, client.size(), all.len(), begin.elapsed());
            if run.args.classic.compare_extents {
                nbdinfo::compare(&disk.target, uri, None, &all)?;
            }
            all
        }
    };
    if run.args.no_sparse_detection {
        tracing::debug!(target: OWN, "Skipping detection of sparse ranges");
        for extent in extents.iter_mut().filter(|extent| extent.kind() == Kind::Zero) {
            *extent = extent.with_kind(Kind::Data);
        }
    }
    // Neighbours that became alike are joined on the way.
    align_data(&mut extents, FRAME_ALIGNMENT);
    Ok(extents)
}

/// Says why the list took long, where QEMU's memory is likely to be the reason.
fn tell_slow(target: &str, size: u64, count: usize, took: Duration) {
    if is_beyond_tables(size, took) {
        tracing::info!(
            target: OWN,
            "{target}: QEMU took {} s to list {count} extents: by default it keeps the tables of {} in memory, and this \
             disk has {}. A <metadata_cache> in the domain's XML makes that quick, for the guest too (storage.md)",
            took.as_secs(),
            format_bytes(COVERED),
            format_bytes(size)
        );
    }
}

/// Whether a list that took so long is of a disk beyond what QEMU keeps tables of.
fn is_beyond_tables(size: u64, took: Duration) -> bool {
    took >= SLOW && size > COVERED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slow_list_of_a_large_disk_is_spoken_of() {
        let (large, small) = (COVERED + 1, COVERED);
        assert!(is_beyond_tables(large, SLOW));
        assert!(!is_beyond_tables(small, 2 * SLOW));
        assert!(!is_beyond_tables(large, SLOW / 2));
    }
}
