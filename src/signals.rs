//! INT, TERM and HUP: the first asks the work to stop and clean up, and gives it a few seconds; another
//! one ends it at once. One that comes right behind counts as the same: service managers and closed
//! terminals send two.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::exit::Exit;

/// Signals within this time are one.
const SAME: Duration = Duration::from_secs(1);
/// Time to clean up. A daemon, a QEMU or a file server that does not answer can hold up any call for
/// ever; what is not done by then is left to the next run, which finds it in the intent.
const CLEAN_UP: Duration = Duration::from_millis(4400);
/// Time for words, before that and after.
const WORDS: Duration = Duration::from_millis(200);

/// Whether a signal is the usual way to end what is done.
static SERVING: AtomicBool = AtomicBool::new(false);

/// From here on a signal is no interruption but the way to end: it sets the flag, and the end may take its
/// time. A second one ends the process all the same.
pub fn is_the_end() {
    SERVING.store(true, Ordering::SeqCst);
}

/// The first signal that came; 0 for none.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// The first signal that asked the process to end, if one did.
pub fn first() -> Option<i32> {
    Some(FIRST.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}

/// The status that the process ends with when its work ended with `result`.
pub fn status(result: &anyhow::Result<Exit>) -> Exit {
    match (result, first()) {
        (Ok(exit), _) => *exit,
        (Err(_), Some(signal)) => Exit::Signal(signal),
        (Err(error), None) => Exit::of(error),
    }
}

/// From here on a signal sets `cancel`; the process ends with 128+N when the work has ended, after a
/// second signal, or when cleaning up has lasted too long. Of a process whose messages another one relays, `is_relayed`,
/// that one says that it stops.
pub fn watch(cancel: &Cancel, is_relayed: bool) -> Result<()> {
    let mut wanted = vec![SIGINT, SIGTERM];
    if !is_hangup_ignored() {
        wanted.push(SIGHUP);
    }
    // A file that grows beyond `ulimit -f` is an error of that write, not the end of the process.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(|error| Error::io("set up signal handling", error))?;
    let mut signals = Signals::new(wanted).map_err(|error| Error::io("set up signal handling", error))?;
    let cancel = cancel.clone();
    start("signals", move || {
        let mut begin: Option<Instant> = None;
        for signal in signals.forever() {
            if begin.is_some_and(|begin| begin.elapsed() < SAME) {
                continue;
            }
            begin.get_or_insert_with(Instant::now);
            if FIRST.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                leave(signal);
            }
            if SERVING.load(Ordering::SeqCst) {
                say(|| tracing::info!("ending: what is in flight is answered first (again to leave at once)"));
                cancel.cancel();
                continue;
            }
            say(move || match is_relayed {
                // It is our parent that was interrupted, says so, and can be again.
                true => tracing::debug!("stopped: cleaning up"),
                false => tracing::warn!("interrupted: stopping and cleaning up (again to leave at once)"),
            });
            cancel.cancel();
            // Without the thread there is no limit; the second signal still works.
            let _ = start("deadline", move || {
                thread::sleep(CLEAN_UP);
                say(|| {
                    tracing::warn!(
                        "cleaning up takes too long, leaving: an unfinished backup is recorded and undone by the \
                         next run, an unfinished restore leaves .partial files"
                    );
                });
                leave(signal);
            });
        }
    })
}

/// Says something, in a thread of its own that is waited for a moment only: a terminal that was stopped, a pipe that
/// nobody reads or a log on a server that does not answer holds up who writes to it, and neither the end nor the next
/// signal is to wait for that.
fn say(message: impl FnOnce() + Send + 'static) {
    let (saying, said) = mpsc::channel::<()>();
    let speak = move || {
        message();
        drop(saying);
    };
    // Where there is no thread to be had nothing is said. The only answer is that the other end is gone.
    if start("said", speak).is_ok() {
        let _ = said.recv_timeout(WORDS);
    }
}

/// Whether the program was started to outlive its terminal, by `nohup`.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (SIGHUP - 1) & 1 == 1)
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(drop).map_err(|error| Error::io("start a thread", error))
}

/// Ends the process without the libraries' clean-up, which could wait for what does not answer.
fn leave(signal: i32) -> ! {
    low_level::exit(128 + signal)
}
