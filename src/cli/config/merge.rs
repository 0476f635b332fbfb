//! Which of the settings are in force beside what was typed: clap decides, by being asked.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::options::Given;

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A variable of the environment.
    Variable(String),
    /// A file.
    File {
        /// Where it is.
        path: PathBuf,
        /// The line.
        line: usize,
        /// `[NAME]`; empty before all sections.
        section: String,
    },
}

/// An option with a value from elsewhere than the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The option's long name.
    pub long: String,
    /// Its value as it was written.
    pub given: Given,
    /// What would be typed for it; none where it says that the option is not there.
    pub words: Vec<String>,
    /// Where it comes from.
    pub origin: Origin,
}

/// A command line as it was typed.
#[derive(Debug, Clone)]
pub struct Typed {
    /// The program, options of its own, and the command.
    pub begin: Vec<OsString>,
    /// What follows.
    pub rest: Vec<OsString>,
    /// The long names of the options in it.
    pub longs: BTreeSet<String>,
}

impl Typed {
    /// With more words: before what was typed, in which `--` may end the options.
    pub fn with(&self, words: &[String]) -> Vec<OsString> {
        let words = words.iter().map(OsString::from);
        self.begin.iter().cloned().chain(words).chain(self.rest.iter().cloned()).collect()
    }
}

/// What came of the settings.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    /// The words of those that are in force.
    pub words: Vec<String>,
    /// Those in force.
    pub used: Vec<Setting>,
    /// Those that are not, and why.
    pub unused: Vec<(Setting, String)>,
}

/// Puts together what was typed and the settings of `layers`, the strongest first. A setting is left out where
/// something stronger has the option, where clap says that it can't go together with what is stronger, and where it
/// needs an option that is not there.
pub fn merge(program: &mut Command, typed: &Typed, layers: &[Vec<Setting>]) -> Merged {
    let mut merged = Merged::default();
    let mut taken = typed.longs.clone();
    let mut pending: Vec<(Setting, String)> = Vec::new();
    for layer in layers {
        for setting in layer {
            if taken.contains(&setting.long) {
                let why = if typed.longs.contains(&setting.long) { "the command line has it" } else { "overridden" };
                merged.unused.push((setting.clone(), why.to_owned()));
            } else if setting.words.is_empty() {
                merged.used.push(setting.clone());
            } else {
                pending.push((setting.clone(), String::new()));
            }
        }
        taken.extend(layer.iter().map(|setting| setting.long.clone()));
    }
    let mut missing = match ask(program, &typed.with(&[]), "") {
        Answer::Fits(missing) => missing,
        Answer::Not(_) => BTreeSet::new(),
    };
    // One may need another that comes later.
    loop {
        let before = pending.len();
        let mut left = Vec::new();
        for (setting, _) in pending {
            let more: Vec<String> = merged.words.iter().chain(&setting.words).cloned().collect();
            match ask(program, &typed.with(&more), &setting.long) {
                Answer::Fits(now) if now.is_subset(&missing) => {
                    missing = now;
                    merged.words = more;
                    merged.used.push(setting);
                }
                Answer::Fits(now) => {
                    let needed: Vec<&str> = now.difference(&missing).map(String::as_str).collect();
                    left.push((setting, format!("needs {}", needed.join(", "))));
                }
                Answer::Not(why) => left.push((setting, why)),
            }
        }
        pending = left;
        if pending.len() == before || pending.is_empty() {
            break;
        }
    }
    merged.unused.extend(pending);
    merged
}

enum Answer {
    /// It would be good with these options more.
    Fits(BTreeSet<String>),
    Not(String),
}

/// What clap says of these words; `own`: the long name of the option that they are asked for.
fn ask(program: &mut Command, words: &[OsString], own: &str) -> Answer {
    match program.try_get_matches_from_mut(words) {
        Ok(_) => Answer::Fits(BTreeSet::new()),
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {
            Answer::Fits(context(&error, ContextKind::InvalidArg))
        }
        Err(error) if error.kind() == ErrorKind::ArgumentConflict => {
            Answer::Not(format!("does not go together with {}", others(&error, own)))
        }
        Err(error) => Answer::Not(first_line(&error)),
    }
}

/// What the option called `own` is in conflict with: clap names both sides, in either order.
pub fn others(error: &clap::Error, own: &str) -> String {
    let mut names = context(error, ContextKind::InvalidArg);
    names.extend(context(error, ContextKind::PriorArg));
    let long = |name: &str| {
        let name = name.trim_start_matches('-');
        name.split(|c: char| c != '-' && !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
    };
    names.into_iter().filter(|name| long(name) != own).collect::<Vec<_>>().join(", ")
}

/// Names in an error of clap's.
pub fn context(error: &clap::Error, kind: ContextKind) -> BTreeSet<String> {
    match error.get(kind) {
        Some(ContextValue::String(name)) => [name.clone()].into(),
        Some(ContextValue::Strings(names)) => names.iter().cloned().collect(),
        _ => BTreeSet::new(),
    }
}

/// What clap says is wrong.
pub fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}
