//! Cuts the extents of a disk into items of work that fit into one window each.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::extent::{Extent, Kind, push};
use crate::units::{KIB, MIB, align_down};

/// Guest bytes that one item of a disk spans. Windows are multiples of the block of a digest, so that an item holds
/// all data of its blocks. This one is large enough that the cost of an item vanishes beside its bytes, and small enough
/// that a window for each of many threads is little memory, that all of them together read the disk nearly in its order,
/// and that a compressed frame, which never crosses a window, is cheap to read alone.
pub const WINDOW: u64 = MIB;

/// Guest bytes that one item of a chain spans: frames of other programs are longer, and some can only be decompressed
/// as a whole.
pub const CHAIN_WINDOW: u64 = 4 * MIB;

/// Bytes that cost less to read along than a request of their own.
pub(super) const SMALL_GAP: u64 = 32 * KIB;

/// Items that are taken at once, at most.
const MAX_ITEMS: usize = 64;

/// Zero extents that one item without data may gather.
const MAX_ZEROES: usize = 4096;

/// Part of the work: data extents inside one window, and zero extents of any length between them,
/// ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Place in the order of the disk, from 0.
    pub number: u64,
    /// What to do.
    pub extents: Vec<Extent>,
    window_length: u64,
}

impl Item {
    /// The window that the item's data lies in, clipped to the disk; empty without data.
    pub fn window(&self, size: u64) -> Range<u64> {
        let first = self.extents.iter().find(|extent| extent.kind() == Kind::Data);
        first.map_or(0..0, |data| {
            let start = align_down(data.offset, self.window_length);
            start..(start + self.window_length).min(size)
        })
    }

    /// Guest bytes in the item.
    pub fn length(&self) -> u64 {
        self.extents.iter().map(|extent| extent.length()).sum()
    }
}

/// Iterates over the items of a list of extents. [`Kind::Clean`] extents are no work.
#[derive(Debug)]
struct Cutter<'e> {
    extents: &'e [Extent],
    window: u64,
    /// The part of `extents[0]` that earlier items took, in bytes.
    taken: u64,
}

impl Cutter<'_> {
    fn next(&mut self) -> Option<Vec<Extent>> {
        let mut item: Vec<Extent> = Vec::new();
        let mut window = None;
        while let Some(first) = self.extents.first() {
            let rest = Extent::new(first.offset + self.taken, first.length() - self.taken, first.kind());
            let piece = match rest.kind() {
                Kind::Clean => {
                    self.advance(rest.length());
                    continue;
                }
                Kind::Zero if window.is_none() && item.len() >= MAX_ZEROES => break,
                Kind::Zero => rest,
                Kind::Data => {
                    let start = align_down(rest.offset, self.window);
                    if *window.get_or_insert(start) != start {
                        break;
                    }
                    Extent::data(rest.offset, rest.length().min(start + self.window - rest.offset))
                }
            };
            push(&mut item, piece);
            self.advance(piece.length());
        }
        (!item.is_empty()).then_some(item)
    }

    fn advance(&mut self, length: u64) {
        self.taken += length;
        if self.extents.first().is_some_and(|first| first.length() == self.taken) {
            self.extents = &self.extents[1..];
            self.taken = 0;
        }
    }
}

/// Hands the items of a disk to threads, in order.
#[derive(Debug)]
pub struct Queue<'e>(Mutex<State<'e>>);

#[derive(Debug)]
struct State<'e> {
    cutter: Cutter<'e>,
    /// Of the next item.
    number: u64,
    /// An item that did not fit.
    ahead: Option<Item>,
}

impl State<'_> {
    fn next(&mut self) -> Option<Item> {
        if self.ahead.is_some() {
            return self.ahead.take();
        }
        let extents = self.cutter.next()?;
        let number = self.number;
        self.number += 1;
        Some(Item { number, extents, window_length: self.cutter.window })
    }
}

impl<'e> Queue<'e> {
    /// The work in `extents`, in items of one `window` each: so many bytes, at a multiple of that.
    pub fn new(extents: &'e [Extent], window: u64) -> Self {
        Self(Mutex::new(State { cutter: Cutter { extents, window, taken: 0 }, number: 0, ahead: None }))
    }

