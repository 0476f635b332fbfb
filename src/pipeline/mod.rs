//! Moving bytes: the work of one disk is cut into items ([`work`]) that threads take in order. Each
//! thread does all the steps of its item; what must come out in order waits its turn
//! ([`turnstile`]). Memory is bounded by one window per thread.
//!
//! ```text
//! extents -> work queue -> thread: read -> digest -> compress -> wait for the turn -> stream
//!                       -> thread: read -> digest -> compress -> wait for the turn -> stream
//! ```

pub mod backup;
pub mod restore;
pub mod turnstile;
pub mod work;

/// Told how far the work of a disk is. Calls come from several threads.
pub trait Progress: Send + Sync {
    /// `bytes` more of the guest's data are done.
    fn advance(&self, bytes: u64);
}

/// Progress that nobody looks at.
impl Progress for () {
    fn advance(&self, _bytes: u64) {}
}
