//! Parts of the disk in memory: the least recently used ones go, and each is loaded by one thread while others wait.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::stream::reader::Scratch;
use crate::stream::{BLOCK, SLICE};

/// Names a cell: the id of its layer and its number in the disk.
pub(super) type Key = (u64, u64);

/// The bytes that a layer carries of one part of the disk, at their places; others are undefined.
pub(super) type Cell = Arc<Vec<u8>>;

/// What is kept in memory.
#[derive(Debug)]
pub(super) struct Memory {
    /// Whole blocks: as they were proven.
    pub(super) blocks: Cells,
    /// Parts of compressed blocks that were proven before.
    pub(super) slices: Cells,
}

impl Memory {
    /// Room for `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        // Slices are for reads that come back seldom.
        Self { blocks: Cells::new(bytes / 4 * 3, BLOCK), slices: Cells::new(bytes / 4, SLICE) }
    }
}

/// Cells of one size.
pub(super) struct Cells {
    state: Mutex<State>,
    loaded: Condvar,
    /// Bytes of a cell.
    unit: u64,
    /// Most cells kept.
    limit: usize,
    long: Mutex<Bench>,
}

#[derive(Default)]
struct State {
    slots: HashMap<Key, Slot>,
    ready: usize,
    clock: u64,
    /// Buffers of blocks that went, for blocks that come: fresh memory costs as much as filling it.
    spare: Vec<Vec<u8>>,
    /// As many as there were loads at a time.
    benches: Vec<Bench>,
}

impl std::fmt::Debug for Cells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cells").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// What one load needs beside its cells.
#[derive(Default)]
pub(super) struct Bench {
    pub(super) scratch: Scratch,
    /// Several blocks that are read together.
    pub(super) window: Vec<u8>,
}

enum Slot {
    Loading,
    Ready { cell: Cell, used: u64 },
}

/// What [`Cells::claim`] found.
pub(super) enum Claim<'c> {
    /// It is there.
    Ready(Cell),
    /// The caller is to load it.
    Mine(Loading<'c>),
}

impl Cells {
    /// Room for `bytes` in cells of `unit`, or for a few.
    pub(super) fn new(bytes: usize, unit: u64) -> Self {
        let limit = (bytes / unit as usize).max(16);
        Self { state: Mutex::default(), loaded: Condvar::new(), unit, limit, long: Mutex::default() }
    }

    /// Bytes of a cell, the last of a disk may have less.
    pub(super) fn unit(&self) -> u64 {
        self.unit
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cell if it is in memory.
    pub(super) fn get(&self, key: Key) -> Option<Cell> {
        let mut state = self.state();
        state.clock += 1;
        let now = state.clock;
        match state.slots.get_mut(&key) {
            Some(Slot::Ready { cell, used }) => {
                *used = now;
                Some(Arc::clone(cell))
            }
            _ => None,
        }
    }

    /// The cell, or the duty to load it and those that come with it, `all`; waits while another thread
    /// loads any of them: what is read together is read once.
    pub(super) fn claim(&self, key: Key, all: &[Key]) -> Claim<'_> {
        let mut state = self.state();
        loop {
            state.clock += 1;
            let now = state.clock;
            if let Some(Slot::Ready { cell, used }) = state.slots.get_mut(&key) {
                *used = now;
                return Claim::Ready(Arc::clone(cell));
            }
            if !all.iter().any(|key| matches!(state.slots.get(key), Some(Slot::Loading))) {
                let absent: Vec<Key> = all.iter().copied().filter(|key| !state.slots.contains_key(key)).collect();
                for key in &absent {
                    state.slots.insert(*key, Slot::Loading);
                }
                return Claim::Mine(Loading { cells: self, key, claimed: absent });
            }
            state = self.loaded.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A buffer of `len` bytes with any content.
    pub(super) fn buffer(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.state().spare.pop().unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    /// Lends buffers for reading a stream.
    pub(super) fn with_bench<T>(&self, work: impl FnOnce(&mut Bench) -> Result<T>) -> Result<T> {
        let mut bench = self.state().benches.pop().unwrap_or_default();
        let result = work(&mut bench);
        self.state().benches.push(bench);
        result
    }

    /// The one bench for long frames, of which virtnbdbackup makes some of 32 MiB: one at a time, and the
    /// last one is remembered for the blocks that follow.
    pub(super) fn long_bench(&self) -> MutexGuard<'_, Bench> {
        self.long.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts cells in, and lets the oldest go. Those that somebody else loads meanwhile are left to them.
    fn put(&self, cells: Vec<(Key, Vec<u8>)>) {
        let mut state = self.state();
        for (key, bytes) in cells {
            state.clock += 1;
            let used = state.clock;
            match state.slots.get(&key) {
                Some(Slot::Ready { .. }) => continue,
                Some(Slot::Loading) | None => {}
            }
            state.slots.insert(key, Slot::Ready { cell: Arc::new(bytes), used });
            state.ready += 1;
        }
        while state.ready > self.limit {
            let age = |slot: &Slot| match slot {
                Slot::Ready { used, .. } => *used,
                Slot::Loading => u64::MAX,
            };
            let oldest = state.slots.iter().min_by_key(|(_, slot)| age(slot)).map(|(key, _)| *key);
            let Some(Slot::Ready { cell, .. }) = oldest.and_then(|key| state.slots.remove(&key)) else { break };
            state.ready -= 1;
            if let (Ok(buffer), true) = (Arc::try_unwrap(cell), state.spare.len() < 8) {
                state.spare.push(buffer);
            }
        }
    }
}

/// The duty to load cells; dropped without them, the next thread tries.
pub(super) struct Loading<'c> {
    cells: &'c Cells,
    key: Key,
    claimed: Vec<Key>,
}

impl Loading<'_> {
    /// Fulfils it: `cell` and, if they came along, `others`.
    pub(super) fn done(self, cell: Vec<u8>, mut others: Vec<(Key, Vec<u8>)>) -> Option<Cell> {
        others.push((self.key, cell));
        self.cells.put(others);
        self.cells.get(self.key)
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let mut state = self.cells.state();
        for key in &self.claimed {
            if matches!(state.slots.get(key), Some(Slot::Loading)) {
                state.slots.remove(key);
            }
        }
        self.cells.loaded.notify_all();
    }
}
