//! By how many connections a disk is read where no number is asked for.
//!
//! Each has a thread that reads, digests and compresses a window at a time, so some read while others compute. On one
//! machine QEMU and they share its processors and their caches: more of them than processors only take each other's
//! time (`docs/performance.md` has the figures). Over a network what is on its way counts.

use super::Context;
use super::channel::Channel;
use super::plan::Plan;
use crate::cancel::Cancel;
use crate::error::Result;
use crate::nbd::client::Client;
use crate::side_by_side::processors;
use crate::stream::codec::Compression;

/// For one disk of this machine, at least: while one computes the other keeps the disk busy.
const LEAST_OF_ONE: usize = 2;

/// For one disk, at most: QEMU serves no more than these take, unless compressing is most of the work.
const MOST: usize = 6;

/// For one disk that is compressed highly, at most: what `--connections` takes.
const MOST_HIGH: usize = 16;

/// For all disks of another machine together, at least.
const REMOTE: usize = 12;

/// For each disk of another machine, at least.
const LEAST_REMOTE: usize = 2;

/// Connections for each disk of a run.
pub fn of_a_disk(run: &Context<'_>, plan: &Plan) -> usize {
    let disks = at_once(run, plan);
    let is_remote = !matches!(plan.channel, Channel::Socket(_));
    let is_high = run.args.compress.is_some_and(|level| Compression::Lz4 { level }.is_high());
    let share = share(disks, processors(), is_remote, is_high);
    run.args.speed.connections.map_or(share, usize::from)
}

/// The connections that the data of a disk comes by, `data_size` bytes. `first`, which has the contexts, is one of them
/// only where the server takes no others: those without contexts are quicker.
///
/// # Errors
/// Of connecting.
pub fn open(
    run: &Context<'_>,
    plan: &Plan,
    first: Client,
    uri: &str,
    data_size: u64,
    cancel: &Cancel,
) -> Result<Vec<Client>> {
    if !first.capabilities().multi_conn || data_size == 0 {
        return Ok(vec![first]);
    }
    // A server counts its clients. That the goodbye failed says nothing: the next connection shows whether it is there.
    let _ = first.disconnect();
    (0..of_a_disk(run, plan)).map(|_| Client::connect(uri, &[], cancel)).collect()
}

/// Disks that are copied at a time.
pub fn at_once(run: &Context<'_>, plan: &Plan) -> usize {
    let all = plan.disks.len().max(1);
    if run.zip.is_some() { 1 } else { run.args.worker.map_or(all, usize::from).clamp(1, all) }
}

/// Each disk's part of what `disks` at once have.
fn share(disks: usize, processors: usize, is_remote: bool, is_high: bool) -> usize {
    let most = if is_high { MOST_HIGH } else { MOST };
    let (all, least) = match (is_remote, disks) {
        (true, _) => (processors.max(REMOTE), LEAST_REMOTE),
        (false, 1) => (processors, LEAST_OF_ONE),
        (false, _) => (processors, 1),
    };
    (all / disks.max(1)).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_share_the_processors() {
        for (disks, processors, expected) in
            [(1, 1, 2), (1, 2, 2), (2, 2, 1), (4, 2, 1), (4, 8, 2), (1, 4, 4), (1, 64, 6)]
        {
            assert_eq!(share(disks, processors, false, false), expected, "{disks} disks, {processors} processors");
        }
        assert_eq!((share(1, 64, false, true), share(8, 64, false, true)), (16, 8));
    }

    #[test]
    fn a_network_is_kept_busy() {
        for (disks, expected) in [(1, 6), (2, 6), (4, 3), (10, 2)] {
            assert_eq!(share(disks, 2, true, false), expected, "{disks} disks");
        }
        assert_eq!((share(1, 2, true, true), share(1, 64, true, true)), (12, 16));
    }
}
