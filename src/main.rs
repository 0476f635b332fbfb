//! The `virtkeep` program: parse, run, print how it ended.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

use clap::CommandFactory;
use clap_complete::CompleteEnv;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use virtkeep::cancel::Cancel;
use virtkeep::cli::complete::completing;
use virtkeep::cli::config::read::{Failure, Read};
use virtkeep::cli::config::variables::Variables;
use virtkeep::cli::dropin::{self, Dropin, Tool};
use virtkeep::cli::{self, config};
use virtkeep::cli::{Cli, LogFormat, Talk};
use virtkeep::commands::{self, Session, complete};
use virtkeep::error;
use virtkeep::exit::Exit;
use virtkeep::signals;
use virtkeep::ui::log::{Log, Manner};
use virtkeep::ui::progress::Display;
use virtkeep::units;

fn main() {
    let words: Vec<OsString> = std::env::args_os().collect();
    exit(match words.first().and_then(|program| Tool::started_as(program)) {
        Some(tool) => drop_in(tool, &words),
        None => own(),
    })
}

fn own() -> i32 {
    CompleteEnv::with_factory(|| completing(Cli::command(), complete::SOURCES)).complete();
    let words: Vec<OsString> = std::env::args_os().collect();
    // Before a configuration is read, which may be a pipe.
    hide_password(config::read::typed_password(&words).as_deref(), "--password-file");
    let Read { cli, notes } = match config::read::read(&words, &Variables::of(std::env::vars_os())) {
        Ok(read) => read,
        Err(Failure::Usage(error)) => {
            let error = cli::usage::explain(error, &words);
            let _ = error.print();
            return cli::usage::status(&error, &words);
        }
        Err(Failure::Configuration(error)) => {
            let talk = Talk { noprogress: true, ..Talk::default() };
            let _log = Log::install(&talk, Display::new(&talk).bars());
            report(None, &error.into());
            return failed(cli::usage::is_plugin(&words), Exit::Usage).code();
        }
    };
    if cli.command.talk().bytes {
        units::show_exact();
    }
    let display = Display::new(cli.command.talk());
    let log = match cli.command {
        cli::Command::BackupOne(_) => Log::install_relayed(cli.command.talk(), display.bars()),
        _ => Log::install(cli.command.talk(), display.bars()),
    };
    let is_plugin = matches!(cli.command, cli::Command::Status(_));
    if let Err(error) = log.append_to(cli.command.talk()) {
        return failed(is_plugin, report(None, &error.into())).code();
    }
    for note in notes {
        tracing::warn!("{note}");
    }
    let cache = commands::cache(cli.command.cache_dir());
    let session = Session { display, log, cancel: Cancel::new(), cache };
    raise_file_limit();
    failed(is_plugin, run(&session, None, || commands::run(&cli.command, &session))).code()
}

/// How a command that failed before it could judge ends: for a monitoring system, `is_plugin`, it found nothing out.
fn failed(is_plugin: bool, exit: Exit) -> Exit {
    match exit {
        Exit::Failed | Exit::Usage | Exit::Damage if is_plugin => Exit::UNKNOWN,
        exit => exit,
    }
}

/// The same program as one of virtnbdbackup's.
fn drop_in(tool: Tool, words: &[OsString]) -> i32 {
    let dropin = match tool.parse(words) {
        Ok(dropin) => dropin,
        Err(error) => return usage(&error),
    };
    hide_password(dropin.password(), dropin::PASSWORD_FILE);
    let logging = dropin.logging();
    let quiet = matches!(&dropin, Dropin::Backup(options) if options.quiet);
    let talk = Talk {
        noprogress: logging.noprogress || quiet || logging.json,
        quiet,
        nocolor: logging.nocolor,
        bytes: false,
        verbose: 0,
        log_file: None,
        log_format: LogFormat::Text,
        log_to: None,
    };
    let display = Display::new(&talk);
    let manner = Manner::Classic { tool: tool.name(), json: logging.json, quiet };
    let level = if logging.verbose { tracing::Level::DEBUG } else { tracing::Level::INFO };
    let log = Log::install_as(manner, level, logging.nocolor, display.bars());
    let session = Session { display, log, cancel: Cancel::new(), cache: commands::cache(None) };
    raise_file_limit();
    let exit = run(&session, Some(tool), || commands::dropin::run(&dropin, words, &session));
    commands::dropin::status(&dropin, exit)
}

/// Prints help, the version or what is wrong with the command line.
fn usage(error: &clap::Error) -> i32 {
    if error.kind() == clap::error::ErrorKind::DisplayVersion {
        let _ = writeln!(std::io::stdout(), "{}", dropin::VERSION);
    } else {
        let _ = error.print();
    }
    error.exit_code()
}

/// A password on the command line can be read by every user of this machine for as long as the process
/// lives: the program starts itself again, with the password in a file without a name, which `option` names.
fn hide_password(password: Option<&str>, option: &str) {
    let Some(password) = password else { return };
    // Without it the command works all the same.
    let error = match password_file(password) {
        Ok(file) => restart_with(&file, option),
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
fn restart_with(password: &File, option: &str) -> std::io::Error {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name);
    while let Some(argument) = arguments.next() {
        match names_password(argument.as_encoded_bytes()) {
            Some(has_value) => {
                if !has_value {
                    let _ = arguments.next();
                }
                command.arg(option).arg(format!("/proc/self/fd/{}", password.as_raw_fd()));
            }
            None => {
                command.arg(argument);
            }
        }
    }
    command.exec()
}

/// Whether a word is `--password`, or short for it, and if so whether it has the value with it. The parser has
/// seen to it that such a word is no other option.
fn names_password(word: &[u8]) -> Option<bool> {
    let name = word.split(|byte| *byte == b'=').next()?;
    (name.len() > "--p".len() && b"--password".starts_with(name)).then_some(name.len() < word.len())
}

/// A chain has all of its streams open: hundreds of increments of several disks are more than the usual
/// 1024 files. The limit that an administrator set, the hard one, stays.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
}

fn run(session: &Session, tool: Option<Tool>, command: impl FnOnce() -> anyhow::Result<Exit>) -> Exit {
    if let Err(error) = signals::watch(&session.cancel, session.log.is_relayed()) {
        return report(tool, &error.into());
    }
    let result = command();
    if let Err(error) = &result {
        report(tool, error);
    }
    signals::status(&result)
}

/// Prints the error with its causes, and what to do about it.
fn report(tool: Option<Tool>, error: &anyhow::Error) -> Exit {
    // In virtnbdbackup's lines this would be the name of a thread.
    let disk = error::disk(error.as_ref()).filter(|_| tool.is_none());
    tracing::error!(disk, "{}", error::report(error.as_ref()));
    if let Some(hint) = error::hint(error.as_ref()) {
        match tool {
            Some(tool) => tracing::error!("hint: {}", commands::dropin::hint(tool, hint)),
            None => tracing::error!(disk, "hint: {hint}"),
        }
    }
    Exit::of(error)
}
