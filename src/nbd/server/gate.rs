//! Turns of clients at work that takes a processor (hashing, decompressing): as many at a time as there
//! are processors, and client after client, however many requests one of them has waiting.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The gate; shared by all clients.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Tickets of those who wait, by client.
    waiting: BTreeMap<u64, VecDeque<u64>>,
    /// Tickets that may go.
    called: HashSet<u64>,
    next_ticket: u64,
    /// The client called last.
    last: u64,
}

impl Gate {
    /// A gate for `places` at a time, at least one.
    pub fn new(places: usize) -> Self {
        let state =
            State { free: places.max(1), waiting: BTreeMap::new(), called: HashSet::new(), next_ticket: 0, last: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place for `client`.
    fn enter(&self, client: u64) -> Pass<'_> {
        let mut state = self.state();
        if state.free > 0 {
            // A free place means that nobody waits.
            state.free -= 1;
            return Pass(self);
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.entry(client).or_default().push_back(ticket);
        while !state.called.remove(&ticket) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Pass(self)
    }

    /// Gives a place to the next client, or makes it free.
    fn leave(&self) {
        let mut state = self.state();
        let next = state.waiting.range(state.last + 1..).next().or_else(|| state.waiting.iter().next());
        let Some(client) = next.map(|(client, _)| *client) else {
            state.free += 1;
            return;
        };
        state.last = client;
        let tickets = state.waiting.get_mut(&client);
        let (ticket, is_last) = tickets.map_or((None, true), |tickets| (tickets.pop_front(), tickets.is_empty()));
        if is_last {
            state.waiting.remove(&client);
        }
        match ticket {
            Some(ticket) => {
                state.called.insert(ticket);
                self.changed.notify_all();
            }
            None => state.free += 1,
        }
    }
}

/// A client's right to ask for a place.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'g> {
    gate: &'g Gate,
    client: u64,
}

impl<'g> Turn<'g> {
    /// The right of `client`.
    pub fn new(gate: &'g Gate, client: u64) -> Self {
        Self { gate, client }
    }

    /// Waits for a place. Hold it for work only, never while waiting for another.
    pub fn take(&self) -> Pass<'g> {
        self.gate.enter(self.client)
    }
}

/// A place; free again when dropped.
#[derive(Debug)]
pub struct Pass<'g>(&'g Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// How many wait.
    fn waiting(gate: &Gate) -> usize {
        gate.state().waiting.values().map(VecDeque::len).sum()
    }

    #[test]
    fn a_client_with_one_request_goes_before_the_many_of_another() {
        let gate = Gate::new(1);
        let first = gate.enter(1);
        let (sender, order) = mpsc::channel();
        thread::scope(|scope| {
            for (number, client) in [1, 1, 1, 1, 2].into_iter().enumerate() {
                let (gate, sender) = (&gate, sender.clone());
                scope.spawn(move || {
                    let pass = gate.enter(client);
                    sender.send(client).unwrap();
                    drop(pass);
                });
                while waiting(gate) <= number {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        drop(sender);
        // Client 1 was not served through the queue yet, so it may be called once before.
        let order: Vec<u64> = order.iter().collect();
        assert!(order[..2].contains(&2), "{order:?}");
        assert_eq!(order.len(), 5);
        assert_eq!(gate.state().free, 1);
    }
}
