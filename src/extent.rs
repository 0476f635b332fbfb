//! Ranges of a guest disk and what is known of them, and the algebra on lists of them.
//!
//! A *list* here is always ascending, without overlap and without empty extents. A list that
//! *covers* a range has no gap in it either:
//!
//! ```text
//! list            |--data--|        |zero|--data--|
//! covers 0..size  |--data--|--clean--|zero|--data--|-----clean-----|
//! ```

use std::ops::Range;

use crate::error::{Error, Kind as ErrorKind, Result};
use crate::units::{align_down, align_up};

/// What is known of a range of a guest disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Has content that must be read.
    Data = 0,
    /// Reads as zeroes, and the server promised so. A mere hole is [`Kind::Data`].
    Zero = 1,
    /// Unchanged since the base; its content is in an earlier stream.
    Clean = 2,
}

/// A range of a guest disk, in bytes, and what is known of it. 16 bytes: disks have millions of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes, never 0 in a list, and the kind in the two lowest bits.
    length_and_kind: u64,
}

/// Bits of the kind.
const KIND_BITS: u32 = 2;

impl Extent {
    /// An extent of `kind`. A length over 2^62, more than any disk has, is cut: the list that it belongs to does not
    /// cover its range then.
    pub const fn new(offset: u64, length: u64, kind: Kind) -> Self {
        let length = if length >> (u64::BITS - KIND_BITS) == 0 { length } else { u64::MAX >> KIND_BITS };
        Self { offset, length_and_kind: length << KIND_BITS | kind as u64 }
    }

    /// Number of bytes, never 0 in a list.
    pub const fn length(&self) -> u64 {
        self.length_and_kind >> KIND_BITS
    }

    /// What is known of it.
    pub const fn kind(&self) -> Kind {
        match self.length_and_kind & ((1 << KIND_BITS) - 1) {
            0 => Kind::Data,
            1 => Kind::Zero,
            _ => Kind::Clean,
        }
    }

    /// The same range as another kind.
    #[must_use]
    pub const fn with_kind(self, kind: Kind) -> Self {
        Self::new(self.offset, self.length(), kind)
    }

    /// A range with content.
    pub const fn data(offset: u64, length: u64) -> Self {
        Self::new(offset, length, Kind::Data)
    }

    /// A range that reads as zeroes.
    pub const fn zero(offset: u64, length: u64) -> Self {
        Self::new(offset, length, Kind::Zero)
    }

    /// An unchanged range.
    pub const fn clean(offset: u64, length: u64) -> Self {
        Self::new(offset, length, Kind::Clean)
    }

    /// One past the last byte.
    pub const fn end(&self) -> u64 {
        self.offset + self.length()
    }

    /// The bytes as a range.
    pub const fn range(&self) -> Range<u64> {
        self.offset..self.end()
    }

    /// The part inside `range`, if any.
    pub fn clip(&self, range: &Range<u64>) -> Option<Self> {
        let offset = self.offset.max(range.start);
        let end = self.end().min(range.end);
        (offset < end).then(|| Self::new(offset, end - offset, self.kind()))
    }
}

impl std::fmt::Debug for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}+{}", self.kind(), self.offset, self.length())
    }
}

/// Appends `extent` to a list, growing the last one where it touches and is of the same kind.
/// Empty extents are dropped.
pub fn push(list: &mut Vec<Extent>, extent: Extent) {
    if extent.length() == 0 {
        return;
    }
    match list.last_mut() {
        Some(last) if last.end() == extent.offset && last.kind() == extent.kind() => {
            *last = Extent::new(last.offset, last.length() + extent.length(), last.kind())
        }
        last => {
            debug_assert!(last.is_none_or(|last| last.end() <= extent.offset), "extents must ascend");
            list.push(extent);
        }
    }
}

