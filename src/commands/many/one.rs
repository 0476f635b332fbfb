//! `virtkeep backup-one`, the process of one domain among several: options on standard input, what came of
//! it on standard output.

use std::io::{BufRead, Read, Write};
use std::thread;

use anyhow::Result;
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use crate::cli::backup::Backup;
use crate::commands::{Session, backup};
use crate::error::Error;
use crate::exit::Exit;
use crate::set::Level;

/// Begin of the line on standard output that holds a [`Report`]; all others are data.
pub const REPORT: &str = "virtkeep-report: ";

/// What came of a run that is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its level.
    pub level: Level,
    /// Guest bytes in its streams.
    pub data_size: u64,
    /// Size of its data files.
    pub stored_size: u64,
}

/// The process. It ends, and undoes its run, as by SIGTERM when its standard input ends: that is how its
/// parent stops it, and what happens when that dies.
///
/// # Errors
/// Of the backup.
pub fn run(session: &Session) -> Result<Exit> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| Error::io("read the options", error))?;
    let args: Backup = serde_json::from_str(&line)
        .map_err(|error| Error::usage("this command is for virtkeep's own use").caused_by(error))?;
    let watch = thread::Builder::new().name("parent".to_owned()).spawn(stop_with_parent);
    watch.map_err(|error| Error::io("start a thread", error))?;
    let mut report = None;
    let result = backup::run(&args, session, &mut |outcome| {
        let disks = &outcome.manifest.disks;
        report = Some(Report {
            level: outcome.manifest.level,
            data_size: disks.iter().map(|disk| disk.data_size).sum(),
            stored_size: disks.iter().map(|disk| disk.stored_size).sum(),
        });
    });
    if let Some(text) = report.and_then(|report| serde_json::to_string(&report).ok()) {
        // Nobody may be there to read it: the run is committed all the same.
        let _ = writeln!(std::io::stdout().lock(), "{REPORT}{text}");
    }
    result
}

fn stop_with_parent() {
    // Nothing more is sent; an error is an end, too.
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    if let Err(error) = kill_process(getpid(), Signal::TERM) {
        tracing::debug!("cannot stop: {error}");
    }
}
