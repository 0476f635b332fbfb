//! One stream of a chain: what of it was proven, and its blocks.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::cells::{Bench, Cell, Cells, Claim, Key, Memory};
use crate::error::{self, Error, Result};
use crate::nbd::server::gate::Turn;
use crate::stream::BLOCK;
use crate::stream::reader::StreamReader;

/// Most guest bytes loaded at once where a compressed frame spans several blocks.
const MAX_LOAD: u64 = 8 * BLOCK;
/// Damaged blocks that are told, each once.
const MAX_TOLD: usize = 10_000;

pub(super) struct Layer {
    /// Blocks of which every byte carried was proven: a bit each.
    proven: Vec<AtomicU64>,
    /// Bytes of payloads can be read where they are.
    plain: bool,
    /// A slice of a block can be decompressed for itself.
    sliced: bool,
    told: Mutex<HashSet<u64>>,
}

impl Layer {
    pub(super) fn new(reader: &StreamReader) -> Self {
        let blocks = reader.meta().virtual_size.div_ceil(BLOCK);
        // Without digests the file was read, and its sum compared, when it was opened.
        let known = if reader.has_digests() { 0 } else { u64::MAX };
        // A bit per MiB: small whatever the disk.
        let words = usize::try_from(blocks.div_ceil(64)).unwrap_or(0);
        Self {
            proven: (0..words).map(|_| AtomicU64::new(known)).collect(),
            plain: !reader.meta().compression.is_lz4(),
            sliced: reader.is_sliced(),
            told: Mutex::default(),
        }
    }

