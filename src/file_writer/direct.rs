//! Writes around the page cache, in whole chunks, beside the threads whose bytes they are.
//!
//! What is written is copied into chunks ([`super::chunk`]); who fills one hands it to a thread that writes it
//! ([`super::both_ways`]), and goes on.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{Builder, JoinHandle};

use super::both_ways::BothWays;
use super::cached::Cached;
use super::chunk::{CHUNK, Chunk, Memory};

/// Threads that write, each one chunk at a time.
const WRITERS: usize = 2;

/// No chunk is begun while so many wait to be written or are being written.
const QUEUED: usize = 4;

/// Chunks that are not whole yet, at most. Few threads have one each, and there are some for what leaves gaps; where more
/// threads are at work the lowest chunks are written before they are whole. With [`QUEUED`] it bounds the memory: 11
/// chunks for a file.
const OPEN: usize = 8;

/// The direct way into a file.
#[derive(Debug)]
pub(super) struct Direct {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    ways: BothWays,
    state: Mutex<State>,
    /// Something was queued, or the file is closed: for the threads that write.
    queued: Condvar,
    /// Something was written, or a chunk is out of use: for all others.
    written: Condvar,
}

/// A chunk that bytes are copied into; none when it was handed over.
type Place = Arc<Mutex<Option<Chunk>>>;

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<u64, Place>,
    queue: VecDeque<Chunk>,
    /// Chunks that are being written.
    writing: usize,
    free: Vec<Memory>,
    failed: Option<io::Error>,
    closed: bool,
}

impl Direct {
    /// Writes pages of `page` bytes to `file`, which was opened with `O_DIRECT`, and the rest to the same file through
    /// `cached`.
    pub(super) fn new(file: File, page: usize, cached: Arc<Cached>) -> Self {
        let shared = Shared {
            ways: BothWays::new(file, page, cached),
            state: Mutex::default(),
            queued: Condvar::new(),
            written: Condvar::new(),
        };
        Self { shared: Arc::new(shared), threads: Mutex::default() }
    }

    /// Takes all of `slices`, one behind the other, for `position`.
    ///
    /// # Errors
    /// Of an earlier write.
    pub(super) fn write(&self, slices: &[IoSlice<'_>], mut position: u64) -> io::Result<()> {
        let mut slices = slices.iter();
        let mut rest: &[u8] = &[];
        loop {
            while rest.is_empty() {
                let Some(next) = slices.next() else { return Ok(()) };
                rest = next;
            }
            let number = position / CHUNK as u64;
            let place = self.place(number)?;
            let mut filling = place.lock().unwrap_or_else(PoisonError::into_inner);
            // Handed over before its lock was got: there will be another one.
            let Some(chunk) = filling.as_mut() else { continue };
            let mut offset = (position % CHUNK as u64) as usize;
            while offset < CHUNK && !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(CHUNK - offset));
                chunk.put(offset, now);
                offset += now.len();
                position += now.len() as u64;
                rest = if later.is_empty() { slices.next().map_or(later, |next| &**next) } else { later };
            }
            if chunk.is_full() {
                // Its lock is held until it is no longer to be found.
                let chunk = filling.take();
                self.hand_over(number, chunk);
            } else {
                drop(filling);
                self.let_go();
            }
        }
    }

    /// All that was taken is written when this returns, or an error.
    ///
    /// # Errors
    /// Of any write since the file was opened.
    pub(super) fn drain(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        while let Some(number) = state.open.keys().next().copied() {
            if !state.queue_up(number) {
                state = self.shared.wait(state);
            }
        }
        self.shared.queued.notify_all();
        state = self.shared.write_queued(state);
        while state.writing > 0 {
            state = self.shared.wait(state);
        }
        state.check()
    }

    /// Where bytes of chunk `number` go; waits while too much waits to be written.
    fn place(&self, number: u64) -> io::Result<Place> {
        let mut state = self.shared.lock();
        loop {
            state.check()?;
            if let Some(place) = state.open.get(&number) {
                return Ok(Arc::clone(place));
            }
            if state.queue.len() + state.writing >= QUEUED {
                state = self.shared.wait(state);
            } else if state.open.len() >= OPEN {
                // The lowest ones are those that nothing is added to any more: files are written nearly in order.
                let numbers: Vec<u64> = state.open.keys().copied().collect();
                state = if numbers.into_iter().any(|number| state.queue_up(number)) {
                    self.get_written(state)
                } else {
                    self.shared.wait(state)
                };
            } else {
                let memory = state.free.pop().unwrap_or_else(|| Memory::new(self.shared.ways.page()));
                let place: Place = Arc::new(Mutex::new(Some(Chunk::new(number, memory))));
                state.open.insert(number, Arc::clone(&place));
                return Ok(place);
            }
        }
    }

    /// Has a chunk written that is whole.
    fn hand_over(&self, number: u64, chunk: Option<Chunk>) {
        let mut state = self.shared.lock();
        state.open.remove(&number);
        state.queue.extend(chunk);
        drop(self.get_written(state));
    }

    /// Tells who waits for a chunk that it can be had.
    fn let_go(&self) {
        // Who saw it in use waits by now: that takes the lock.
        drop(self.shared.lock());
        self.shared.written.notify_all();
    }

    /// Sees to it that what was queued up is written.
    fn get_written<'s>(&'s self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        while threads.len() < WRITERS {
            let shared = Arc::clone(&self.shared);
            match Builder::new().name("write".to_owned()).spawn(move || shared.run()) {
                Ok(thread) => threads.push(thread),
                Err(_) => break,
            }
        }
        let nobody_writes = threads.is_empty();
        drop(threads);
        self.shared.queued.notify_all();
        // There may be room for another open chunk.
        self.shared.written.notify_all();
        if nobody_writes { self.shared.write_queued(state) } else { state }
    }
}

