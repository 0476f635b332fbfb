//! Messages: on stderr for people, in the set's log file with times. Warnings are remembered for the
//! manifest and the exit status. The drop-in commands write lines as virtnbdbackup does, and its phrases.
//!
//! Error: what was asked for did not happen. Warn: it did, but look. Info: the steps. Debug (`-v`)
//! and trace (`-vv`): the details. The log file has everything down to debug.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::MultiProgress;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use super::lines::{About, Said, line_as_json};
use super::syslog::Syslog;
use crate::cli::{LogFormat, Talk};
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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Lines from before the file was opened.
    early: String,
    file: Option<File>,
    syslog: Option<Syslog>,
    /// The file of `--log-file`.
    own: Option<(File, LogFormat)>,
    /// What the messages are about.
    about: About,
    warnings: Vec<String>,
}

/// Lines kept for a log file that is never opened are dropped beyond this.
const MAX_EARLY: usize = 1 << 20;

impl Log {
    /// Makes this the receiver of all messages of the process. `bars` are drawn on the same stderr.
    pub fn install(talk: &Talk, bars: MultiProgress) -> Self {
        let stderr_level = match (talk.quiet, talk.verbose) {
            (true, _) => Level::WARN,
            (false, 0) => Level::INFO,
            (false, 1) => Level::DEBUG,
            (false, _) => Level::TRACE,
        };
        Self::install_as(Manner::Own, stderr_level, talk.nocolor, bars)
    }

    /// The same in another manner, with everything down to `stderr_level`.
    pub fn install_as(manner: Manner, stderr_level: Level, nocolor: bool, bars: MultiProgress) -> Self {
        let colour = !nocolor && std::env::var_os("NO_COLOR").is_none() && std::io::stderr().is_terminal();
        let log = Self { shared: Arc::new(Shared { manner, stderr_level, colour, bars, state: Mutex::default() }) };
        // Only fails where a subscriber is set already: then that one stays.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log.clone()));
        log
    }

    /// From here on messages go to the file of `--log-file`, too, where one is asked for.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io) where it can't be opened.
    pub fn append_to(&self, talk: &Talk) -> Result<()> {
        let Some(path) = &talk.log_file else { return Ok(()) };
        let file = File::options().create(true).append(true).open(path);
        let file = file.map_err(|error| Error::io("write to the log", error).path(path).hint("--log-file names it"))?;
        self.state().own = Some((file, talk.log_format));
        Ok(())
    }

    /// From here on messages are about this domain, and this run, as far as it is known.
    pub fn about(&self, domain: &str, run: Option<uuid::Uuid>) {
        self.state().about = About { domain: Some(domain.to_owned()), run: run.map(|run| run.to_string()) };
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

    /// Prints a line that another process of ours said about `whose` work, after its own choice of what to say.
    pub fn relay(&self, whose: &str, line: &str) {
        let level = match line {
            _ if line.starts_with("error: ") => Level::ERROR,
            _ if line.starts_with("warning: ") => Level::WARN,
            _ => Level::INFO,
        };
        let text = line.strip_prefix("error: ").or_else(|| line.strip_prefix("warning: ")).unwrap_or(line);
        let about = About { domain: Some(whose.to_owned()), run: None };
        self.state().append(level, &format!("{whose}: {text}"), text, &about);
        match text.strip_prefix("hint: ") {
            Some(hint) => self.to_stderr(level, &format!("hint: {whose}: {hint}")),
            None => self.to_stderr(level, &format!("{whose}: {text}")),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn to_file(&self, level: Level, message: &str) {
        let now = now();
        self.keep(level, message, &format!("{now} {level:5} {message}"));
        let mut state = self.state();
        let about = state.about.clone();
        state.append(level, message, message, &about);
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
            Manner::Own => (ours, Level::DEBUG.max(self.shared.stderr_level)),
            Manner::Classic { .. } => {
                ((ours && target != phrases::OWN) || target == phrases::CLASSIC, self.shared.stderr_level)
            }
        };
        is_meant && *metadata.level() <= lowest
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let said = Said::of(event);
        let level = *event.metadata().level();
        if let Manner::Classic { tool, json, quiet } = self.shared.manner {
            return self.classic(tool, json, quiet, level, &said);
        }
        if level <= self.shared.stderr_level {
            self.to_stderr(level, &said.message);
        }
        if level <= Level::DEBUG {
            self.to_file(level, &said.message);
        }
    }
}
