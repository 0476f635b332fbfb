//! How a message looks as a line.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// A message, and what an event says beside it.
#[derive(Debug, Default)]
pub struct Said {
    /// The message, then `name=value` for its other fields.
    pub message: String,
    at: Option<String>,
    /// The disk that it is about, where the message was given one.
    pub disk: Option<String>,
    /// The domain, where the message was given one (`whose`).
    pub domain: Option<String>,
}

impl Said {
    /// What `event` says.
    pub fn of(event: &Event<'_>) -> Self {
        let mut said = Self::default();
        event.record(&mut said);
        said
    }

    /// As virtnbdbackup writes a line: `[time] LEVEL logger module - function [thread]: message`.
    pub fn classic(&self, tool: &str, level: Level) -> String {
        let at = self.at.clone().unwrap_or_else(|| default_place(tool));
        format!("{} {} {at} [{}]: {}", time(), level_name(level), self.thread(), self.message)
    }

    /// The same as virtnbdbackup's JSON.
    pub fn json(&self, tool: &str, level: Level) -> String {
        let at = self.at.clone().unwrap_or_else(|| default_place(tool));
        let mut words = at.split_whitespace().filter(|word| *word != "-");
        let mut next = || words.next().unwrap_or_default();
        let (name, module, function) = (next(), next(), next());
        // In the order of virtnbdbackup.
        let fields = [
            ("time", time()),
            ("level", level_name(level).to_owned()),
            ("name", name.to_owned()),
            ("module", module.to_owned()),
            ("function", function.to_owned()),
            ("thread", self.thread().to_owned()),
            ("message", self.message.clone()),
        ];
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}: {}", json!(name), json!(value))).collect();
        format!("{{{}}}", fields.join(", "))
    }

    fn thread(&self) -> &str {
        self.disk.as_deref().unwrap_or("main")
    }
}

/// What a message is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct About {
    /// The domain.
    pub domain: Option<String>,
    /// The disk's target name.
    pub disk: Option<String>,
    /// The run.
    pub run: Option<String>,
}

/// A message that another process of ours wrote as [`line_as_json`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Heard {
    level: String,
    /// What it says.
    pub message: String,
    /// What it is about.
    #[serde(flatten)]
    pub about: About,
}

impl Heard {
    /// What that is; a line that nobody of ours wrote is a message as it stands.
    pub fn of(line: &str) -> Self {
        serde_json::from_str(line).unwrap_or_else(|_| Self {
            level: level_word(Level::INFO).to_owned(),
            message: line.to_owned(),
            about: About::default(),
        })
    }

    /// Its level.
    pub fn level(&self) -> Level {
        let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG];
        levels.into_iter().find(|level| level_word(*level) == self.level).unwrap_or(Level::INFO)
    }
}

/// A message as an object on one line: `time`, `level`, `domain`, `disk` and `run` where they are known, `message`.
pub fn line_as_json(time: &str, level: Level, message: &str, about: &About) -> String {
    let mut fields = vec![("time", time), ("level", level_word(level))];
    fields.extend(about.domain.as_deref().map(|domain| ("domain", domain)));
    fields.extend(about.disk.as_deref().map(|disk| ("disk", disk)));
    fields.extend(about.run.as_deref().map(|run| ("run", run)));
    fields.push(("message", message));
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{}:{}", json!(name), json!(value))).collect();
    format!("{{{}}}", fields.join(","))
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        _ => "debug",
    }
}

fn default_place(tool: &str) -> String {
    format!("root {tool} - main")
}

fn time() -> String {
    jiff::Zoned::now().strftime("[%Y-%m-%d %H:%M:%S]").to_string()
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "at" => self.at = Some(value.to_owned()),
            "disk" => self.disk = Some(value.to_owned()),
            "whose" => self.domain = Some(value.to_owned()),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.message, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        Said {
            message: "Got \"2\"".to_owned(),
            at: Some("root disk - backup".to_owned()),
            disk: Some("vda".to_owned()),
            domain: None,
        }
    }

    #[test]
    fn lines_are_those_of_virtnbdbackup() {
        let line = said().classic("virtnbdbackup", Level::WARN);
        let (time, rest) = line.split_at("[2026-11-22 11:54:58]".len());
        assert!(time.starts_with('[') && time.ends_with(']'), "{line}");
        assert_eq!(rest, " WARNING root disk - backup [vda]: Got \"2\"");
        let plain = Said { message: "x".to_owned(), ..Said::default() };
        assert!(plain.classic("virtnbdmap", Level::INFO).ends_with(" INFO root virtnbdmap - main [main]: x"));
    }

    #[test]
    fn what_another_process_says_is_heard() {
        let about = About { domain: Some("a \"b\"".into()), disk: Some("vda".into()), run: Some("x".into()) };
        for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG] {
            let heard = Heard::of(&line_as_json("now", level, "two\nlines", &about));
            assert_eq!((heard.level(), heard.message.as_str(), &heard.about), (level, "two\nlines", &about));
        }
        let other = Heard::of("thread panicked");
        assert_eq!((other.level(), other.message.as_str()), (Level::INFO, "thread panicked"));
    }

    #[test]
    fn json_has_the_fields_of_virtnbdbackup_in_their_order() {
        let line = said().json("virtnbdbackup", Level::INFO);
        let rest = r#""level": "INFO", "name": "root", "module": "disk", "function": "backup", "thread": "vda", "message": "Got \"2\""}"#;
        assert!(line.starts_with(r#"{"time": "["#) && line.ends_with(rest), "{line}");
        serde_json::from_str::<serde_json::Value>(&line).unwrap();
    }
}
