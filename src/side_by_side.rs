//! Work on several things at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::{Error, Result};
use crate::turnstile::Turnstile;

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

/// Does `work` on all of `parts`, with `threads` threads of which this is one, and gives what comes of it to `merge` in
/// the order of the parts. Each thread has a state of its own; none is ahead of the others by more than a part.
///
/// # Errors
/// The first of `merge`: what comes of later parts is lost. [`Error::panicked`] as of [`map`].
pub fn in_order<P: Send, S, R>(
    parts: impl Iterator<Item = P> + Send,
    threads: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, P) -> R + Sync,
    merge: impl FnMut(R) -> Result<()> + Send,
) -> Result<()> {
    let parts = Mutex::new(parts.zip(0..));
    let merged = Turnstile::new(merge);
    let one_thread = |(): &()| {
        // Of a thread that panics nobody waits for its part.
        let closer = merged.closer();
        let mut state = state();
        loop {
            let next = parts.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((part, number)) = next else { break };
            let done = work(&mut state, part);
            merged.pass(number..number + 1, |merge| merge(done))?;
        }
        closer.disarm();
        Ok(())
    };
    Error::first_of(map(&vec![(); threads.max(1)], threads, one_thread)?)
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
    fn parts_are_merged_in_their_order() {
        for threads in [0, 1, 2, 7] {
            let (mut merged, states) = (Vec::new(), AtomicUsize::new(0));
            let state = || states.fetch_add(1, Ordering::Relaxed);
            let work = |_: &mut usize, part: usize| {
                // Later ones are done first.
                thread::sleep(std::time::Duration::from_micros(if part % 3 == 0 { 300 } else { 0 }));
                part * 2
            };
            let merge = |done| {
                merged.push(done);
                Ok(())
            };
            in_order(0..100, threads, state, work, merge).unwrap();
            assert_eq!(merged, (0..200).step_by(2).collect::<Vec<_>>());
            assert_eq!(states.into_inner(), threads.max(1));
        }
    }

    #[test]
    fn the_first_error_in_order_ends_the_work() {
        let mut merged = Vec::new();
        let merge = |done: usize| {
            merged.push(done);
            if done >= 5 { Err(Error::corrupt(done.to_string())) } else { Ok(()) }
        };
        let failed = in_order(0.., 3, || (), |(), part| part, merge).unwrap_err();
        assert_eq!((failed.to_string().as_str(), merged), ("5", vec![0, 1, 2, 3, 4, 5]));
        let failed = in_order(0.., 3, || (), |(), part| assert!(part < 5), |()| Ok(())).unwrap_err();
        assert!(failed.to_string().contains("defect"), "{failed}");
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