/// The parts of `list` inside `range`. Takes time in the parts found, not in the list.
pub fn clip(list: &[Extent], range: Range<u64>) -> impl Iterator<Item = Extent> + '_ {
    let first = list.partition_point(|extent| extent.end() <= range.start);
    list[first..].iter().map_while(move |extent| extent.clip(&range))
}

/// `list` within `range`, with the gaps filled by extents of kind `gap`: it covers `range`.
pub fn fill(list: &[Extent], range: Range<u64>, gap: Kind) -> Vec<Extent> {
    let mut covering = Vec::new();
    let mut position = range.start;
    for extent in clip(list, range.clone()) {
        push(&mut covering, Extent::new(position, extent.offset - position, gap));
        push(&mut covering, extent);
        position = extent.end();
    }
    push(&mut covering, Extent::new(position, range.end.saturating_sub(position), gap));
    covering
}

/// What `decide` makes of each stretch on which two lists, both covering the same range, are
/// constant. Their boundaries need not agree.
pub fn combine(left: &[Extent], right: &[Extent], decide: impl Fn(Kind, Kind) -> Kind) -> Vec<Extent> {
    let mut combined = Vec::new();
    combine_onto(&mut combined, left, right, decide);
    combined
}

/// [`combine`], appended to a list that ends where the range begins.
pub fn combine_onto(list: &mut Vec<Extent>, left: &[Extent], right: &[Extent], decide: impl Fn(Kind, Kind) -> Kind) {
    let (mut l, mut r) = (0, 0);
    while let (Some(a), Some(b)) = (left.get(l), right.get(r)) {
        let offset = a.offset.max(b.offset);
        let end = a.end().min(b.end());
        push(list, Extent::new(offset, end - offset, decide(a.kind(), b.kind())));
        l += usize::from(a.end() == end);
        r += usize::from(b.end() == end);
    }
}

/// Grows the data of a covering list to multiples of `alignment` (a power of two), at the cost of
/// its neighbours; the end of the list stays. Frames of a stream must start on such multiples.
/// In place: a list may be most of what a backup holds in memory.
pub fn align_data(list: &mut Vec<Extent>, alignment: u64) {
    let end = list.last().map_or(0, Extent::end);
    // End of the data that was grown last.
    let mut grown = list.first().map_or(0, |first| first.offset);
    let mut kept = 0;
    for index in 0..list.len() {
        let extent = list[index];
        let next = if extent.kind() == Kind::Data {
            let start = align_down(extent.offset, alignment).max(grown);
            let stop = align_up(extent.end(), alignment).min(end);
            // What it grows over is no data: that ends at `grown`.
            while kept > 0 && list[kept - 1].end() > start {
                match list[kept - 1].clip(&(0..start)) {
                    Some(rest) => list[kept - 1] = rest,
                    None => kept -= 1,
                }
            }
            grown = grown.max(stop);
            (start < stop).then(|| Extent::data(start, stop - start))
        } else {
            extent.clip(&(grown..end))
        };
        let Some(next) = next else { continue };
        match kept.checked_sub(1).map(|last| &mut list[last]) {
            Some(last) if last.end() == next.offset && last.kind() == next.kind() => {
                *last = Extent::new(last.offset, last.length() + next.length(), last.kind());
            }
            _ => {
                list[kept] = next;
                kept += 1;
            }
        }
    }
    list.truncate(kept);
}

/// Total bytes of `kind`.
pub fn total(list: &[Extent], kind: Kind) -> u64 {
    list.iter().filter(|extent| extent.kind() == kind).map(|extent| extent.length()).sum()
}

