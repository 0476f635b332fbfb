//! The commands: arguments, a plan, the run, a summary.

mod backup;
mod bound;
mod chains;
pub mod complete;
mod config;
mod confined;
mod connect;
mod doctor;
pub mod dropin;
mod dump;
mod files;
mod foreign_raw;
mod generate;
pub(crate) mod guard;
mod hooks;
mod link;
mod many;
mod map;
mod minder;
mod print;
mod published;
mod restore;
mod status;
mod tpm;
mod verify;
mod watched;
mod whole;

use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::process::geteuid;

use crate::cancel::Cancel;
use crate::cli::Command;
use crate::exit::Exit;
use crate::stream::cache::Cache;
use crate::ui::log::Log;
use crate::ui::progress::Display;

/// What every command has: where it shows progress, where it talks, and the flag that ends it.
#[derive(Debug, Clone)]
pub struct Session {
    /// Progress.
    pub display: Display,
    /// Messages.
    pub log: Log,
    /// Set by a signal.
    pub cancel: Cancel,
    /// Where tables of virtnbdbackup's streams are kept; none where there is no place for them.
    pub cache: Option<Cache>,
}

/// The cache in `asked`, or where this user's is: nothing needs it.
pub fn cache(asked: Option<&Path>) -> Option<Cache> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || Some(of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")))?.join("virtkeep"));
    let usual = || {
        of("VIRTKEEP_CACHE_DIR").or_else(|| match geteuid().is_root() {
            true => Some(PathBuf::from("/var/cache/virtkeep")),
            false => home(),
        })
    };
    asked.map(Path::to_owned).or_else(usual).map(Cache::new)
}

/// Runs `command`.
///
/// # Errors
/// What ended it early; [`Exit::of`] has the status.
pub fn run(command: &Command, session: &Session) -> Result<Exit> {
    match command {
        Command::Backup(args) if many::is_asked(args) => many::run(args, session),
        Command::Backup(args) => watched::run(&many::section::of_only(args), session),
        Command::BackupOne(_) => many::one::run(session),
        Command::Restore(args) => restore::run(args, session),
        Command::Verify(args) => verify::run(args, session),
        Command::Dump(args) => dump::run(args, session),
        Command::Map(args) => map::run(args, session),
        Command::Unmap(args) => map::unmap::run(args, session),
        Command::Ls(args) => files::ls::run(args, session),
        Command::Cp(args) => files::cp::run(args, session),
        Command::Status(args) => status::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Config(args) => config::run(args),
        Command::Guard => guard::run(),
        Command::Manual(args) => generate::run(args),
        Command::BootGuard => map::boot::guard::run(),
        Command::Bound(args) => bound::run(args),
    }
}
