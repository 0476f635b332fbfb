//! `virtkeep bound`, by which this program starts a tool that must not outlive it: it asks the kernel to be
//! killed with its parent, and becomes the tool.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Result;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::cli::Bound;
use crate::error::Error;
use crate::exit::Exit;

/// Becomes the program.
///
/// # Errors
/// Where there is no such program. If the parent has died already it ends at once.
pub fn run(args: &Bound) -> Result<Exit> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| Error::io("be bound to the parent", error))?;
    if getppid() != Pid::from_raw(args.parent) {
        return Ok(Exit::Failed);
    }
    let Some((program, arguments)) = args.command.split_first() else { return Ok(Exit::Usage) };
    let error = Command::new(program).args(arguments).exec();
    Err(Error::io(&format!("start {}", program.to_string_lossy()), error).into())
}