    /// The next item; `None` when all are taken.
    pub fn take(&self) -> Option<Item> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// The next items of which no more than `bytes` are read together, in order; one in any case, none when all are
    /// taken. Where data is scattered a window holds little of it: one request at a time would be waited for.
    pub fn take_some(&self, bytes: u64) -> Vec<Item> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut items = Vec::new();
        let (mut left, mut end) = (bytes, None);
        while items.len() < MAX_ITEMS {
            let Some(item) = state.next() else { break };
            match left.checked_sub(read_length(&item.extents, &mut end)) {
                None if !items.is_empty() => {
                    state.ahead = Some(item);
                    break;
                }
                rest => left = rest.unwrap_or(0),
            }
            items.push(item);
        }
        items
    }
}

/// Bytes that are read for the data of `extents` behind data that ended at `end`, which becomes their own end.
fn read_length(extents: &[Extent], end: &mut Option<u64>) -> u64 {
    let mut length = 0;
    for data in extents.iter().filter(|extent| extent.kind() == Kind::Data) {
        let gap = end.map_or(u64::MAX, |end| data.offset - end);
        length += data.length() + if gap <= SMALL_GAP { gap } else { 0 };
        *end = Some(data.end());
    }
    length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::worker::Work;
    use super::*;

    fn items(extents: &[Extent]) -> Vec<Item> {
        let queue = Queue::new(extents, WINDOW);
        std::iter::from_fn(|| queue.take()).collect()
    }

    #[test]
    fn zeroes_are_not_cut_and_data_is() {
        let extents = [
            Extent::data(0, WINDOW + 4096),
            Extent::zero(WINDOW + 4096, 9 * WINDOW),
            Extent::clean(10 * WINDOW + 4096, 10),
        ];
        let items = items(&extents);
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].extents, [Extent::data(0, WINDOW)]);
        assert_eq!(items[1].extents, [Extent::data(WINDOW, 4096), extents[1]]);
        assert_eq!(items[1].window(u64::MAX), WINDOW..2 * WINDOW);
    }

    #[test]
    fn gaps_that_are_not_read_take_no_room() {
        let pieces: Vec<Extent> = (0..40).map(|number| Extent::data(number * 5 * 64 * KIB, 64 * KIB)).collect();
        let some = Queue::new(&pieces, WINDOW).take_some(WINDOW);
        assert_eq!(some.iter().map(|item| item.extents.len()).sum::<usize>(), 16);
        // Those that are read do.
        let near: Vec<Extent> = (0..40).map(|number| Extent::data(number * 64 * KIB, 32 * KIB)).collect();
        let some = Queue::new(&near, WINDOW).take_some(WINDOW);
        assert_eq!(some.iter().map(|item| item.extents.len()).sum::<usize>(), 16);
    }

    proptest! {
        #[test]
        fn some_items_are_those_that_fit(
            parts in prop::collection::vec((1..WINDOW, 0..3u8), 1..200), bytes in 0..3 * WINDOW
        ) {
            let mut extents = Vec::new();
            let mut position = 0;
            for (length, kind) in parts {
                let kind = [Kind::Data, Kind::Zero, Kind::Clean][usize::from(kind)];
                let length = if kind == Kind::Data { length / 32 + 1 } else { length };
                push(&mut extents, Extent::new(position, length, kind));
                position += length;
            }
            let queue = Queue::new(&extents, WINDOW);
            let mut taken = Vec::new();
            loop {
                let some = queue.take_some(bytes);
                if some.is_empty() {
                    break;
                }
                // What the worker makes of them.
                let buffer = Work::of(some.clone()).length() as u64;
                prop_assert!(buffer <= bytes || some.len() == 1);
                taken.extend(some);
            }
            prop_assert_eq!(taken, items(&extents));
        }

        #[test]
        fn items_hold_all_work_once(parts in prop::collection::vec((1..3 * WINDOW, 0..3u8), 1..60)) {
            let mut extents = Vec::new();
            let mut position = 0;
            for (length, kind) in parts {
                let kind = [Kind::Data, Kind::Zero, Kind::Clean][usize::from(kind)];
                push(&mut extents, Extent::new(position, length, kind));
                position += length;
            }
            let mut work = Vec::new();
            let mut windows = Vec::new();
            for item in items(&extents) {
                let window = item.window(position);
                for extent in item.extents {
                    if extent.kind() == Kind::Data {
                        prop_assert!(window.start <= extent.offset && extent.end() <= window.end);
                    }
                    push(&mut work, extent);
                }
                if !window.is_empty() {
                    windows.push(window.start);
                }
            }
            let expected: Vec<Extent> = extents.into_iter().filter(|extent| extent.kind() != Kind::Clean).collect();
            prop_assert_eq!(work, expected);
            // All data of a window is in one item: digests of its blocks are whole.
            prop_assert!(windows.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
