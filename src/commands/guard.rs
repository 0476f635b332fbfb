//! `virtkeep guard`, a process that a backup starts for itself: should the backup be killed while the guest
//! is frozen, paused or started for it, this lets the guest go again.
//!
//! What it is to undo it is told as [`minder`] says. A backup that lives but was stopped (Ctrl-Z, a debugger, a
//! hanging file server) while the guest stands still is not waited for longer than its time limit.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::link::Link;
use super::minder;
use crate::cli::Hypervisor;
use crate::error::{self, Error};
use crate::exit::Exit;
use crate::libvirt::agent;
use crate::libvirt::domain::{Domain, PauseReason, State};
use crate::set::intent::Held;
use crate::units;

/// The hidden command that it is.
pub const NAME: &str = "guard";
/// An agent that does not answer a thaw by then is asked again, and given up.
const THAW_TIMEOUT: Duration = Duration::from_secs(10);
/// A daemon that died together with the backup, or an agent that is busy, gets this long.
const PATIENCE: Duration = Duration::from_secs(120);

/// The first line: how the domain is reached. It holds a password, so it goes through the pipe alone.
#[derive(Debug, Serialize, Deserialize)]
pub struct Way {
    /// With the password itself.
    pub hypervisor: Hypervisor,
    /// The domain.
    pub domain: Uuid,
    /// The guest stands still no longer than this, in seconds.
    pub limit: u64,
}

/// The process.
///
/// # Errors
/// Where it can't guard: the backup then does not freeze.
pub fn run() -> Result<Exit> {
    let lines = minder::lines()?;
    let Some(way) = minder::first::<Way>(&lines)? else { return Ok(Exit::Done) };
    // Its connection is its own: the backup's login goes with the backup.
    let link = Link::open_without_files(&way.hypervisor, &way.domain.to_string())?;
    minder::say_ready()?;
    let held = follow(&link, &lines, Duration::from_secs(way.limit));
    if held != Held::default() {
        tracing::warn!("the backup of {} ended while it held the guest: letting it go", link.domain());
        persist(&link, held)?;
    }
    Ok(Exit::Done)
}

/// What is held when the backup is gone. A guest that stands still for longer than `limit` is let go before.
fn follow(link: &Link, lines: &Receiver<String>, limit: Duration) -> Held {
    let mut held = Held::default();
    loop {
        let stands_still = held.frozen || held.paused;
        let next = match stands_still {
            true => lines.recv_timeout(limit),
            false => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            // A line cut off by the writer's death says nothing new.
            Ok(line) => held = serde_json::from_str(&line).unwrap_or(held),
            Err(RecvTimeoutError::Disconnected) => return held,
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(
                    "the guest {} stood still for {} s: letting it go before the backup has begun",
                    link.domain(),
                    limit.as_secs()
                );
                let still = Held { started: false, ..held };
                match persist(link, still) {
                    // `started` is to be undone at the end all the same.
                    Ok(()) => held = Held { started: held.started, ..Held::default() },
                    Err(error) => tracing::warn!("{}", error::report(&error)),
                }
            }
        }
    }
}

/// Tries until it is done or the time is over: an agent may be busy with the very freeze.
fn persist(link: &Link, held: Held) -> error::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match link.reach().and_then(|reached| release(&reached, held)) {
            Err(error) if Instant::now() < deadline => {
                tracing::debug!("{}", error::report(&error));
                thread::sleep(Duration::from_secs(1));
            }
            other => return other,
        }
    }
}

/// Thaws, resumes and ends what `held` says, as far as it is still so.
///
/// # Errors
/// The first of those that kept a step from being done; the others are.
pub fn release(domain: &Domain, held: Held) -> error::Result<()> {
    let mut results = Vec::new();
    if held.paused {
        results.push(resume(domain));
    }
    if held.frozen {
        results.push(thaw(domain));
    }
    if held.started {
        results.push(end_started(domain));
    }
    Error::first_of(results)
}

fn thaw(domain: &Domain) -> error::Result<()> {
    if domain.state()? != State::Running {
        return Ok(());
    }
    let count = agent::thaw_within(domain, THAW_TIMEOUT)
        .map_err(|reason| Error::new(error::Kind::Io, format!("the guest may still be frozen: {reason}")))?;
    tracing::info!("thawed {} of {}", units::count(count, "filesystem"), domain.name());
    Ok(())
}

/// Resumes a domain that was paused for a backup; one that runs is left as it is.
///
/// # Errors
/// By libvirt's code.
pub fn resume(domain: &Domain) -> error::Result<()> {
    if domain.state()? == State::Paused(PauseReason::User) {
        domain.resume()?;
        tracing::debug!("resumed {}", domain.name());
    }
    Ok(())
}

/// Ends a domain that was started, paused, for a backup, if nobody has resumed it since.
///
/// # Errors
/// By libvirt's code.
pub fn end_started(domain: &Domain) -> error::Result<()> {
    match domain.state()? {
        // Paused for another reason it was resumed and met an error: its owner's business.
        State::Paused(PauseReason::User | PauseReason::StartingUp) => {
            domain.destroy()?;
            tracing::info!("ended {}, which was started for the backup", domain.name());
        }
        State::ShutOff => {}
        _ => tracing::info!("domain {} was resumed meanwhile and is left as it is", domain.name()),
    }
    Ok(())
}
