//! The drop-in commands: virtnbdbackup's options, translated into virtkeep's own, for the same engine.

mod backup;
mod dump;
mod log;
mod map;
mod restore;
mod unsupported;
mod void;
mod words;

use anyhow::Result;

use super::Session;
use crate::cli::dropin::{Dropin, Tool};
use crate::exit::Exit;

/// Runs a drop-in command; `words` are its command line.
///
/// # Errors
/// What ended it early.
pub fn run(dropin: &Dropin, words: &[std::ffi::OsString], session: &Session) -> Result<Exit> {
    log::open(dropin, session);
    log::version(words);
    match dropin {
        Dropin::Backup(options) => backup::run(options, session),
        Dropin::Restore(options) => restore::run(options, session),
        Dropin::Map(options) => map::run(options, session),
    }
}

/// The status that a drop-in command ends with: 0 done, 1 failed, 2 done with warnings that `--strict` makes one.
/// An interrupt is a failure, as of virtnbdbackup.
pub fn status(dropin: &Dropin, exit: Exit) -> i32 {
    const INTERRUPT: i32 = 2;
    let strict = matches!(dropin, Dropin::Backup(options) if options.strict);
    match exit {
        Exit::Done => 0,
        Exit::Look if strict => 2,
        Exit::Look => 0,
        Exit::Failed | Exit::Usage | Exit::Damage | Exit::Signal(INTERRUPT) => 1,
        Exit::Signal(_) | Exit::Plugin(_) | Exit::Passed(_) => exit.code(),
    }
}

/// A hint names options of virtkeep's own commands: says so where it names any.
pub fn hint(tool: Tool, hint: &str) -> String {
    let command = match tool {
        Tool::Backup => "backup",
        Tool::Restore => "restore",
        Tool::Map => "map",
    };
    let names_option = hint.split_whitespace().any(|word| word.trim_start_matches(['(', '`']).starts_with("--"));
    if names_option { format!("{hint} (options of `virtkeep {command}`)") } else { hint.to_owned() }
}
