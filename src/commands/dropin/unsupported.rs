//! What virtnbdbackup has and virtkeep does not: each is refused here, by name, before anything is touched.

use super::void;
use crate::cli::dropin::backup::Options as Backup;
use crate::cli::dropin::restore::Options as Restore;
use crate::error::{Error, Result};

/// virtnbdbackup's plugins.
const PLUGINS: [&str; 3] = ["directory", "null", "zip"];

/// Refuses what a backup can't do.
///
/// # Errors
/// [`Unsupported`](crate::error::Kind::Unsupported), [`Usage`](crate::error::Kind::Usage).
pub fn check_backup(options: &Backup) -> Result<()> {
    check_target(options)
}

/// Refuses what a restore can't do.
///
/// # Errors
/// [`Unsupported`](crate::error::Kind::Unsupported), [`Usage`](crate::error::Kind::Usage).
pub fn check_restore(options: &Restore) -> Result<()> {
    match options.input_source.as_deref() {
        None | Some("directory" | "zip") => Ok(()),
        Some(other) => Err(unknown_plugin("Can't open input source", other)),
    }
}

fn check_target(options: &Backup) -> Result<()> {
    let to_stdout = options.output.as_os_str() == "-";
    match (options.output_target.as_deref(), to_stdout) {
        (None | Some("directory"), false) | (None | Some("zip"), true) => Ok(()),
        (Some("zip"), false) => Err(Error::usage("the plugin zip writes to stdout only").hint("add -o -")),
        (Some(void::TARGET), _) => Ok(()),
        (Some("directory"), true) => {
            Err(Error::usage("the plugin directory needs a directory").hint("-o names it; -o - is a zip archive"))
        }
        (Some(other), _) => Err(unknown_plugin("Can't open output file", other)),
    }
}

fn unknown_plugin(doing: &str, name: &str) -> Error {
    Error::usage(format!("{doing}: [Unknown output target plugin [{name}], available plugins: {}]", PLUGINS.join(", ")))
}
