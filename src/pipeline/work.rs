//! Cuts the extents of a disk into items of work that fit into one window each.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::extent::{Extent, Kind, push};
use crate::units::{MIB, align_down};

/// Guest bytes that one item spans. A multiple of the block of a digest, so that an item holds all
/// data of its blocks; large enough that the cost of an item vanishes beside its bytes; small
/// enough that a window for each thread is little memory, and that a compressed frame, which never
/// crosses a window, is cheap to read alone.
pub const WINDOW: u64 = 4 * MIB;

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
}

impl Item {
    /// The window that the item's data lies in, clipped to the disk; empty without data.
    pub fn window(&self, size: u64) -> Range<u64> {
        let first = self.extents.iter().find(|extent| extent.kind() == Kind::Data);
        first.map_or(0..0, |data| {
            let start = align_down(data.offset, WINDOW);
            start..(start + WINDOW).min(size)
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
                    let start = align_down(rest.offset, WINDOW);
                    if *window.get_or_insert(start) != start {
                        break;
                    }
                    Extent::data(rest.offset, rest.length().min(start + WINDOW - rest.offset))
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
pub struct Queue<'e>(Mutex<(Cutter<'e>, u64)>);

impl<'e> Queue<'e> {
    /// The work in `extents`.
    pub fn new(extents: &'e [Extent]) -> Self {
        Self(Mutex::new((Cutter { extents, taken: 0 }, 0)))
    }

    /// The next item; `None` when all are taken.
    pub fn take(&self) -> Option<Item> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let extents = state.0.next()?;
        let number = state.1;
        state.1 += 1;
        Some(Item { number, extents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn items(extents: &[Extent]) -> Vec<Item> {
        let queue = Queue::new(extents);
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

    proptest! {
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