    fn is_proven(&self, block: u64) -> bool {
        let word = self.proven.get((block / 64) as usize);
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (block % 64) & 1 == 1)
    }

    fn set_proven(&self, blocks: Range<u64>) {
        for block in blocks {
            if let Some(word) = self.proven.get((block / 64) as usize) {
                word.fetch_or(1 << (block % 64), Ordering::Relaxed);
            }
        }
    }

    /// Fills `place` with the bytes of `range`, all of which this layer carries. False without a turn
    /// where work would be needed.
    pub(super) fn read(
        &self,
        reader: &StreamReader,
        range: Range<u64>,
        place: &mut [u8],
        memory: &Memory,
        turn: Option<&Turn<'_>>,
    ) -> Result<bool> {
        let mut position = range.start;
        while position < range.end {
            let mut block = position / BLOCK;
            let mut stop = range.end.min((block + 1) * BLOCK);
            let into = |stop: u64| (position - range.start) as usize..(stop - range.start) as usize;
            if self.plain && self.is_proven(block) {
                while stop < range.end && self.is_proven(block + 1) {
                    block += 1;
                    stop = range.end.min((block + 1) * BLOCK);
                }
                reader.read_again(position, &mut place[into(stop)])?;
            } else {
                let (cell, start) = match memory.blocks.get((reader.id(), block)) {
                    Some(cell) => (Some(cell), block * BLOCK),
                    None if self.sliced && self.is_proven(block) => {
                        let unit = memory.slices.unit();
                        let number = position / unit;
                        stop = range.end.min((number + 1) * unit);
                        let slice = match turn {
                            None => memory.slices.get((reader.id(), number)),
                            Some(turn) => Some(self.slice(reader, number, &memory.slices, turn)?),
                        };
                        (slice, number * unit)
                    }
                    None => match turn {
                        None => (None, 0),
                        Some(turn) => (Some(self.cell(reader, block, &memory.blocks, turn)?), block * BLOCK),
                    },
                };
                let Some(cell) = cell else { return Ok(false) };
                let first = (position - start) as usize;
                place[into(stop)].copy_from_slice(&cell[first..first + (stop - position) as usize]);
            }
            position = stop;
        }
        Ok(true)
    }

    /// A slice of a block that was proven.
    fn slice(&self, reader: &StreamReader, number: u64, cells: &Cells, turn: &Turn<'_>) -> Result<Cell> {
        let key = (reader.id(), number);
        let loading = match cells.claim(key, &[key]) {
            Claim::Ready(cell) => return Ok(cell),
            Claim::Mine(loading) => loading,
        };
        let _pass = turn.take();
        let unit = cells.unit();
        let range = number * unit..((number + 1) * unit).min(reader.meta().virtual_size);
        let start = range.start;
        let mut cell = cells.buffer((range.end - range.start) as usize);
        let read = cells.with_bench(|bench| reader.read_proven(range, &mut cell, &mut bench.scratch));
        read.inspect_err(|error| self.tell(start / BLOCK, error))?;
        loading.done(cell, Vec::new()).ok_or_else(|| lost(start))
    }

    /// The cell of `block`, proven.
    fn cell(&self, reader: &StreamReader, block: u64, cells: &Cells, turn: &Turn<'_>) -> Result<Cell> {
        let key = (reader.id(), block);
        if let Some(cell) = cells.get(key) {
            return Ok(cell);
        }
        let size = reader.meta().virtual_size;
        let one = block * BLOCK..((block + 1) * BLOCK).min(size);
        let wide = if self.plain { one.clone() } else { reader.frames_around(&one, MAX_LOAD) };
        let all: Vec<Key> = blocks(&wide).map(|block| (reader.id(), block)).collect();
        let loading = match cells.claim(key, &all) {
            Claim::Ready(cell) => return Ok(cell),
            Claim::Mine(loading) => loading,
        };
        // Taken first: a place at the gate is for those who work.
        let mut long = (!self.plain && reader.longest_frame(&one) > MAX_LOAD).then(|| cells.long_bench());
        let _pass = turn.take();
        let mut load = |range: Range<u64>| match &mut long {
            Some(bench) => self.load(reader, range, cells, bench),
            None => cells.with_bench(|bench| self.load(reader, range, cells, bench)),
        };
        let mut loaded = load(wide.clone());
        if loaded.is_err() && wide != one {
            // Damage of a neighbour is no reason to refuse this block.
            loaded = load(one.clone());
        }
        let mut loaded = loaded.inspect_err(|error| self.tell(block, error))?;
        let own = loaded.iter().position(|(other, _)| *other == key);
        let own = own.map(|own| loaded.swap_remove(own).1);
        let cell = own.and_then(|own| loading.done(own, loaded));
        cell.ok_or_else(|| lost(one.start))
    }

    /// Reads and proves the blocks of `range`.
    fn load(
        &self,
        reader: &StreamReader,
        range: Range<u64>,
        cells: &Cells,
        bench: &mut Bench,
    ) -> Result<Vec<(Key, Vec<u8>)>> {
        let blocks = blocks(&range);
        let proven = blocks.clone().all(|block| self.is_proven(block));
        let read = if proven { StreamReader::read_proven } else { StreamReader::read };
        let len = (range.end - range.start) as usize;
        let loaded = if blocks.end - blocks.start == 1 {
            let mut cell = cells.buffer(len);
            read(reader, range, &mut cell, &mut bench.scratch)?;
            vec![((reader.id(), blocks.start), cell)]
        } else {
            bench.window.resize(len, 0);
            read(reader, range, &mut bench.window, &mut bench.scratch)?;
            let parts = bench.window.chunks(BLOCK as usize).zip(blocks.clone());
            let cell = |part: &[u8]| {
                let mut cell = cells.buffer(part.len());
                cell.copy_from_slice(part);
                cell
            };
            parts.map(|(part, block)| ((reader.id(), block), cell(part))).collect()
        };
        self.set_proven(blocks);
        Ok(loaded)
    }

    /// Says once that a block can't be read.
    fn tell(&self, block: u64, error: &Error) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MAX_TOLD && told.insert(block) {
            tracing::error!("{}", error::report(error));
        }
    }
}

/// The memory holds at least what was loaded last.
fn lost(start: u64) -> Error {
    Error::new(error::Kind::Io, "a block was lost from memory").at(start)
}

/// The numbers of the blocks that `range` touches.
fn blocks(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}