/// Proves that `list` covers `range`.
///
/// # Errors
/// [`ErrorKind::Protocol`] at the first gap, overlap or overrun.
pub fn check_cover(list: &[Extent], range: Range<u64>) -> Result<()> {
    let mut position = range.start;
    for extent in list {
        if extent.offset != position || extent.length() == 0 {
            return Err(Error::new(ErrorKind::Protocol, "extents leave a gap or overlap").at(position));
        }
        position = extent.end();
    }
    if position == range.end {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Protocol, format!("extents end early: the disk has {} bytes", range.end))
            .at(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each byte of a covering list starting at 0.
    fn bytes(list: &[Extent]) -> Vec<Kind> {
        list.iter().flat_map(|extent| std::iter::repeat_n(extent.kind(), extent.length() as usize)).collect()
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::Data), Just(Kind::Zero), Just(Kind::Clean)]
    }

    /// A covering list of `size` bytes, from random cuts.
    fn covering(size: u64) -> impl Strategy<Value = Vec<Extent>> {
        prop::collection::vec((1..40u64, kind()), 1..40).prop_map(move |parts| {
            let mut list = Vec::new();
            let mut position = 0;
            for (length, kind) in parts {
                let length = length.min(size - position);
                push(&mut list, Extent::new(position, length, kind));
                position += length;
            }
            push(&mut list, Extent::data(position, size - position));
            list
        })
    }

    #[test]
    fn gaps_and_overlaps_are_found() {
        for list in [
            vec![],
            vec![Extent::data(1, 9)],
            vec![Extent::data(0, 9)],
            vec![Extent::data(0, 11)],
            vec![Extent::data(0, 5), Extent::zero(6, 4)],
            vec![Extent::data(0, 6), Extent::zero(5, 5)],
        ] {
            assert!(check_cover(&list, 0..10).is_err(), "{list:?}");
        }
        check_cover(&[Extent::data(0, 5), Extent::zero(5, 5)], 0..10).unwrap();
    }

    proptest! {
        #[test]
        fn combine_equals_a_byte_map(left in covering(500), right in covering(500)) {
            let decide = |a: Kind, b: Kind| a.max(b);
            let combined = combine(&left, &right, decide);
            check_cover(&combined, 0..500).unwrap();
            let expected: Vec<Kind> = bytes(&left).into_iter().zip(bytes(&right)).map(|(a, b)| decide(a, b)).collect();
            prop_assert_eq!(bytes(&combined), expected);
        }

        #[test]
        fn lists_have_no_equal_neighbours(list in covering(500)) {
            for pair in list.windows(2) {
                prop_assert!(pair[0].kind() != pair[1].kind() && pair[0].end() == pair[1].offset);
            }
        }

        #[test]
        fn clip_and_fill_equal_a_byte_map(list in covering(500), a in 0..500u64, b in 0..500u64) {
            let range = a.min(b)..a.max(b);
            let part: Vec<Extent> = clip(&list, range.clone()).collect();
            prop_assert_eq!(bytes(&part), &bytes(&list)[range.start as usize..range.end as usize]);
            let data: Vec<Extent> = list.iter().copied().filter(|e| e.kind() == Kind::Data).collect();
            let filled = fill(&data, range.clone(), Kind::Clean);
            if !range.is_empty() {
                check_cover(&filled, range.clone()).unwrap();
            }
            let expected: Vec<Kind> = bytes(&list)[range.start as usize..range.end as usize]
                .iter().map(|&k| if k == Kind::Data { k } else { Kind::Clean }).collect();
            prop_assert_eq!(bytes(&filled), expected);
        }

        #[test]
        fn aligned_data_only_grows_and_stays_within_its_blocks(list in covering(500), shift in 0..6u32) {
            let alignment = 1u64 << shift;
            let mut aligned = list.clone();
            align_data(&mut aligned, alignment);
            check_cover(&aligned, 0..500).unwrap();
            let (before, after) = (bytes(&list), bytes(&aligned));
            for (position, kind) in after.iter().enumerate() {
                let block = align_down(position as u64, alignment) as usize;
                let end = (block + alignment as usize).min(500);
                let has_data = before[block..end].contains(&Kind::Data);
                prop_assert_eq!(*kind == Kind::Data, has_data);
                if !has_data {
                    prop_assert_eq!(*kind, before[position]);
                }
            }
        }
    }
}
