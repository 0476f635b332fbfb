//! `--detach`: the map goes on in a process of its own, which is told by this variable. It is started
//! anew: a process with threads can't be forked.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::Result;
use rustix::process::setsid;
use rustix::stdio::{dup2_stderr, dup2_stdout};

use crate::cli::map::Map;
use crate::error::Error;
use crate::exit::Exit;

const VARIABLE: &str = "VIRTKEEP_DETACHED";
/// The line by which the process says that it serves.
const READY: &str = "ready";

/// Whether this is that process.
pub fn is_child() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Starts it, hands on what it says until it serves, and leaves.
pub fn start() -> Result<Exit> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut child = Command::new("/proc/self/exe")
        .arg0("virtkeep")
        .args(arguments)
        .env(VARIABLE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| Error::io("start the map", error))?;
    let mut out = std::io::stdout().lock();
    let failed = |error| Error::io("write to stdout", error);
    if let Some(said) = child.stdout.take() {
        for line in BufReader::new(said).lines() {
            let line = line.map_err(|error| Error::io("hear of the map", error))?;
            if line == READY {
                out.flush().map_err(failed)?;
                return Ok(Exit::Done);
            }
            writeln!(out, "{line}").map_err(failed)?;
        }
    }
    // It has said on stderr why.
    let status = child.wait().map_err(|error| Error::io("wait for the map", error))?;
    Ok(status.code().map_or(Exit::Failed, Exit::Passed))
}

/// Tells the process that waits that clients are served, and lets go of its terminal. From here on
/// messages are seen in `--log-file` only.
pub fn ready(args: &Map) -> Result<()> {
    if !args.detach {
        return Ok(());
    }
    let failed = |error: rustix::io::Errno| Error::io("leave the terminal", error);
    // Fails for the leader of a group, which has no terminal to lose.
    let _ = setsid();
    let nowhere = File::options().write(true).open("/dev/null").map_err(|error| Error::io("open /dev/null", error))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}").and_then(|()| out.flush()).map_err(|error| Error::io("write to stdout", error))?;
    dup2_stdout(&nowhere).map_err(failed)?;
    dup2_stderr(&nowhere).map_err(failed)?;
    Ok(())
}
