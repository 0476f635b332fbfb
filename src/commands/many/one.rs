//! `virtkeep backup-one`, the process of one domain among several: options on standard input, what came of
//! it on standard output.

use std::io::{BufRead, Read, Write};
use std::thread;

use anyhow::Result;
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use crate::cli::backup::Backup;
use crate::commands::{Session, watched};
use crate::error::Error;
use crate::exit::Exit;
use crate::set::Level;
use crate::ui::progress::Display;

/// Begin of the line on standard output that holds a [`Report`]; all others are data.
pub const REPORT: &str = "virtkeep-report: ";

/// Begin of the line that holds a [`Record`](watched::Record) of the run, also of one that failed.
pub const RECORD: &str = "virtkeep-record: ";

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

impl Report {
    /// None of a run that is not committed.
    fn of(record: &watched::Record) -> Option<Self> {
        let level = record.level.filter(|_| record.is_committed())?;
        Some(Self {
            level,
            data_size: record.disks.iter().map(|disk| disk.data_bytes).sum(),
            stored_size: record.disks.iter().map(|disk| disk.stored_bytes).sum(),
        })
    }
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
    let display = if args.many.tells { Display::told() } else { session.display.clone() };
    let session = Session { display, ..session.clone() };
    let (record, result) = watched::domain(&args, &session, &mut |_, _| true);
    // Nobody may be there to read it: what is committed is that all the same.
    if let Ok(text) = serde_json::to_string(&record) {
        let _ = writeln!(std::io::stdout().lock(), "{RECORD}{text}");
    }
    if let Some(Ok(text)) = Report::of(&record).map(|report| serde_json::to_string(&report)) {
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
