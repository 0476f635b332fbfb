//! A process of this program that a command starts for itself, to undo what the command has under way should that
//! be killed. Both sides of what the two say to each other.
//!
//! The command writes lines of JSON to the process' standard input: first how things are reached, then what there is
//! to undo whenever that changes. The process answers once, when it is ready, and acts when its input ends: at a
//! pipe's end it makes no difference how the writer died.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::child::end_within;
use crate::error::{Error, Kind, Result};

/// What the process says when it is ready.
const READY: &str = "ready";
/// How long the end of the command waits for the process'.
const GOODBYE: Duration = Duration::from_secs(5);

/// The command's side. Dropped, the process does what it was told last, and ends.
#[derive(Debug)]
pub struct Minder {
    child: Child,
    /// None only while dropping.
    pipe: Option<ChildStdin>,
}

impl Minder {
    /// Starts `virtkeep COMMAND`, tells it `first` and waits until it is ready. A `silent` one does not hold the
    /// terminal.
    ///
    /// # Errors
    /// Where it can't be started or does not become ready; it has said why.
    pub fn start(command: &str, first: &impl Serialize, silent: bool) -> Result<Self> {
        // The link is good even where the program was replaced since it was started.
        let mut process = Command::new("/proc/self/exe");
        process.arg0("virtkeep").arg(command).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        if silent {
            process.stderr(Stdio::null());
        }
        let mut child = process.spawn().map_err(|error| Error::io("start the guard", error))?;
        let (pipe, answers) = (child.stdin.take(), child.stdout.take());
        let mut minder = Self { child, pipe };
        minder.tell(first)?;
        let mut answer = String::new();
        let read = answers.map(|pipe| BufReader::new(pipe).read_line(&mut answer));
        match read {
            Some(Ok(_)) if answer.trim_end() == READY => Ok(minder),
            _ => Err(Error::new(Kind::Io, "the guard did not start")),
        }
    }

    /// Says what to undo from now on: before it is done, and after it has been undone.
    ///
    /// # Errors
    /// [`Kind::Io`] if the process is gone.
    pub fn tell(&mut self, message: &impl Serialize) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("tell the guard", error);
        let mut line = serde_json::to_vec(message).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        // A child without the pipe that was asked for does not happen.
        self.pipe.as_mut().map_or(Ok(()), |pipe| pipe.write_all(&line)).map_err(failed)
    }
}

impl Drop for Minder {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // One with nothing to do ends at once. One that still tries is left to itself: it says on stderr how that
        // ends.
        let _ = end_within(&mut self.child, GOODBYE);
    }
}

/// The process' side: the lines that it is told, up to the end of the command. They can't be waited for with a time
/// limit but by a thread.
///
/// # Errors
/// Where signals can't be kept away: they are for the command, and reach us at a terminal's or a service's end.
pub fn lines() -> Result<Receiver<String>> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))
            .map_err(|error| Error::io("set up signal handling", error))?;
    }
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    Ok(receive)
}

/// The first line; none where the command ended without a word.
///
/// # Errors
/// [`Kind::Usage`] where somebody else has started the process.
pub fn first<T: DeserializeOwned>(lines: &Receiver<String>) -> Result<Option<T>> {
    let Ok(line) = lines.recv() else { return Ok(None) };
    let bad = |error| Error::usage("this command is for virtkeep's own use").caused_by(error);
    serde_json::from_str(&line).map(Some).map_err(bad)
}

/// Tells the command that the process is ready.
///
/// # Errors
/// [`Kind::Io`]: nobody is there to be told.
pub fn say_ready() -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}").and_then(|()| out.flush()).map_err(|error| Error::io("write to stdout", error))
}
