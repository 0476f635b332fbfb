//! One disk against its restore point. Of the domain only what either side has data of is read.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::{Compared, Why};
use crate::cancel::Cancel;
use crate::chain_device::{Buffers, ChainDevice, Content};
use crate::commands::backup::Context;
use crate::commands::backup::connections;
use crate::commands::backup::plan::{Export, Plan};
use crate::error::{Error, Result};
use crate::extent::{self, Extent, Kind};
use crate::fault;
use crate::nbd::block_status::{self, ALLOCATION};
use crate::nbd::client::Client;
use crate::pipeline::Progress;
use crate::pipeline::work::{CHAIN_WINDOW, Item, Queue};
use crate::ui::log::on_disk;
use crate::units::{align_down, align_up};

/// Bytes that are equal or not: disks are written in pages.
const STEP: usize = 4096;
/// Ranges that are listed of a disk.
const MAX_RANGES: usize = 100_000;

/// The disk in the set.
#[derive(Debug)]
pub struct Held<'h> {
    /// Its content.
    pub chain: &'h ChainDevice,
    /// The checkpoint since which changes are known; or why they are not.
    pub since: std::result::Result<String, String>,
}

/// Compares the disk that `export` shows.
///
/// # Errors
/// Of the chain where it is damaged; of the connection.
pub fn compare(run: &Context<'_>, plan: &Plan, held: Held<'_>, export: &Export, cancel: &Cancel) -> Result<Compared> {
    let Held { chain, since } = held;
    let _messages = on_disk(chain.target());
    let contexts: Vec<&str> = [ALLOCATION].into_iter().chain(export.bitmap.as_deref()).collect();
    let first = Client::connect(&export.uri, &contexts, cancel);
    let mut first = first.map_err(|error| plan.channel.explain(error).of_export())?;
    let live = block_status::allocation(&mut first).map_err(Error::of_export)?;
    let changed = match (&export.bitmap, &since) {
        (Some(bitmap), Ok(_)) => Some(block_status::changed(&mut first, bitmap).map_err(Error::of_export)?),
        _ => None,
    };
    fault::point("extents-known")?;
    let sizes = (chain.size(), first.size());
    let common = 0..sizes.0.min(sizes.1);
    let live: Vec<Extent> = extent::clip(&live, common.clone()).collect();
    let work = extent::combine(&live, &chain.extents(common.clone()), |now, then| match (now, then) {
        (Kind::Zero, Kind::Zero) => Kind::Clean,
        _ => Kind::Data,
    });
    let data_size = extent::total(&work, Kind::Data);
    let clients = connections::open(run, plan, first, &export.uri, &work, cancel).map_err(Error::of_export)?;
    let meter = run.session.display.meter(chain.target(), data_size);
    let queue = Queue::new(&work, CHAIN_WINDOW);
    let found = Mutex::new(Found::default());
    let stopped = cancel.child();
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .map(|client| {
                let part = Part { chain, live: &live, changed: changed.as_deref(), found: &found };
                let (queue, meter, stopped) = (&queue, &meter, &stopped);
                scope.spawn(move || {
                    let ended = part.work(client, queue, meter, stopped);
                    ended.inspect_err(|_| stopped.cancel())
                })
            })
            .collect();
        Error::first_of(threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(Error::panicked()))))
    })?;
    cancel.check()?;
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    if sizes.0 != sizes.1 {
        found.add(vec![(common.end..sizes.0.max(sizes.1), Why::Unknown)]);
    }
    found.ranges.sort_unstable_by_key(|(range, _)| range.start);
    let ranges = joined(found.ranges);
    Ok(Compared {
        target: chain.target().to_owned(),
        sizes,
        since,
        read: found.read,
        changed: found.changed,
        unexplained: found.unexplained,
        unknown: found.unknown,
        ranges,
        omitted: found.omitted,
    })
}

/// What all threads found.
#[derive(Debug, Default)]
struct Found {
    read: u64,
    changed: u64,
    unexplained: u64,
    unknown: u64,
    ranges: Vec<(Range<u64>, Why)>,
    omitted: u64,
}

impl Found {
    fn add(&mut self, ranges: Vec<(Range<u64>, Why)>) {
        for (range, why) in ranges {
            *match why {
                Why::Changed => &mut self.changed,
                Why::Unexplained => &mut self.unexplained,
                Why::Unknown => &mut self.unknown,
            } += range.end - range.start;
            match self.ranges.len() < MAX_RANGES {
                true => self.ranges.push((range, why)),
                false => self.omitted += 1,
            }
        }
    }
}

/// What a thread knows.
struct Part<'p> {
    chain: &'p ChainDevice,
    live: &'p [Extent],
    changed: Option<&'p [Extent]>,
    found: &'p Mutex<Found>,
}

