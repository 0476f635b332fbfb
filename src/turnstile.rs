//! Lets threads that finish in any order through in the order of their numbers.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Guards a value that must be used in the order 0, 1, 2, …. The first error closes it for all.
#[derive(Debug)]
pub struct Turnstile<T> {
    state: Mutex<State<T>>,
    moved: Condvar,
}

#[derive(Debug)]
struct State<T> {
    next: u64,
    closed: bool,
    value: T,
}

impl<T> Turnstile<T> {
    /// A turnstile that waits for number 0.
    pub fn new(value: T) -> Self {
        Self { state: Mutex::new(State { next: 0, closed: false, value }), moved: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A thread that panicked while it held the value ends the run through its join handle.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every number below `numbers` is through, then calls `action` for all of them.
    ///
    /// # Errors
    /// Those of `action`, and [`Cancelled`](crate::error::Kind::Cancelled) once it is closed.
    pub fn pass<R>(&self, numbers: Range<u64>, action: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        let mut state = self.lock();
        while state.next != numbers.start && !state.closed {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(Error::cancelled());
        }
        let result = action(&mut state.value);
        match &result {
            Ok(_) => state.next = numbers.end,
            Err(_) => state.closed = true,
        }
        drop(state);
        self.moved.notify_all();
        result
    }

    /// Ends it for everyone who waits or comes: a number will never be through.
    pub fn close(&self) {
        self.lock().closed = true;
        self.moved.notify_all();
    }

    /// Closes it when dropped, by a panic too: a thread holds this while others may wait for its
    /// number. [`Closer::disarm`] ends that.
    pub fn closer(&self) -> Closer<'_, T> {
        Closer { turnstile: Some(self) }
    }

    /// The value, after all threads are done with it.
    pub fn into_inner(self) -> T {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).value
    }
}

/// See [`Turnstile::closer`].
#[derive(Debug)]
pub struct Closer<'t, T> {
    turnstile: Option<&'t Turnstile<T>>,
}

impl<T> Closer<'_, T> {
    /// The thread passed with all its numbers.
    pub fn disarm(mut self) {
        self.turnstile = None;
    }
}

impl<T> Drop for Closer<'_, T> {
    fn drop(&mut self) {
        if let Some(turnstile) = self.turnstile {
            turnstile.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_lets_nobody_wait_for_ever() {
        let turnstile = Turnstile::new(());
        std::thread::scope(|scope| {
            let panics = scope.spawn(|| {
                let _closer = turnstile.closer();
                panic!("before its number is through");
            });
            let waits = scope.spawn(|| turnstile.pass(1..2, |()| Ok(())));
            assert!(panics.join().is_err());
            assert_eq!(waits.join().unwrap().unwrap_err().kind(), crate::error::Kind::Cancelled);
        });
    }

    #[test]
    fn numbers_pass_in_order() {
        let turnstile = Turnstile::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let turnstile = &turnstile;
                scope.spawn(move || {
                    for number in (0..400).filter(|number| (number * 7 % 4) == thread) {
                        turnstile
                            .pass(3 * number..3 * number + 3, |seen| {
                                seen.push(number);
                                Ok(())
                            })
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(turnstile.into_inner(), (0..400).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_wakes_those_who_wait() {
        let turnstile = Turnstile::new(());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turnstile.pass(1..2, |()| Ok(())));
            turnstile.pass(0..1, |()| Err::<(), _>(Error::corrupt("x"))).unwrap_err();
            assert!(waiting.join().unwrap().is_err());
        });
    }
}
