//! The process of one domain, seen from the one that started it.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write, stdout};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::one::{RECORD, REPORT, Report};
use super::section;
use crate::child::end_within;
use crate::cli::Talk;
use crate::cli::backup::Backup;
use crate::commands::Session;
use crate::commands::backup::directory;
use crate::commands::watched::Record;
use crate::error::{self, Error, Result};
use crate::exit::Exit;
use crate::ui::log::Log;
use crate::ui::progress::{Display, Hearing};

/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(20);
/// What it left behind, its guard say, may hold its standard error open for longer.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a domain's run ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub exit: Exit,
    /// What was committed.
    pub report: Option<Report>,
    /// What came of it as its process told it; none where it died.
    pub record: Option<Record>,
    /// The estimate of its size, in bytes, where that was asked for.
    pub estimate: Option<u64>,
    /// Its error, in a line.
    pub error: Option<String>,
}

impl Ended {
    /// One that did not begin.
    pub fn failed(error: &Error) -> Self {
        Self { exit: Exit::Failed, report: None, record: None, estimate: None, error: Some(error::report(error)) }
    }
}

/// Backs up `domain` into `output` in a process of its own, and waits for it. When the session is cancelled
/// the process is asked to undo its run.
pub fn run(args: &Backup, session: &Session, domain: &str, output: &Path) -> Ended {
    let ended = options(args, domain, output).and_then(|options| start(&args.talk, &options)).map(|child| {
        let errors: Arc<Mutex<Option<String>>> = Arc::default();
        wait(child, session, domain, &errors)
    });
    ended.unwrap_or_else(|error| {
        tracing::error!("{domain}: {}", error::report(&error));
        Ended::failed(&error)
    })
}

/// The options of one domain.
fn options(args: &Backup, domain: &str, output: &Path) -> Result<Vec<u8>> {
    let mut one = section::of_one(args, domain);
    one.domain = vec![domain.to_owned()];
    one.output = directory::literal(output);
    // These are of the whole.
    (one.watched.report, one.watched.metrics) = (None, None);
    let mut line = serde_json::to_vec(&one)
        .map_err(|error| Error::usage("with several domains all paths must be UTF-8").path(output).caused_by(error))?;
    line.push(b'\n');
    Ok(line)
}

fn start(talk: &Talk, options: &[u8]) -> Result<Child> {
    let failed = |error| Error::io("start the domain's process", error);
    let mut command = Command::new("/proc/self/exe");
    command.arg0("virtkeep").arg("backup-one").args(words(talk));
    // A group of its own: a terminal's signals reach it through us, in one way only.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    // One that has died already says so by its status.
    let _ = child.stdin.as_mut().map(|pipe| pipe.write_all(options));
    Ok(child)
}

/// What a process says: all that is shown, and where messages are written down all that belongs there. What of it is
/// shown is our choice then.
fn words(talk: &Talk) -> Vec<&'static str> {
    let is_written = talk.log_file.is_some() || talk.log_to.is_some();
    let verbose = if is_written { talk.verbose.max(1) } else { talk.verbose };
    let mut words = vec!["--verbose"; verbose.into()];
    words.extend((talk.noprogress || talk.quiet).then_some("--noprogress"));
    words.extend((talk.quiet && !is_written).then_some("--quiet"));
    words.extend(talk.bytes.then_some("--bytes"));
    words
}

fn wait(mut child: Child, session: &Session, domain: &str, errors: &Arc<Mutex<Option<String>>>) -> Ended {
    let mut lifeline = child.stdin.take();
    let said = child.stderr.take().map(|pipe| relay(pipe, &session.log, domain, errors));
    let data = child.stdout.take().map(|pipe| read(pipe, domain, &session.display));
    let status = loop {
        match end_within(&mut child, LOOK) {
            Ok(Some(status)) => break Ok(status),
            Ok(None) => {}
            Err(error) => break Err(Error::io("wait for the domain's process", error)),
        }
        if session.cancel.is_cancelled() {
            drop(lifeline.take());
        }
    };
    let Said { report, record, estimate } = data.and_then(|data| data.join().ok()).unwrap_or_default();
    let deadline = Instant::now() + LAST_WORDS;
    while said.as_ref().is_some_and(|said| !said.is_finished()) && Instant::now() < deadline {
        thread::sleep(LOOK);
    }
    let error = errors.lock().unwrap_or_else(PoisonError::into_inner).take();
    match status {
        Ok(status) => Ended { exit: exit(status), report, record, estimate, error: error.or_else(|| death(status)) },
        Err(error) => Ended::failed(&error),
    }
}

/// Says what it says, under the domain's name; remembers its first error.
fn relay(
    pipe: impl Read + Send + 'static,
    log: &Log,
    domain: &str,
    errors: &Arc<Mutex<Option<String>>>,
) -> JoinHandle<()> {
    let (log, domain, errors) = (log.clone(), domain.to_owned(), Arc::clone(errors));
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(std::result::Result::ok) {
            if let Some(error) = log.relay(&domain, &String::from_utf8_lossy(&line)) {
                errors.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    })
}

/// What stands on its standard output beside data.
#[derive(Default)]
struct Said {
    report: Option<Report>,
    record: Option<Record>,
    estimate: Option<u64>,
}

/// Reads its report, shows its progress, and prints its data.
fn read(pipe: impl Read + Send + 'static, domain: &str, display: &Display) -> JoinHandle<Said> {
    let (domain, bars, mut progress) = (domain.to_owned(), display.bars(), Hearing::new(display, domain));
    thread::spawn(move || {
        let mut said = Said::default();
        for line in BufReader::new(pipe).lines().map_while(std::result::Result::ok) {
            if progress.takes(&line) {
                continue;
            }
            if let Some(text) = line.strip_prefix(REPORT) {
                said.report = serde_json::from_str(text).ok();
                continue;
            }
            if let Some(text) = line.strip_prefix(RECORD) {
                said.record = serde_json::from_str(text).ok();
                continue;
            }
            said.estimate = said.estimate.or(super::summary::estimate_in(&line));
            // Whoever closed standard output is told by the sum at the end.
            let print = || {
                let _ = writeln!(stdout().lock(), "{domain}: {line}");
            };
            // A pipe that is stuck must not hold up the bars, and all messages with them.
            if stdout().is_terminal() { bars.suspend(print) } else { print() }
        }
        said
    })
}

fn exit(status: ExitStatus) -> Exit {
    match status.code() {
        Some(0) => Exit::Done,
        Some(2) => Exit::Usage,
        Some(3) => Exit::Look,
        Some(4) => Exit::Damage,
        Some(code) if code > 128 => Exit::Signal(code - 128),
        _ => Exit::Failed,
    }
}

fn death(status: ExitStatus) -> Option<String> {
    let by = status.signal().map(|signal| format!("its process was ended by signal {signal}; the next run clears up"));
    by.or_else(|| (!status.success()).then(|| format!("status {}", status.code().unwrap_or(1))))
}
