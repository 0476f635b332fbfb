//! The loop that keeps commands running on a connection and never waits without an eye on the cancel
//! flag and the clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::nbd::command::Command;
use crate::nbd::sys::Batch;

/// Longest wait between two looks at the cancel flag.
pub(super) const SLICE: Duration = Duration::from_millis(100);

/// A command on its way, or one that waits for those before it.
struct Running<'b> {
    cookie: u64,
    verb: &'static str,
    offset: Option<u64>,
    has_ended: bool,
    filled: Option<&'b mut [u8]>,
}

/// Gets what was read, in the order in which it was asked for: where it was and the bytes.
pub(super) type Filled<'f, 'b> = dyn FnMut(u64, &'b [u8]) -> Result<()> + 'f;

impl Running<'_> {
    fn place(&self, cause: Error) -> Error {
        let error = Error::new(cause.kind(), self.verb).caused_by(cause);
        match self.offset {
            Some(offset) => error.at(offset),
            None => error,
        }
    }
}

/// Runs the commands, up to `in_flight` at once, until all have completed or one failed, the flag was
/// set, or none completed for as long as `patience`. What reads bring goes to `filled` as soon as it and all before
/// it is there; more requests are on their way then.
pub(super) fn drive<'b>(
    batch: &mut Batch<'b>,
    mut commands: impl Iterator<Item = Command<'b>>,
    in_flight: usize,
    patience: Duration,
    cancel: &Cancel,
    filled: &mut Filled<'_, 'b>,
) -> Result<()> {
    let mut running: VecDeque<Running<'b>> = VecDeque::new();
    let mut left = 0;
    let mut deadline = Instant::now() + patience;
    loop {
        cancel.check()?;
        // What waits for an earlier one takes no place, but there is an end to that.
        while left < in_flight && running.len() < 2 * in_flight {
            let Some(command) = commands.next() else { break };
            let (verb, offset) = (command.verb(), command.offset());
            let mut started = Running { cookie: 0, verb, offset, has_ended: false, filled: None };
            started.cookie = batch.submit(command).map_err(|error| started.place(error))?;
            running.push_back(started);
            left += 1;
        }
        let Some(oldest) = running.front() else { return Ok(()) };
        if oldest.has_ended {
            if let Some(Running { offset: Some(offset), filled: Some(bytes), .. }) = running.pop_front() {
                filled(offset, bytes)?;
            }
            continue;
        }
        if let Some(ended) = batch.completed() {
            left -= 1;
            let command = running.iter_mut().find(|command| command.cookie == ended.cookie);
            let command = command.ok_or_else(|| Error::new(Kind::Protocol, "unknown NBD command ended"))?;
            command.has_ended = true;
            command.filled = ended.buffer;
            ended.outcome.map_err(|error| command.place(error))?;
            deadline = Instant::now() + patience;
        } else if Instant::now() >= deadline {
            let stalled = format!("no answer from the NBD server in {} seconds", patience.as_secs());
            return Err(oldest.place(Error::new(Kind::Io, stalled)));
        } else {
            batch.poll(SLICE).map_err(|error| oldest.place(error))?;
        }
    }
}
