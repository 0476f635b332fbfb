//! Messages: on stderr for people, in the set's log file with times. Warnings are remembered for the
//! manifest and the exit status. The drop-in commands write lines as virtnbdbackup does, and its phrases.
//!
//! Error: what was asked for did not happen. Warn: it did, but look. Info: the steps. Debug (`-v`)
//! and trace (`-vv`): the details. The log file has everything down to debug.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::MultiProgress;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, EnteredSpan, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use super::journal::{self, Journal};
use super::lines::{About, Heard, Said, line_as_json};
use super::screen;
use super::syslog::Syslog;
use crate::cli::{LogFormat, LogTo, Talk};
use crate::error::{Error, Result};
use crate::phrases;

/// The program's messages; clones share it.
#[derive(Debug, Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

/// Whose lines they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// virtkeep's own.
    Own,
    /// virtkeep's own, as lines for [`Log::relay`] of the process that started this one.
    Relayed,
    /// virtnbdbackup's, of this program.
    Classic {
        /// Its name.
        tool: &'static str,
        /// An object per line.
        json: bool,
        /// Nothing goes to stderr.
        quiet: bool,
    },
}

#[derive(Debug)]
struct Shared {
    manner: Manner,
    stderr_level: Level,
    colour: bool,
    bars: MultiProgress,
    /// Where stderr is systemd's journal: what would go there, with fields.
    journal: Option<Journal>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Lines from before the file was opened.
    early: String,
    file: Option<File>,
    syslog: Option<Syslog>,
    /// Where `--log-to` says.
    system: Option<System>,
    /// The file of `--log-file`.
    own: Option<(File, LogFormat)>,
    /// What the messages are about.
    about: About,
    warnings: Vec<String>,
}

/// A log of the system's.
#[derive(Debug)]
enum System {
    Journal(Journal),
    Syslog(Syslog),
}

/// Lines kept for a log file that is never opened are dropped beyond this.
const MAX_EARLY: usize = 1 << 20;

impl Log {
    /// Makes this the receiver of all messages of the process. `bars` are drawn on the same stderr.
    pub fn install(talk: &Talk, bars: MultiProgress) -> Self {
        Self::install_own(Manner::Own, talk, bars)
    }

    /// [`Log::install`] in a process whose messages another one relays.
    pub fn install_relayed(talk: &Talk, bars: MultiProgress) -> Self {
        Self::install_own(Manner::Relayed, talk, bars)
    }

    fn install_own(manner: Manner, talk: &Talk, bars: MultiProgress) -> Self {
        let stderr_level = match (talk.quiet, talk.verbose) {
            (true, _) => Level::WARN,
            (false, 0) => Level::INFO,
            (false, 1) => Level::DEBUG,
            (false, _) => Level::TRACE,
        };
        Self::install_as(manner, stderr_level, talk.nocolor, bars)
    }

    /// The same in another manner, with everything down to `stderr_level`.
    pub fn install_as(manner: Manner, stderr_level: Level, nocolor: bool, bars: MultiProgress) -> Self {
        let colour = screen::has_colour(nocolor, &std::io::stderr());
        let journal = if manner == Manner::Own && journal::is_stderr() { Journal::open().ok() } else { None };
        let state = Mutex::default();
        let log = Self { shared: Arc::new(Shared { manner, stderr_level, colour, bars, journal, state }) };
        // Only fails where a subscriber is set already: then that one stays.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log.clone()));
        log
    }

    /// Whether another process says what is said here.
    pub fn is_relayed(&self) -> bool {
        self.shared.manner == Manner::Relayed
    }

