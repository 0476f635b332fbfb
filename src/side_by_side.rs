//! Work on several things at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::error::{Error, Result};

/// What `work` makes of each of `items`, in their order. `most` of them are worked on at a time, one of them by this
/// thread; where the system gives fewer threads, fewer.
///
/// # Errors
/// [`Error::panicked`] where `work` did, once the others have ended.
pub fn map<T: Sync, R: Send>(items: &[T], most: usize, work: impl Fn(&T) -> R + Sync) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let ended = thread::scope(|scope| {
        let mut others = Vec::new();
        for _ in 1..items.len().min(most) {
            match thread::Builder::new().spawn_scoped(scope, work) {
                Ok(thread) => others.push(thread),
                Err(error) => {
                    tracing::warn!("fewer threads than asked for: {error}");
                    break;
                }
            }
        }
        // What it leaves half done is nothing that is looked at afterwards.
        let own = catch_unwind(AssertUnwindSafe(work));
        let ended: Vec<_> = [own].into_iter().chain(others.into_iter().map(|thread| thread.join())).collect();
        ended.into_iter().collect::<thread::Result<Vec<_>>>().map_err(|_| Error::panicked())
    })?;
    let mut done: Vec<(usize, R)> = ended.into_iter().flatten().collect();
    done.sort_unstable_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

/// How many threads compute at once without taking each other's time.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_keep_their_order_and_all_work_at_once() {
        let items: Vec<usize> = (0..100).collect();
        for most in [0, 1, 7, 1000] {
            assert_eq!(map(&items, most, |item| item * 2).unwrap(), (0..200).step_by(2).collect::<Vec<_>>());
        }
        assert!(map(&items[..0], 4, |item| *item).unwrap().is_empty());
        // Would hang, were they fewer.
        let barrier = Barrier::new(4);
        map(&items[..4], 4, |_| barrier.wait().is_leader()).unwrap();
    }

    #[test]
    fn a_panic_is_an_error() {
        let caller = thread::current().id();
        for fails_here in [true, false] {
            let barrier = Barrier::new(2);
            let failed = map(&[0, 1], 2, |_| {
                barrier.wait();
                assert_ne!(thread::current().id() == caller, fails_here);
            });
            assert!(failed.unwrap_err().to_string().contains("defect"));
        }
    }
}
