//! Places in a run at which a test makes it fail, die or stand still. Builds without debug assertions
//! have none of this: [`point`] is an empty function there.
//!
//! `VIRTKEEP_FAULT=PLACE=WHAT` acts at the first pass of `PLACE`:
//!
//! | what | effect |
//! |---|---|
//! | `error` | the step fails with an I/O error |
//! | `kill` | the process ends as by `kill -9` |
//! | `stop` | the process stops as by `kill -STOP`, until the test continues it |

use crate::error::Result;

/// Names the place of a possible fault.
///
/// # Errors
/// The one that a test asked for.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_place: &str) -> Result<()> {
    Ok(())
}

/// Names the place of a possible fault.
///
/// # Errors
/// The one that a test asked for.
#[cfg(debug_assertions)]
pub fn point(place: &str) -> Result<()> {
    active::point(place)
}

#[cfg(debug_assertions)]
mod active {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use crate::error::{Error, Kind, Result};

    static ASKED: LazyLock<Option<(String, String)>> = LazyLock::new(|| {
        let text = std::env::var("VIRTKEEP_FAULT").ok()?;
        let (place, what) = text.split_once('=')?;
        Some((place.to_owned(), what.to_owned()))
    });
    static DONE: AtomicBool = AtomicBool::new(false);

    pub(super) fn point(place: &str) -> Result<()> {
        tracing::trace!("at {place}");
        let Some((_, what)) = ASKED.as_ref().filter(|(asked, _)| asked == place) else { return Ok(()) };
        if DONE.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let signal = match what.as_str() {
            "kill" => Signal::KILL,
            "stop" => Signal::STOP,
            _ => return Err(Error::new(Kind::Io, format!("a fault at {place}, as asked for"))),
        };
        kill_process(getpid(), signal).map_err(|error| Error::io("signal myself", error))
    }
}
