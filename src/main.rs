//! The `virtkeep` program: parse, run, print how it ended.

use std::process::exit;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use virtkeep::cancel::Cancel;
use virtkeep::cli::Cli;
use virtkeep::commands::{self, Session};
use virtkeep::error;
use virtkeep::exit::Exit;
use virtkeep::signals;
use virtkeep::ui::log::Log;
use virtkeep::ui::progress::Display;

fn main() {
    let cli = Cli::parse();
    let display = Display::new(cli.command.talk());
    let log = Log::install(cli.command.talk(), display.bars());
    let session = Session { display, log, cancel: Cancel::new() };
    raise_file_limit();
    exit(run(&cli, &session).code());
}

/// A chain has all of its streams open: hundreds of increments of several disks are more than the usual
/// 1024 files. The limit that an administrator set, the hard one, stays.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
}

fn run(cli: &Cli, session: &Session) -> Exit {
    let received = match signals::watch(&session.cancel) {
        Ok(received) => received,
        Err(error) => return report(&error.into()),
    };
    match (commands::run(&cli.command, session), received.signal()) {
        (Ok(exit), _) => exit,
        (Err(error), None) => report(&error),
        (Err(error), Some(signal)) => {
            report(&error);
            Exit::Signal(signal)
        }
    }
}

/// Prints the error with its causes, and what to do about it.
fn report(error: &anyhow::Error) -> Exit {
    tracing::error!("{}", error::report(error.as_ref()));
    if let Some(hint) = error::hint(error.as_ref()) {
        tracing::error!("hint: {hint}");
    }
    Exit::of(error)
}
