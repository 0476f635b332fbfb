//! `virtkeep backup` of several domains: a process for each, which does what `virtkeep backup` does with one
//! domain, and a summary.
//!
//! ```text
//! which domains, and which directory each -> N at a time: [ start the process -> relay what it says ]
//!   -> summary -> the worst status
//! ```
//!
//! A process each, not a thread: what one domain's run does to its process (a crash, a hang, its log file,
//! its guard, its warnings) is nothing to the others.

mod child;
mod domains;
pub(super) mod one;
pub(super) mod section;
mod summary;

use std::time::Instant;

use anyhow::Result;

use self::domains::Chosen;
use self::summary::Row;
use super::Session;
use super::backup::directory;
use super::watched::{self, Record};
use crate::cli::backup::Backup;
use crate::commands::backup::is_stdout;
use crate::commands::connect;
use crate::error::{self, Error};
use crate::exit::Exit;
use crate::set::moment;
use crate::side_by_side;

/// Whether the options are about more than one domain: then each has a directory of its own, however many
/// there turn out to be.
pub fn is_asked(args: &Backup) -> bool {
    args.many.all || args.domain.len() > 1
}

/// Backs up all of them, and tells of it.
///
/// # Errors
/// Where it can't begin, or was interrupted: what goes wrong with a domain is in the status.
pub fn run(args: &Backup, session: &Session) -> Result<Exit> {
    watched::check(args)?;
    let begin = moment::now();
    let mut rows = Vec::new();
    let result = domains(args, session, &mut rows);
    let records: Vec<Record> = rows.iter().map(Row::record).collect();
    let told = watched::write(args, &begin, &records, &result, result.as_ref().err());
    result.map(|exit| if exit == Exit::Done && !told { Exit::Look } else { exit })
}

fn domains(args: &Backup, session: &Session, rows: &mut Vec<Row>) -> Result<Exit> {
    let begin = Instant::now();
    let hypervisor = args.hypervisor.clone();
    let mut args = resolved(args)?;
    let mut chosen = domains::choose(&args)?;
    for domain in &mut chosen {
        if let Err(error) = section::check(&args, &hypervisor, &domain.name) {
            domain.directory = Err(error);
        }
    }
    if chosen.is_empty() {
        tracing::warn!("no domain is backed up: {}", domains::why_none(&args));
        return Ok(Exit::Look);
    }
    tracing::info!("{}, {} at a time", summary::count(chosen.len()), chosen.len().min(args.many.parallel.into()));
    // Its end is that of the last run.
    let shared = (args.many.parallel > 1).then(|| tempfile::Builder::new().prefix("virtkeep-").tempdir()).transpose();
    let shared = shared.map_err(|error| Error::io("create a temporary directory", error))?;
    args.many.shared = shared.as_ref().map(|shared| shared.path().to_owned());
    args.many.tells = session.display.has_bars();
    // As many at a time as the options say, in the order of the list.
    *rows = side_by_side::map(&chosen, args.many.parallel.into(), |domain| each(&args, session, domain))?;
    summary::tell(&args, rows, begin.elapsed())?;
    session.cancel.check()?;
    Ok(summary::verdict(rows))
}

/// The options as every one of the processes gets them.
fn resolved(args: &Backup) -> Result<Backup> {
    if is_stdout(args) || args.state_dir.is_some() {
        return Err(Error::usage("-o - is for one domain: standard output takes one zip file")
            .hint("run virtkeep once for each domain, or name a directory with -o")
            .into());
    }
    if let Some(socket) = &args.places.socketfile {
        return Err(Error::usage("-f/--socketfile names one socket, which can't serve several domains")
            .path(socket)
            .hint("leave it away: every run makes a socket of its own")
            .into());
    }
    if section::is_over_tcp(args) && args.many.parallel > 1 {
        return Err(Error::usage("over TCP a host serves one domain at a time, at one port")
            .hint("leave --parallel away, or -P, -I and --tls: through ssh each domain has a socket of its own")
            .into());
    }
    let mut args = args.clone();
    args.output = directory::of_each(&args.output);
    args.hypervisor = connect::settled(&args.hypervisor)?;
    Ok(args)
}

/// One domain's run; what goes wrong is in the row.
fn each(args: &Backup, session: &Session, chosen: &Chosen) -> Row {
    if session.cancel.is_cancelled() {
        return Row::not_begun(&chosen.name);
    }
    let begin = Instant::now();
    let ended = match &chosen.directory {
        Ok(output) => child::run(args, session, &chosen.name, output),
        Err(error) => {
            tracing::error!(whose = chosen.name, "{}: {}", chosen.name, error::report(error));
            if let Some(hint) = error.hint_text() {
                tracing::error!(whose = chosen.name, "hint: {hint}");
            }
            child::Ended::failed(error)
        }
    };
    Row::new(&chosen.name, ended, begin.elapsed())
}