    /// From here on messages go where `--log-file` and `--log-to` say, too.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io) where the file can't be opened. A log of the system's that is not there is
    /// a warning.
    pub fn append_to(&self, talk: &Talk) -> Result<()> {
        if let Some(path) = &talk.log_file {
            let file = File::options().create(true).append(true).open(path);
            let file =
                file.map_err(|error| Error::io("write to the log", error).path(path).hint("--log-file names it"))?;
            self.state().own = Some((file, talk.log_format));
        }
        let system = match talk.log_to {
            None => return Ok(()),
            Some(LogTo::Journal) => Journal::open().map(System::Journal),
            Some(LogTo::Syslog) => Syslog::open().map(System::Syslog),
        };
        match system {
            Ok(system) => self.state().system = Some(system),
            Err(error) => tracing::warn!("--log-to: nothing takes messages there: {error}"),
        }
        Ok(())
    }

    /// From here on messages are about this domain, and this run, as far as it is known.
    pub fn about(&self, domain: &str, run: Option<uuid::Uuid>) {
        let (domain, run) = (Some(domain.to_owned()), run.map(|run| run.to_string()));
        self.state().about = About { domain, disk: None, run };
    }

    /// From here on messages go to `file`, too, and those given so far.
    pub fn open_file(&self, mut file: File) -> std::io::Result<()> {
        let mut state = self.state();
        file.write_all(state.early.as_bytes())?;
        state.file = Some(file);
        Ok(())
    }

    /// Ends the log file, durably.
    pub fn close_file(&self) -> std::io::Result<()> {
        match self.state().file.take() {
            Some(file) => file.sync_all(),
            None => Ok(()),
        }
    }

    /// From here on messages go to the system's log, too.
    ///
    /// # Errors
    /// Where nobody listens for them.
    pub fn open_syslog(&self) -> std::io::Result<()> {
        let syslog = Syslog::open()?;
        self.state().syslog = Some(syslog);
        Ok(())
    }

    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.state().warnings.clone()
    }

    /// Takes a line that another process of ours ([`Log::install_relayed`]) said about `whose` work, as a message of our
    /// own. Returns it, if it is an error.
    pub fn relay(&self, whose: &str, line: &str) -> Option<String> {
        let heard = Heard::of(line);
        let (level, text) = (heard.level(), heard.message);
        let about = About { domain: Some(whose.to_owned()), ..heard.about };
        self.state().append(level, &format!("{whose}: {text}"), &text, &about);
        self.to_system(level, &text, &about);
        let hint = text.strip_prefix("hint: ");
        self.show(level, &hint.map_or(format!("{whose}: {text}"), |hint| format!("hint: {whose}: {hint}")), &about);
        (level == Level::ERROR && hint.is_none()).then_some(text)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_shown(&self, level: Level) -> bool {
        level <= self.shared.stderr_level
    }

    /// Says a message that is to be shown to whom the program was started by: people, the journal, another process.
    fn show(&self, level: Level, message: &str, about: &About) {
        if !self.is_shown(level) {
            return;
        }
        if self.shared.manner == Manner::Relayed {
            let line = line_as_json(&now(), level, message, about);
            // Whoever relayed is gone: then this process is about to be, too.
            let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
        } else if !self.shared.journal.as_ref().is_some_and(|journal| journal.send(level, message, about)) {
            self.to_stderr(level, message);
        }
    }

    /// Sends a message to the log of `--log-to`, unless that is where it is shown: all down to info, and what is shown.
    fn to_system(&self, level: Level, message: &str, about: &About) {
        let is_shown = self.is_shown(level);
        if !is_shown && level > Level::INFO {
            return;
        }
        match &self.state().system {
            Some(System::Journal(journal)) if !(is_shown && self.shared.journal.is_some()) => {
                journal.send(level, message, about);
            }
            Some(System::Syslog(syslog)) => syslog.send_message(level, message, about.domain.as_deref()),
            _ => {}
        }
    }

    fn to_stderr(&self, level: Level, message: &str) {
        let (word, colour) = match level {
            // A hint belongs to the error above it.
            _ if message.starts_with("hint: ") => ("", ""),
            Level::ERROR => ("error: ", "\x1b[31m"),
            Level::WARN => ("warning: ", "\x1b[33m"),
            _ => ("", ""),
        };
        let (on, off) = if self.shared.colour && !colour.is_empty() { (colour, "\x1b[0m") } else { ("", "") };
        // A closed stderr must not end a backup.
        self.shared.bars.suspend(|| {
            let _ = writeln!(std::io::stderr(), "virtkeep: {on}{word}{off}{message}");
        });
    }

    fn to_file(&self, level: Level, message: &str, about: &About) {
        let now = now();
        self.keep(level, message, &format!("{now} {level:5} {message}"));
        self.state().append(level, message, message, about);
    }

    /// The line goes to the file; of a warning the message is remembered.
    fn keep(&self, level: Level, message: &str, line: &str) {
        let mut state = self.state();
        if level == Level::WARN {
            state.warnings.push(message.to_owned());
        }
        if let Some(file) = &mut state.file {
            // A full disk shows in the data; the log alone is no reason to fail.
            let _ = file.write_all(format!("{line}\n").as_bytes());
        } else if state.early.len() < MAX_EARLY {
            state.early.push_str(line);
            state.early.push('\n');
        }
        if let Some(syslog) = &state.syslog {
            syslog.send(level, line);
        }
    }

    /// One line everywhere, as virtnbdbackup writes it.
    fn classic(&self, tool: &str, json: bool, quiet: bool, level: Level, said: &Said) {
        let line = if json { said.json(tool, level) } else { said.classic(tool, level) };
        if !quiet {
            let (on, off) = match level {
                Level::ERROR if self.shared.colour => ("\x1b[31m", "\x1b[0m"),
                Level::WARN if self.shared.colour => ("\x1b[33m", "\x1b[0m"),
                _ => ("", ""),
            };
            // A closed stderr must not end a backup.
            self.shared.bars.suspend(|| {
                let _ = writeln!(std::io::stderr(), "{on}{line}{off}");
            });
        }
        self.keep(level, &said.message, &line);
    }
}

