//! By how many connections a disk is read where no number is asked for.
//!
//! Each has a thread that reads, digests and compresses a window at a time, so some read while others compute. On one
//! machine QEMU and they share its processors and their caches: more of them than processors only take each other's
//! time, unless requests are small and what they wait for is one answer after the other (`docs/performance.md` has the
//! figures). Over a network what is on its way counts.

use super::Context;
use super::channel::Channel;
use super::plan::Plan;
use crate::cancel::Cancel;
use crate::error::Result;
use crate::extent::{self, Extent, Kind};
use crate::nbd::client::{Client, REQUEST_SIZE};
use crate::side_by_side::processors;
use crate::stream::codec::Compression;

/// For one disk of this machine, at least: while one computes the other keeps the disk busy.
const LEAST_OF_ONE: usize = 2;

/// So many times as many where what is read lies in small pieces.
const SCATTERED: usize = 2;

/// For one disk, at most: QEMU serves no more than these take, unless compressing is most of the work.
const MOST: usize = 6;

/// For one disk that is compressed highly, at most: what `--connections` takes.
const MOST_HIGH: usize = 16;

/// For all disks of another machine together, at least.
const REMOTE: usize = 12;

/// For each disk of another machine, at least.
const LEAST_REMOTE: usize = 2;

/// For all disks of a run: QEMU lets no more than 100 clients in at once (`nbd-server-start`, since 9.1), and who comes
/// later waits for one of them to leave. Some for others who look, and for those that are on their way out.
const MOST_OF_ALL: usize = 90;

/// Connections for each disk of a run, at most.
pub fn most_of_a_disk(run: &Context<'_>, plan: &Plan) -> usize {
    of_a_disk(run, plan, true)
}

fn of_a_disk(run: &Context<'_>, plan: &Plan, is_scattered: bool) -> usize {
    let reading = Reading {
        disks: at_once(run, plan),
        is_remote: !matches!(plan.channel, Channel::Socket(_)),
        is_high: run.args.compress.is_some_and(|level| Compression::Lz4 { level }.is_high()),
        is_scattered,
    };
    let wanted = run.args.speed.connections.map_or(reading.share(processors()), usize::from);
    wanted.min(most_at(reading.disks))
}

/// The connections that the data of a disk, in `extents`, comes by. `first`, which has the contexts, is one of them
/// only where the server takes no others: those without contexts are quicker.
///
/// # Errors
/// Of connecting.
pub fn open(
    run: &Context<'_>,
    plan: &Plan,
    first: Client,
    uri: &str,
    extents: &[Extent],
    cancel: &Cancel,
) -> Result<Vec<Client>> {
    let pieces = extents.iter().filter(|extent| extent.kind() == Kind::Data).count() as u64;
    let Some(length) = extent::total(extents, Kind::Data).checked_div(pieces) else { return Ok(vec![first]) };
    if !first.capabilities().multi_conn {
        return Ok(vec![first]);
    }
    // A server counts its clients. That the goodbye failed says nothing: the next connection shows whether it is there.
    let _ = first.disconnect();
    (0..of_a_disk(run, plan, length < REQUEST_SIZE)).map(|_| Client::connect(uri, &[], cancel)).collect()
}

/// Disks that are copied at a time.
pub fn at_once(run: &Context<'_>, plan: &Plan) -> usize {
    let all = plan.disks.len().max(1);
    if run.zip.is_some() { 1 } else { run.args.worker.map_or(all, usize::from).clamp(1, all.min(MOST_OF_ALL)) }
}

/// Connections that each of `disks` at once can have.
fn most_at(disks: usize) -> usize {
    (MOST_OF_ALL / disks.max(1)).max(1)
}

/// How disks are read.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    /// So many at once.
    disks: usize,
    is_remote: bool,
    /// Compressed highly.
    is_high: bool,
    /// In pieces shorter than a request.
    is_scattered: bool,
}

impl Reading {
    /// Each disk's part of what all have.
    fn share(self, processors: usize) -> usize {
        let most = if self.is_high { MOST_HIGH } else { MOST };
        let times = if self.is_scattered { SCATTERED } else { 1 };
        let (all, least) = match (self.is_remote, self.disks) {
            (true, _) => (processors.max(REMOTE), LEAST_REMOTE),
            (false, 1) => (processors * times, LEAST_OF_ONE * times),
            (false, _) => (processors * times, 1),
        };
        (all / self.disks.max(1)).clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_share_the_processors() {
        for (disks, processors, expected, scattered) in
            [(1, 1, 2, 4), (1, 2, 2, 4), (2, 2, 1, 2), (4, 2, 1, 1), (4, 8, 2, 4), (1, 4, 4, 6), (1, 64, 6, 6)]
        {
            let reading = Reading { disks, ..Reading::default() };
            assert_eq!(reading.share(processors), expected, "{disks} disks, {processors} processors");
            let reading = Reading { is_scattered: true, ..reading };
            assert_eq!(reading.share(processors), scattered, "{disks} disks in pieces, {processors} processors");
        }
        for (disks, expected) in [(1, 16), (8, 8)] {
            assert_eq!(Reading { disks, is_high: true, ..Reading::default() }.share(64), expected);
        }
    }

    #[test]
    fn all_find_a_place() {
        for (disks, expected) in [(0, 90), (1, 90), (7, 12), (60, 1), (90, 1)] {
            assert_eq!(most_at(disks), expected, "{disks} disks");
        }
    }

    #[test]
    fn a_network_is_kept_busy() {
        let remote = Reading { is_remote: true, ..Reading::default() };
        for (disks, expected) in [(1, 6), (2, 6), (4, 3), (10, 2)] {
            for is_scattered in [false, true] {
                assert_eq!(Reading { disks, is_scattered, ..remote }.share(2), expected, "{disks} disks");
            }
        }
        for (processors, expected) in [(2, 12), (64, 16)] {
            assert_eq!(Reading { disks: 1, is_high: true, ..remote }.share(processors), expected);
        }
    }
}
