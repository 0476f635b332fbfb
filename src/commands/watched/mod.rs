//! A backup that is watched: its report, its figures, the hooks after it.
//!
//! ```text
//! the run -> what came of it (record) -> report, metrics -> on-failure, post-run
//! ```

mod metrics;
mod record;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use jiff::Zoned;
use serde::Serialize;

pub use self::record::Record;
use self::record::{Failure, Status, seconds};
use super::Session;
use super::backup::facts::{Facts, Known};
use super::hooks::Hook;
use super::published;
use crate::cancel::Cancel;
use crate::cli::backup::Backup;
use crate::commands::backup;
use crate::error::{self, Error, Kind};
use crate::exit::Exit;
use crate::set::layout::parent;
use crate::set::moment;
use crate::signals;

/// Version of the report's structure.
const VERSION: u32 = 1;
/// All that hooks after an interrupted run get: the process has to leave within seconds.
const INTERRUPTED: Duration = Duration::from_secs(1);

/// Runs the backup of one domain, and tells of it.
///
/// # Errors
/// Of the backup; [`Kind::Usage`] for places where its files can't be.
pub fn run(args: &Backup, session: &Session) -> Result<Exit> {
    check(args)?;
    let begin = moment::now();
    let (_, result) =
        domain(args, session, &mut |record, result| write(args, &begin, std::slice::from_ref(record), result, None));
    result
}

/// Refuses files that can't be written before anything is done.
///
/// # Errors
/// [`Kind::Usage`].
pub fn check(args: &Backup) -> Result<()> {
    for (option, path) in [("--report", &args.watched.report), ("--metrics", &args.watched.metrics)] {
        let Some(path) = path else { continue };
        if path.is_dir() || path == Path::new("-") || !parent(path).is_dir() {
            return Err(Error::usage(format!("{option} names a file in a directory that is there"))
                .path(path)
                .hint("make the directory, or choose another place")
                .into());
        }
    }
    Ok(())
}

/// Runs the backup of one domain. `tell` is called with what came of it, and may make the status worse: before the
/// hooks that come after the run, which may send it, and once more where one of these failed.
pub fn domain(
    args: &Backup,
    session: &Session,
    tell: &mut dyn FnMut(&Record, &Result<Exit>) -> bool,
) -> (Record, Result<Exit>) {
    let start = moment::now();
    let facts = Facts::default();
    let result = backup::run(args, session, &facts);
    let known = facts.known();
    let name = args.domain.first().map(String::as_str).unwrap_or_default();
    let mut record = Record::of(name, &known, signals::status(&result), &start, result.as_ref().err());
    record.warnings = session.log.warnings();
    let mut result = result;
    let mut told = tell(&record, &result);
    if !after(args, session, &known, &record) {
        record.warnings = session.log.warnings();
        if args.strict && !record.warnings.is_empty() {
            result = looked_at(result);
            record.exits(signals::status(&result));
        }
        told = told && tell(&record, &result);
    }
    (record, if told { result } else { looked_at(result) })
}

/// The same run, at which somebody should look.
fn looked_at(result: Result<Exit>) -> Result<Exit> {
    result.map(|exit| if exit == Exit::Done { Exit::Look } else { exit })
}

/// The hook before a run.
///
/// # Errors
/// Where it fails: the run must not be.
pub fn before(args: &Backup, session: &Session, known: &Known) -> error::Result<()> {
    let Some(command) = &args.watched.hook_pre_run else { return Ok(()) };
    let hook = Hook { name: "pre-run", command, limit: args.watched.hook_timeout };
    hook.run(known, &[], &session.cancel)
}

/// The hook after a disk; that it fails is a warning.
pub fn after_disk(args: &Backup, known: &Known, target: &str, file: &str, cancel: &Cancel) {
    let Some(command) = &args.watched.hook_post_disk else { return };
    let hook = Hook { name: "post-disk", command, limit: args.watched.hook_timeout };
    warn(hook.run(known, &[("DISK", target.to_owned()), ("FILE", file.to_owned())], cancel));
}

/// The hooks after a run, of which the first was begun; whether all went well.
fn after(args: &Backup, session: &Session, known: &Known, record: &Record) -> bool {
    if !known.has_begun {
        return true;
    }
    let interrupted = session.cancel.is_cancelled();
    let limit = if interrupted { INTERRUPTED.min(args.watched.hook_timeout) } else { args.watched.hook_timeout };
    let cancel = if interrupted { Cancel::new() } else { session.cancel.clone() };
    let mut facts = vec![("STATUS", record.exit.to_string())];
    if let Some(error) = &record.error {
        facts.push(("ERROR", error.message.clone()));
        facts.extend(error.hint.clone().map(|hint| ("HINT", hint)));
    }
    // The hook may be somewhere else.
    let report = args.watched.report.as_ref().and_then(|path| std::path::absolute(path).ok());
    facts.extend(report.map(|path| ("REPORT", path.to_string_lossy().into_owned())));
    let failure = (record.status == Status::Failed).then_some(args.watched.hook_on_failure.as_deref()).flatten();
    let mut well = true;
    for (name, command) in [("on-failure", failure), ("post-run", args.watched.hook_post_run.as_deref())] {
        let Some(command) = command else { continue };
        well &= warn(Hook { name, command, limit }.run(known, &facts, &cancel));
    }
    well
}

fn warn(result: error::Result<()>) -> bool {
    match &result {
        Err(error) if error.kind() == Kind::Cancelled => {}
        Err(error) => {
            let hint = error.hint_text().map(|hint| format!(" ({hint})")).unwrap_or_default();
            tracing::warn!("{}{hint}", error::report(error));
        }
        Ok(()) => {}
    }
    result.is_ok()
}

/// The report of a command.
#[derive(Serialize)]
struct Report<'r> {
    virtkeep_report: u32,
    version: &'static str,
    host: String,
    start: String,
    end: String,
    duration_seconds: f64,
    exit: i32,
    domains: &'r [Record],
    error: Option<Failure>,
}

/// Writes report and metrics, as far as they are asked for; false where that failed, which was said. `error` is why
/// the whole failed, not one of its domains.
pub fn write(
    args: &Backup,
    begin: &Zoned,
    domains: &[Record],
    result: &Result<Exit>,
    error: Option<&anyhow::Error>,
) -> bool {
    let (end, exit) = (moment::now(), signals::status(result).code());
    let mut written = Vec::new();
    if let Some(path) = &args.watched.report {
        let report = Report {
            virtkeep_report: VERSION,
            version: env!("CARGO_PKG_VERSION"),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            start: moment::format(begin),
            end: moment::format(&end),
            duration_seconds: seconds(begin, &end),
            exit,
            domains,
            error: error.map(|error| Failure::of(error, None)),
        };
        written.push(match serde_json::to_string_pretty(&report) {
            Ok(text) => published::write(path, &format!("{text}\n")),
            Err(error) => Err(Error::corrupt("the report can't be encoded").caused_by(error)),
        });
    }
    if let Some(path) = &args.watched.metrics {
        let output = args.output.to_string_lossy();
        let named: &[String] = if args.many.all { &[] } else { &args.domain };
        let text = metrics::text(&metrics::read(path), &output, named, domains, exit, &end);
        written.push(published::write(path, &text));
    }
    for error in written.iter().filter_map(|result| result.as_ref().err()) {
        tracing::error!("the backup is not concerned, but it can't be told of: {}", error::report(error));
        if let Some(hint) = error.hint_text() {
            tracing::error!("hint: {hint}");
        }
    }
    written.iter().all(error::Result::is_ok)
}
