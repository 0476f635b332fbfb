//! A thread that watches a running job for the guest's sake: room for the scratch files, a guest that was
//! paused for want of it. It also ends the job when the run is interrupted: reads and writes that
//! hang hold up the copy, not this.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use uuid::Uuid;

use super::guest;
use super::scratch::Scratch;
use crate::cancel::Cancel;
use crate::commands::link::Link;
use crate::error::{self, Error, Kind, Result};
use crate::libvirt::backup_job;

/// Between two looks: a guest that writes 2 GB/s has a GiB of reserve.
const INTERVAL: Duration = Duration::from_millis(100);
/// The copy stops within moments and then ends the job itself, in order: QEMU 7.2 can hang in the end of
/// a server that still has clients. Only a copy that hangs does not come to it.
const GRACE: Duration = Duration::from_secs(1);
/// Every so many looks libvirt is asked for the guest's state; another host only then for its space: that is a
/// command there.
const STATE_EVERY: u32 = 10;

/// The watch over one job; ends when dropped.
#[derive(Debug)]
pub struct Watch {
    _end: Sender<()>,
    reason: Arc<Mutex<Option<Error>>>,
    ends_job: Arc<AtomicBool>,
}

struct Watcher {
    link: Link,
    run: Uuid,
    scratch: Scratch,
    cancel: Cancel,
    reason: Arc<Mutex<Option<Error>>>,
    ends_job: Arc<AtomicBool>,
    /// The guest was paused by a full disk before the job: that is not the job's doing.
    was_paused: bool,
}

impl Watch {
    /// Begins. What goes wrong sets `cancel`; a job that is still there a moment after that is ended.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn begin(link: &Link, run: Uuid, scratch: Scratch, was_paused: bool, cancel: &Cancel) -> Result<Self> {
        let (end, ended) = channel();
        let (reason, ends_job) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let watcher = Watcher {
            link: link.clone(),
            run,
            scratch,
            cancel: cancel.clone(),
            reason: Arc::clone(&reason),
            ends_job: Arc::clone(&ends_job),
            was_paused,
        };
        let thread = thread::Builder::new().name("watch".to_owned());
        let started = thread.spawn(move || {
            let mut looks = 0_u32;
            while !watcher.cancel.is_cancelled() && goes_on(&ended, INTERVAL) {
                watcher.look(looks);
                looks = looks.wrapping_add(1);
            }
            if watcher.cancel.is_cancelled() && goes_on(&ended, GRACE) {
                watcher.abort();
            }
        });
        started.map_err(|error| Error::io("start a thread", error))?;
        Ok(Self { _end: end, reason, ends_job })
    }

    /// Becomes true before the watch ends the job.
    pub fn ends_job(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ends_job)
    }

    /// Ends the watch; says why the job was given up, if it was.
    pub fn end(self) -> Option<Error> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Waits for `time`; false if the watch has ended by then.
fn goes_on(ended: &Receiver<()>, time: Duration) -> bool {
    ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
}

impl Watcher {
    /// Looks once; what is not in order stops the copy.
    fn look(&self, looks: u32) {
        let of_guest = looks % STATE_EVERY == 0;
        let space = if of_guest || !self.scratch.is_remote() { self.scratch.look() } else { Ok(()) };
        let result = space.and_then(|()| if of_guest { self.look_at_guest() } else { Ok(()) });
        if let Err(error) = result {
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            self.cancel.cancel();
        }
    }

    fn look_at_guest(&self) -> Result<()> {
        // A daemon that is away for a moment can't be asked: the next look is soon.
        let Ok(reached) = self.link.reach() else { return Ok(()) };
        if self.was_paused || !guest::is_paused_by_full_disk(&reached) {
            return Ok(());
        }
        Err(Error::new(Kind::Io, "the guest was paused: no space left for the job's scratch files or its image")
            .hint("free some space there, or name another directory with --scratchdir"))
    }

    fn abort(&self) {
        self.ends_job.store(true, Ordering::SeqCst);
        let result = self.link.reach().and_then(|reached| backup_job::abort(&reached, &self.run.to_string()));
        if let Err(error) = result {
            tracing::debug!("the watch could not end the job: {}", error::report(&error));
        }
    }
}