impl State {
    /// Appends a message to the file of `--log-file`: a text, or what is said in it `about` something.
    fn append(&mut self, level: Level, text: &str, said: &str, about: &About) {
        let Some((file, format)) = &mut self.own else { return };
        let line = match format {
            LogFormat::Text => format!("{} {level:5} {text}", now()),
            LogFormat::Json => line_as_json(&now(), level, said, about),
        };
        // A full disk shows in the data; the log alone is no reason to fail. One write for a line: others may
        // append to the file at the same time.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

fn now() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        let target = metadata.target();
        let ours = target.starts_with("virtkeep");
        let (is_meant, lowest) = match self.shared.manner {
            Manner::Own | Manner::Relayed => (ours, Level::DEBUG.max(self.shared.stderr_level)),
            Manner::Classic { .. } => {
                ((ours && target != phrases::OWN) || target == phrases::CLASSIC, self.shared.stderr_level)
            }
        };
        is_meant && *metadata.level() <= lowest
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut disk = OfDisk::default();
        attributes.record(&mut disk);
        if let (Some(span), true) = (context.span(id), disk.0.is_some()) {
            span.extensions_mut().insert(disk);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let said = Said::of(event);
        let level = *event.metadata().level();
        if let Manner::Classic { tool, json, quiet } = self.shared.manner {
            return self.classic(tool, json, quiet, level, &said);
        }
        let of_span = || {
            let mut around = context.event_scope(event)?;
            around.find_map(|span| span.extensions().get::<OfDisk>().and_then(|disk| disk.0.clone()))
        };
        let disk = said.disk.clone().or_else(of_span);
        let mut about = About { disk, ..self.state().about.clone() };
        about.domain = said.domain.clone().or(about.domain);
        self.show(level, &said.message, &about);
        self.to_system(level, &said.message, &about);
        if level <= Level::DEBUG {
            self.to_file(level, &said.message, &about);
        }
    }
}

/// The disk of a span.
#[derive(Debug, Default)]
struct OfDisk(Option<String>);

impl Visit for OfDisk {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "disk" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// Until what is returned is dropped, this thread's messages are about that disk.
pub fn on_disk(target: &str) -> EnteredSpan {
    tracing::info_span!("disk", disk = target).entered()
}
