//! A disk cut into cells, and what a run did to each.
//!
//! ```text
//! extents  |--data--|-zero-|------------clean------------|data|
//! cells    |    |    |    |    |    |    |    |    |    |    |
//! drawn      █    ▅    ░    ·    ·    ·    ·    ·    ·    ▃
//! ```
//!
//! What is small is never lost: a cell with one byte of data is one with data.

use std::ops::Range;

use crate::extent::{Extent, Kind};

/// How a disk is cut into cells of equal length; the last one may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a cell.
    pub cell: u64,
}

/// What a cell holds of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell {
    /// Bytes that the run has.
    data: u64,
    /// Bytes that it says are zero.
    zero: u64,
    /// Bytes of the disk as it was in that run.
    length: u64,
}

/// How a cell is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The run has data of it: eighths of the cell, 1 to 8.
    Data(u8),
    /// The run has no data of it, and says that some of it is zero.
    Zero,
    /// The run has nothing of it.
    Unchanged,
    /// The disk was smaller.
    Beyond,
}

impl Scale {
    /// At most `columns` cells for a disk of `size` bytes, of a length that people can reckon with: 4, 5, 6 or 7
    /// times a power of two.
    pub fn new(size: u64, columns: usize) -> Self {
        let least = size.div_ceil(columns.max(1) as u64).max(512);
        let unit = 1 << least.ilog2().saturating_sub(2);
        Self { size, cell: least.div_ceil(unit).saturating_mul(unit) }
    }

    /// Cells for a picture, of any length.
    pub fn fine(size: u64, columns: usize) -> Self {
        Self { size, cell: size.div_ceil(columns.max(1) as u64).max(512) }
    }

    /// How many cells there are.
    pub fn count(&self) -> usize {
        usize::try_from(self.size.div_ceil(self.cell)).unwrap_or(usize::MAX)
    }

    /// The bytes of a cell.
    pub fn range(&self, index: usize) -> Range<u64> {
        let start = (index as u64).saturating_mul(self.cell).min(self.size);
        start..start.saturating_add(self.cell).min(self.size)
    }

    /// Empty cells of a disk that had `size` bytes.
    pub fn cells(&self, size: u64) -> Vec<Cell> {
        let length = |index| {
            let Range { start, end } = self.range(index);
            end.min(size).saturating_sub(start)
        };
        (0..self.count()).map(|index| Cell { length: length(index), ..Cell::default() }).collect()
    }

    /// Adds an extent to the cells that it touches.
    pub fn add(&self, cells: &mut [Cell], extent: Extent) {
        if extent.kind() == Kind::Clean {
            return;
        }
        let first = usize::try_from(extent.offset / self.cell).unwrap_or(usize::MAX);
        for (index, cell) in cells.iter_mut().enumerate().skip(first) {
            let Some(part) = extent.clip(&self.range(index)) else { break };
            match part.kind() {
                Kind::Data => cell.data = cell.data.saturating_add(part.length()),
                _ => cell.zero = cell.zero.saturating_add(part.length()),
            }
        }
    }
}

impl Cell {
    /// How it is drawn.
    pub fn look(&self) -> Look {
        match (self.length, self.data, self.zero) {
            (0, ..) => Look::Beyond,
            (length, 1.., _) => {
                let eighths = (u128::from(self.data) * 8).div_ceil(u128::from(length));
                Look::Data(eighths.clamp(1, 8) as u8)
            }
            (_, 0, 1..) => Look::Zero,
            _ => Look::Unchanged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_cover_the_disk_and_fit() {
        for size in [1, 512, 513, 4096, 64 << 20, (64 << 20) + 512, 10 << 30, (1 << 62) + 1, u64::MAX] {
            for columns in [1, 2, 11, 60, 400, 960] {
                for scale in [Scale::new(size, columns), Scale::fine(size, columns)] {
                    let count = scale.count();
                    assert!((1..=columns).contains(&count), "{scale:?}");
                    assert_eq!((scale.range(0).start, scale.range(count - 1).end), (0, size), "{scale:?}");
                    assert!((0..count).all(|index| !scale.range(index).is_empty()), "{scale:?}");
                }
                let scale = Scale::new(size, columns);
                assert!(size < 512 * columns as u64 || scale.count() + 1 >= columns * 4 / 5, "{scale:?}");
            }
        }
        assert_eq!(Scale::new(64 << 20, 60).cell, 5 << 18);
        assert_eq!(Scale::new(0, 60).count(), 0);
    }

    #[test]
    fn cells_tell_data_zeroes_and_the_rest_apart() {
        let scale = Scale { size: 100, cell: 10 };
        let mut cells = scale.cells(75);
        for extent in
            [Extent::data(0, 12), Extent::zero(12, 13), Extent::clean(25, 15), Extent::data(59, 1), Extent::zero(60, 1)]
        {
            scale.add(&mut cells, extent);
        }
        let looks: Vec<Look> = cells.iter().map(Cell::look).collect();
        use Look::*;
        assert_eq!(looks, [Data(8), Data(2), Zero, Unchanged, Unchanged, Data(1), Zero, Unchanged, Beyond, Beyond]);
        assert_eq!((cells[7].length, cells[8].length), (5, 0));
        // A whole cell of a disk that ends in it is whole.
        scale.add(&mut cells, Extent::data(70, 5));
        assert_eq!(cells[7].look(), Data(8));
        scale.add(&mut cells, Extent::data(1 << 40, 5));
    }
}
