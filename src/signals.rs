//! INT, TERM and HUP: the first asks the work to stop and clean up, another one ends it at once. One
//! that comes right behind counts as the same: service managers and closed terminals send two.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cancel::Cancel;
use crate::error::{Error, Result};

/// Signals within this time are one.
const SAME: Duration = Duration::from_secs(1);

/// Remembers which signal came.
#[derive(Debug, Clone, Default)]
pub struct Received(Arc<AtomicI32>);

impl Received {
    /// The first signal that came, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }
}

/// From here on a signal sets `cancel`; a second one ends the process with 128+N.
pub fn watch(cancel: &Cancel) -> Result<Received> {
    let received = Received::default();
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|error| Error::io("set up signal handling", error))?;
    let (first, cancel) = (received.clone(), cancel.clone());
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut begin: Option<Instant> = None;
            for signal in signals.forever() {
                if begin.is_some_and(|begin| begin.elapsed() < SAME) {
                    continue;
                }
                begin.get_or_insert_with(Instant::now);
                if first.0.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                    std::process::exit(128 + signal);
                }
                tracing::warn!("interrupted: stopping and cleaning up (again to leave at once)");
                cancel.cancel();
            }
        })
        .map_err(|error| Error::io("start a thread", error))?;
    Ok(received)
}