impl Part<'_> {
    fn work(&self, mut client: Client, queue: &Queue<'_>, meter: &dyn Progress, stopped: &Cancel) -> Result<()> {
        let (mut then, mut now, mut buffers) = (Vec::new(), Vec::new(), Buffers::default());
        while let Some(item) = queue.take() {
            stopped.check()?;
            let window = item.window(self.chain.size());
            let length = (window.end - window.start) as usize;
            then.resize(length, 0);
            now.clear();
            now.resize(length, 0);
            self.chain.read_data(window.clone(), &mut then, &mut buffers)?;
            for (part, content) in self.chain.parts(window.clone()) {
                if content == Content::Zero {
                    then[(part.start - window.start) as usize..(part.end - window.start) as usize].fill(0);
                }
            }
            let read = self.read_live(&mut client, &item, &window, &mut now).map_err(Error::of_export)?;
            let mut differing = Vec::new();
            for extent in &item.extents {
                differ(&then, &now, window.start, extent.range(), &mut differing);
            }
            let ranges = differing.into_iter().flat_map(|range| self.explain(range)).collect();
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.read += read;
            found.add(ranges);
            drop(found);
            meter.advance(item.length());
        }
        Ok(())
    }

    /// Reads what of the item is data on the domain's disk, in whole pages; the rest of `buffer` is zero.
    fn read_live(&self, client: &mut Client, item: &Item, window: &Range<u64>, buffer: &mut [u8]) -> Result<u64> {
        let (mut read, mut position) = (0, window.start);
        for extent in &item.extents {
            for data in extent::clip(self.live, extent.range()).filter(|part| part.kind() == Kind::Data) {
                let start = align_down(data.offset, STEP as u64).max(position);
                let end = align_up(data.end(), STEP as u64).min(window.end).min(client.size());
                if start < end {
                    let place = (start - window.start) as usize..(end - window.start) as usize;
                    client.read_at(&mut buffer[place], start)?;
                    read += end - start;
                    position = end;
                }
            }
        }
        Ok(read)
    }

    /// Why `range` differs, part by part.
    fn explain(&self, range: Range<u64>) -> Vec<(Range<u64>, Why)> {
        let Some(changed) = self.changed else { return vec![(range, Why::Unknown)] };
        let why = |kind| if kind == Kind::Clean { Why::Unexplained } else { Why::Changed };
        let parts = extent::clip(changed, range).map(|part| (part.range(), why(part.kind())));
        joined(parts.collect())
    }
}

/// Appends the ranges of `within` whose bytes differ; both buffers begin at `start`.
fn differ(one: &[u8], other: &[u8], start: u64, within: Range<u64>, ranges: &mut Vec<Range<u64>>) {
    let mut position = (within.start - start) as usize;
    let end = (within.end - start) as usize;
    while position < end {
        // Up to the next whole page.
        let stop = (position / STEP * STEP + STEP).min(end);
        if one[position..stop] != other[position..stop] {
            let range = start + position as u64..start + stop as u64;
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        position = stop;
    }
}

/// Ranges that touch and are of one kind as one.
fn joined(ranges: Vec<(Range<u64>, Why)>) -> Vec<(Range<u64>, Why)> {
    let mut joined: Vec<(Range<u64>, Why)> = Vec::with_capacity(ranges.len());
    for (range, why) in ranges {
        match joined.last_mut() {
            Some((last, known)) if last.end == range.start && *known == why => last.end = range.end,
            _ => joined.push((range, why)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_pages_and_grow_together() {
        let one = vec![0; 5 * STEP];
        let mut other = one.clone();
        for position in [0, STEP + 5, 4 * STEP - 1] {
            other[position] = 1;
        }
        let mut ranges = Vec::new();
        differ(&one, &other, 1 << 20, (1 << 20) + 10..(1 << 20) + 5 * STEP as u64, &mut ranges);
        let page = |number: u64| (1 << 20) + number * STEP as u64;
        assert_eq!(ranges, [page(1)..page(2), page(3)..page(4)]);
        ranges.clear();
        differ(&one, &other, 1 << 20, (1 << 20)..(1 << 20) + 5 * STEP as u64, &mut ranges);
        assert_eq!(ranges, [page(0)..page(2), page(3)..page(4)]);
    }

    #[test]
    fn ranges_of_one_kind_are_joined() {
        let ranges =
            vec![(0..2, Why::Changed), (2..4, Why::Changed), (4..5, Why::Unexplained), (6..7, Why::Unexplained)];
        let expected = [(0..4, Why::Changed), (4..5, Why::Unexplained), (6..7, Why::Unexplained)];
        assert_eq!(joined(ranges), expected);
    }
}
