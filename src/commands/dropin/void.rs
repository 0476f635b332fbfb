//! `--output-target null`: the disks are read, and what was read is thrown away. Nothing could ever build on
//! that, so it is a copy, whatever level is asked for, and leaves no checkpoint and no record.

use std::fs::File;

use rustix::pipe::pipe;
use tempfile::TempDir;

use super::backup::STDOUT;
use crate::cli::backup::{Backup, LevelArg};
use crate::error::{Error, Result};
use crate::phrases::CLASSIC;

/// The name of the target.
pub const TARGET: &str = "null";

/// Has the backup written to nowhere: to standard output, as a zip file, which is a pipe that is emptied. What is
/// returned holds the run's records until it is dropped.
///
/// # Errors
/// [`Kind::Io`](crate::error::Kind::Io).
pub fn redirect(args: &mut Backup) -> Result<TempDir> {
    let failed = |error: rustix::io::Errno| Error::io("make a pipe", std::io::Error::from(error));
    let records = tempfile::Builder::new().prefix("virtkeep-void-").tempdir();
    let records = records.map_err(|error| Error::io("create a temporary directory", error))?;
    let (read, write) = pipe().map_err(failed)?;
    rustix::stdio::dup2_stdout(&write).map_err(failed)?;
    let drain = move || {
        // Its end is the run's.
        let _ = std::io::copy(&mut File::from(read), &mut std::io::sink());
    };
    std::thread::Builder::new()
        .name("void".to_owned())
        .spawn(drain)
        .map_err(|error| Error::io("start a thread", error))?;
    tracing::info!(target: CLASSIC, at = "Null null - open", "Will write data to the void ..");
    if args.level != LevelArg::Copy {
        tracing::warn!("nothing can build on data that is thrown away: this is a copy, and makes no checkpoint");
        args.level = LevelArg::Copy;
    }
    args.output = STDOUT.into();
    args.state_dir = Some(records.path().to_owned());
    args.classic.own_log = false;
    Ok(records)
}