impl Drop for Direct {
    /// What was not drained is not written.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.queued.notify_all();
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A panic was told when it happened.
            let _ = thread.join();
        }
    }
}

impl State {
    /// The error of the first write that failed, again and again: whoever goes on is told.
    fn check(&self) -> io::Result<()> {
        match &self.failed {
            Some(error) => Err(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
            None => Ok(()),
        }
    }

    /// Moves an open chunk to what is to be written; false where somebody copies into it right now.
    fn queue_up(&mut self, number: u64) -> bool {
        let Some(place) = self.open.get(&number) else { return true };
        let chunk = match place.try_lock() {
            Ok(mut chunk) => chunk.take(),
            Err(TryLockError::Poisoned(chunk)) => chunk.into_inner().take(),
            Err(TryLockError::WouldBlock) => return false,
        };
        self.open.remove(&number);
        self.queue.extend(chunk);
        true
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something was written or is out of use.
    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.written.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all that is queued.
    fn write_queued<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        while let Some(chunk) = state.queue.pop_front() {
            state = self.write(state, chunk);
        }
        state
    }

    /// Writes what is handed over, until the file is closed.
    fn run(&self) {
        let mut state = self.lock();
        while !state.closed {
            state = match state.queue.pop_front() {
                Some(chunk) => self.write(state, chunk),
                None => self.queued.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Writes one chunk, the lock being let go meanwhile.
    fn write<'s>(&'s self, mut state: MutexGuard<'s, State>, chunk: Chunk) -> MutexGuard<'s, State> {
        let failed = state.failed.is_some();
        state.writing += 1;
        drop(state);
        // Where something is missing already nothing is of use. Others wait for this chunk, whatever happens.
        let put = AssertUnwindSafe(|| if failed { Ok(()) } else { self.ways.put(&chunk) });
        let written = catch_unwind(put).unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        let mut state = self.lock();
        state.writing -= 1;
        state.free.push(chunk.into_memory());
        if let Err(error) = written {
            state.failed.get_or_insert(error);
        }
        self.written.notify_all();
        state
    }
}
