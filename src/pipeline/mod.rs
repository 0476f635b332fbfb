//! Moving bytes: the work of one disk is cut into items ([`work`]) that threads take in order. Each
//! thread does all the steps of its items. Only their places in the stream are given in order
//! ([`crate::turnstile`]); a file is written at its places by all threads at once, a pipe in turn. Memory is bounded by one
//! window per thread, and by what [`crate::file_writer`] gathers.
//!
//! ```text
//! extents -> work queue -> thread: read, digest -> compress -> in turn: place, index -> write
//!                       -> thread: read, digest -> compress -> in turn: place, index -> write
//! ```

mod arrival;
pub mod backup;
pub mod pace;
pub mod restore;
pub mod work;
mod worker;
pub mod zeroes;

use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// What went wrong in the threads of a disk, in the order in which it did: later errors are often only
/// what the first one led to.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<Vec<Error>>);

impl Failures {
    /// Remembers a thread's error.
    fn note(&self, error: Error) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(error);
    }

    /// The first error that was no consequence of stopping.
    fn into_result(self) -> Result<()> {
        let errors = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        Error::first_of(errors.into_iter().map(Err))
    }
}

/// Told how far the work of a disk is. Calls come from several threads.
pub trait Progress: Send + Sync {
    /// `bytes` more of the guest's data are done.
    fn advance(&self, bytes: u64);
}

/// Progress that nobody looks at.
impl Progress for () {
    fn advance(&self, _bytes: u64) {}
}
