//! Messages: on stderr for people, in the set's log file with times. Warnings are remembered for the
//! manifest and the exit status.
//!
//! Error: what was asked for did not happen. Warn: it did, but look. Info: the steps. Debug (`-v`)
//! and trace (`-vv`): the details. The log file has everything down to debug.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::MultiProgress;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::Talk;

/// The program's messages; clones share it.
#[derive(Debug, Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
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
        let colour = !talk.nocolor && std::env::var_os("NO_COLOR").is_none() && std::io::stderr().is_terminal();
        let log = Self { shared: Arc::new(Shared { stderr_level, colour, bars, state: Mutex::default() }) };
        // Only fails where a subscriber is set already: then that one stays.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log.clone()));
        log
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
        let now = jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string();
        let line = format!("{now} {level:5} {message}\n");
        let mut state = self.state();
        if level == Level::WARN {
            state.warnings.push(message.to_owned());
        }
        if let Some(file) = &mut state.file {
            // A full disk shows in the data; the log alone is no reason to fail.
            let _ = file.write_all(line.as_bytes());
        } else if state.early.len() < MAX_EARLY {
            state.early.push_str(&line);
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("virtkeep")
            && (*metadata.level() <= Level::DEBUG || *metadata.level() <= self.shared.stderr_level)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = *event.metadata().level();
        if level <= self.shared.stderr_level {
            self.to_stderr(level, &text.0);
        }
        if level <= Level::DEBUG {
            self.to_file(level, &text.0);
        }
    }
}

/// An event as a line: the message, then `name=value` for its fields.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
