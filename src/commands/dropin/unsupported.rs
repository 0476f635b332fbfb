//! What virtnbdbackup has and virtkeep does not: each is refused here, by name, before anything is touched.

use crate::cli::dropin::Tool;
use crate::cli::dropin::backup::{Kind as OutputKind, Level, Options as Backup};
use crate::cli::dropin::restore::Options as Restore;
use crate::error::{Error, Result};

/// virtnbdbackup's plugins.
const PLUGINS: [&str; 3] = ["directory", "null", "zip"];

/// Refuses what a backup can't do.
///
/// # Errors
/// [`Unsupported`](crate::error::Kind::Unsupported), [`Usage`](crate::error::Kind::Usage).
pub fn check_backup(options: &Backup) -> Result<()> {
    check_target(options)?;
    check_type(options)?;
    check_raw(options)
}

/// Refuses what a restore can't do.
///
/// # Errors
/// [`Unsupported`](crate::error::Kind::Unsupported), [`Usage`](crate::error::Kind::Usage).
pub fn check_restore(options: &Restore) -> Result<()> {
    match options.input_source.as_deref() {
        None | Some("directory" | "zip") => {}
        Some(other) => return Err(unknown_plugin("Can't open input source", other)),
    }
    match &options.relocate_data_file {
        Some(_) => Err(missing("--relocate-data-file: put data files of qcow2 images elsewhere")),
        None => Ok(()),
    }
}

/// Refuses virtnbdmap.
pub fn map(tool: Tool) -> Error {
    missing(&format!("{}: map a backup to a block device", tool.name()))
        .hint("`virtkeep map -f FULL,INC,...` does it, under its own options")
}

/// Refuses to restore a raw disk, whose image is `file`.
pub fn raw_image(file: &str) -> Error {
    missing(&format!("-r: restore {file}, the image of a raw disk"))
        .hint("it is the disk as it was: copy it with cp --sparse=always, and restore the others without -r")
}

fn check_target(options: &Backup) -> Result<()> {
    let to_stdout = options.output.as_os_str() == "-";
    match (options.output_target.as_deref(), to_stdout) {
        (None | Some("directory"), false) | (None | Some("zip"), true) => Ok(()),
        (Some("zip"), false) => Err(Error::usage("the plugin zip writes to stdout only").hint("add -o -")),
        (Some("null"), _) => Err(missing("--output-target null: read the disks and throw the data away")),
        (Some("directory"), true) => {
            Err(Error::usage("the plugin directory needs a directory").hint("-o names it; -o - is a zip archive"))
        }
        (Some(other), _) => Err(unknown_plugin("Can't open output file", other)),
    }
}

fn check_type(options: &Backup) -> Result<()> {
    match (options.kind, options.level) {
        (OutputKind::Stream, _) => Ok(()),
        (OutputKind::Raw, Level::Inc | Level::Diff) => {
            Err(Error::usage("Stream format raw does not support incremental or differential backup."))
        }
        (OutputKind::Raw, _) => {
            Err(missing("-t raw: write raw images")
                .hint("`virtkeep restore --raw` makes one of a backup of type stream"))
        }
    }
}

fn check_raw(options: &Backup) -> Result<()> {
    match options.raw {
        true => Err(missing("-r: back up raw disks").hint("without -r they are left out, with a warning")),
        false => Ok(()),
    }
}

fn missing(what: &str) -> Error {
    Error::unsupported(format!("virtkeep can't do this yet: {what}"))
}

fn unknown_plugin(doing: &str, name: &str) -> Error {
    Error::usage(format!("{doing}: [Unknown output target plugin [{name}], available plugins: {}]", PLUGINS.join(", ")))
}
