//! The log files of the drop-in commands: where virtnbdbackup has them, and never part of what a manifest seals.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use super::backup::STDOUT;
use super::void::TARGET;
use crate::cli::dropin::{Dropin, Tool, VERSION};
use crate::commands::Session;
use crate::set::layout;

/// Opens the log file; and the way to syslog, where that is asked for. Without them the command works all the same.
pub fn open(dropin: &Dropin, session: &Session) {
    if let Some(path) = path(dropin) {
        match file(&path).and_then(|file| session.log.open_file(file)) {
            Ok(()) => {}
            // What is wrong with the directory of a backup is said by the backup.
            Err(error) => tracing::info!("there is no log file {}: {error}", path.display()),
        }
    }
    if matches!(dropin, Dropin::Backup(options) if options.syslog) {
        if let Err(error) = session.log.open_syslog() {
            tracing::info!("messages don't go to syslog: /dev/log: {error}");
        }
    }
}

/// Says what was started, and how.
pub fn version(words: &[std::ffi::OsString]) {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let at = "lib common - printVersion";
    tracing::info!(target: crate::phrases::CLASSIC, at, "Version: {VERSION} Arguments: {}", words.join(" "));
}

fn path(dropin: &Dropin) -> Option<PathBuf> {
    match dropin {
        Dropin::Backup(options) => {
            // Of a zip archive the log is one of its files.
            let is_directory = options.output.as_os_str() != STDOUT && options.output_target.as_deref() != Some(TARGET);
            let directory = Some(&options.output).filter(|_| is_directory)?;
            let time = jiff::Zoned::now().strftime("%m%d%Y%H%M%S").to_string();
            Some(directory.join(format!("backup.{}.{time}.log", options.level.name())))
        }
        Dropin::Restore(options) => options.logfile.clone().or_else(|| in_home(Tool::Restore)),
        Dropin::Map(options) => options.logfile.clone().or_else(|| in_home(Tool::Map)),
    }
}

fn in_home(tool: Tool) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty())?;
    Some(Path::new(&home).join(format!("{}.log", tool.name())))
}

fn file(path: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(layout::parent(path))?;
    OpenOptions::new().create(true).append(true).open(path)
}
