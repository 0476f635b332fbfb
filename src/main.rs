//! The `virtkeep` program: parse, run, print how it ended.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

use clap::Parser;
use rustix::fs::{MemfdFlags, memfd_create};
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
    hide_password(&cli);
    let display = Display::new(cli.command.talk());
    let log = Log::install(cli.command.talk(), display.bars());
    let session = Session { display, log, cancel: Cancel::new() };
    raise_file_limit();
    exit(run(&cli, &session).code());
}

/// A password on the command line can be read by every user of this machine for as long as the process
/// lives: the program starts itself again, with the password in a file without a name.
fn hide_password(cli: &Cli) {
    let Some(password) = cli.command.hypervisor().and_then(|options| options.password.as_deref()) else { return };
    // Without it the command works all the same.
    let error = match password_file(password) {
        Ok(file) => restart_with(&file),
        Err(error) => error,
    };
    tracing::debug!("the password stays in the list of processes: {error}");
}

fn password_file(password: &str) -> std::io::Result<File> {
    let mut file = File::from(memfd_create("password", MemfdFlags::empty())?);
    file.write_all(password.as_bytes())?;
    Ok(file)
}

/// Only returns with an error.
fn restart_with(password: &File) -> std::io::Error {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name);
    while let Some(argument) = arguments.next() {
        let text = argument.as_encoded_bytes();
        if text == b"--password" {
            let _ = arguments.next();
        }
        if text == b"--password" || text.starts_with(b"--password=") {
            command.arg("--password-file").arg(format!("/proc/self/fd/{}", password.as_raw_fd()));
        } else {
            command.arg(argument);
        }
    }
    command.exec()
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
