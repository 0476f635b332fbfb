//! Lets threads that finish in any order through in the order of their numbers.

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

    /// Waits until every number below `number` is through, then calls `action`.
    ///
    /// # Errors
    /// Those of `action`, and [`Cancelled`](crate::error::Kind::Cancelled) once it is closed.
    pub fn pass<R>(&self, number: u64, action: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        let mut state = self.lock();
        while state.next != number && !state.closed {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(Error::cancelled());
        }
        let result = action(&mut state.value);
        match &result {
            Ok(_) => state.next += 1,
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

    /// The value, after all threads are done with it.
    pub fn into_inner(self) -> T {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_pass_in_order() {
        let turnstile = Turnstile::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let turnstile = &turnstile;
                scope.spawn(move || {
                    for number in (0..400).filter(|number| (number * 7 % 4) == thread) {
                        turnstile
                            .pass(number, |seen| {
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
            let waiting = scope.spawn(|| turnstile.pass(1, |()| Ok(())));
            turnstile.pass(0, |()| Err::<(), _>(Error::corrupt("x"))).unwrap_err();
            assert!(waiting.join().unwrap().is_err());
        });
    }
}
