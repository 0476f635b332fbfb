//! The loop that keeps commands running on a connection and never waits without an eye on the cancel
//! flag and the clock.

use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::nbd::command::Command;
use crate::nbd::sys::Batch;

/// Longest wait between two looks at the cancel flag.
pub(super) const SLICE: Duration = Duration::from_millis(100);

/// A command on its way.
struct Running {
    cookie: u64,
    verb: &'static str,
    offset: Option<u64>,
}

impl Running {
    fn place(&self, cause: Error) -> Error {
        let error = Error::new(cause.kind(), self.verb).caused_by(cause);
        match self.offset {
            Some(offset) => error.at(offset),
            None => error,
        }
    }
}

/// Runs the commands, up to `in_flight` at once, until all have completed or one failed, the flag was
/// set, or none completed for as long as `patience`.
pub(super) fn drive<'b>(
    batch: &mut Batch<'b>,
    mut commands: impl Iterator<Item = Command<'b>>,
    in_flight: usize,
    patience: Duration,
    cancel: &Cancel,
) -> Result<()> {
    let mut running: Vec<Running> = Vec::new();
    let mut deadline = Instant::now() + patience;
    loop {
        cancel.check()?;
        while running.len() < in_flight {
            let Some(command) = commands.next() else { break };
            let mut started = Running { cookie: 0, verb: command.verb(), offset: command.offset() };
            started.cookie = batch.submit(command).map_err(|error| started.place(error))?;
            running.push(started);
        }
        let Some(oldest) = running.first() else { return Ok(()) };
        if let Some((cookie, outcome)) = batch.completed() {
            let index = running.iter().position(|command| command.cookie == cookie);
            let ended = running.remove(index.ok_or_else(|| Error::new(Kind::Protocol, "unknown NBD command ended"))?);
            outcome.map_err(|error| ended.place(error))?;
            deadline = Instant::now() + patience;
        } else if Instant::now() >= deadline {
            let stalled = format!("no answer from the NBD server in {} seconds", patience.as_secs());
            return Err(oldest.place(Error::new(Kind::Io, stalled)));
        } else {
            batch.poll(SLICE).map_err(|error| oldest.place(error))?;
        }
    }
}
