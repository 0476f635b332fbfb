//! The keys of a section become settings of a command, or an error that names the line and what was meant.

use std::path::Path;

use clap::Command;
use clap::error::{ContextKind, ErrorKind};

use super::file::{Configuration, Entry};
use super::merge::{self, Origin, Setting, Typed};
use super::options::{self, Definition};
use crate::error::{Error, Result};

/// Where in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'p> {
    /// Before all sections: what means the same to every command.
    Top,
    /// The section of a command.
    Command,
    /// The section of a domain.
    Domain(&'p str),
}

impl Place<'_> {
    fn name(self, command: &str) -> String {
        match self {
            Self::Top => String::new(),
            Self::Command => format!("[{command}]"),
            Self::Domain(name) => format!("[domain.{name}]"),
        }
    }
}

/// What `place` sets of the options of `command`; `program` is built.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) with file and line for a key that is no option there, a value that the
/// option does not take, and for options that do not go together.
pub fn of(program: &mut Command, command: &str, file: &Configuration, place: Place<'_>) -> Result<Vec<Setting>> {
    let definitions = definitions(program, command);
    let entries = match place {
        Place::Top => Some(&file.top),
        Place::Command => file.commands.get(command),
        Place::Domain(name) => file.domains.get(name),
    };
    let mut settings = Vec::new();
    for entry in entries.into_iter().flatten() {
        if place == Place::Top {
            known_to_some(program, entry).map_err(|error| error.path(&file.path))?;
        }
        let wrong = |why: &str| Error::usage(format!("line {}: {}: {why}", entry.line, entry.key)).path(&file.path);
        let definition = match definitions.iter().find(|definition| definition.long == entry.key) {
            Some(definition) => definition,
            None if place == Place::Top => continue,
            None => return Err(unknown(entry, &place.name(command), &definitions).path(&file.path)),
        };
        if matches!(place, Place::Domain(_)) && !definition.domain {
            return Err(wrong("a domain can't have its own").hint("put it into [backup]: it is about the whole run"));
        }
        let given = entry.given.clone().map_err(wrong)?;
        let words = definition.words(&given).map_err(|why| wrong(&why))?;
        let origin = Origin::File { path: file.path.clone(), line: entry.line, section: place.name(command) };
        settings.push(Setting { long: entry.key.clone(), given, words, origin });
    }
    validate(program, command, &settings)?;
    Ok(settings)
}

/// The options of a command that may be set.
pub fn definitions(program: &Command, command: &str) -> Vec<Definition> {
    let found = options::commands(program).find(|found| found.get_name() == command);
    found.map(options::definitions).unwrap_or_default()
}

/// Refuses a key at the top that is of no command, or not of all that have it alike.
fn known_to_some(program: &Command, entry: &Entry) -> Result<()> {
    let all: Vec<(&str, Definition)> = options::commands(program)
        .flat_map(|command| {
            options::definitions(command).into_iter().map(|definition| (command.get_name(), definition))
        })
        .collect();
    let of: Vec<&str> =
        all.iter().filter(|(_, definition)| definition.long == entry.key).map(|(name, _)| *name).collect();
    if all.iter().any(|(_, definition)| definition.long == entry.key && definition.common) {
        return Ok(());
    }
    match of.first() {
        Some(first) => Err(Error::usage(format!("line {}: {} belongs into a section", entry.line, entry.key))
            .hint(format!("put it below [{}]: it is an option of {}", first, of.join(", ")))),
        None => {
            let common: Vec<Definition> =
                all.into_iter().map(|(_, definition)| definition).filter(|it| it.common).collect();
            Err(unknown(entry, "", &common))
        }
    }
}

fn unknown(entry: &Entry, section: &str, definitions: &[Definition]) -> Error {
    let place = if section.is_empty() { "before the first section".to_owned() } else { format!("in {section}") };
    if let Some(remedy) = options::refusal(&entry.key) {
        let error = Error::usage(format!("line {}: {} can't be set in a file", entry.line, entry.key));
        return error.hint(remedy);
    }
    let error = Error::usage(format!("line {}: there is no option {} {place}", entry.line, entry.key));
    match options::nearest(&entry.key, definitions.iter().map(|definition| definition.long.as_str())) {
        Some(near) => error.hint(format!("is it {near}?")),
        None => error.hint("keys are the long names of options: virtkeep COMMAND --help lists them"),
    }
}

/// Lets clap look at each value, and whether all of them go together.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage).
pub fn validate(program: &mut Command, command: &str, settings: &[Setting]) -> Result<()> {
    let typed = Typed { begin: vec!["virtkeep".into(), command.into()], rest: Vec::new(), longs: Default::default() };
    let mut words = Vec::new();
    for setting in settings {
        words.extend(setting.words.iter().cloned());
        // A variable may be meant for a run of which the options are still to come.
        let is_file = matches!(setting.origin, Origin::File { .. });
        let Err(error) = program.try_get_matches_from_mut(typed.with(&words)) else { continue };
        match error.kind() {
            ErrorKind::MissingRequiredArgument => {}
            ErrorKind::ArgumentConflict if !is_file => {}
            ErrorKind::ArgumentConflict => {
                let others = merge::others(&error, &setting.long);
                return Err(at(setting, &format!("it does not go together with {others}, which the section has, too"))
                    .hint("leave one of them away"));
            }
            _ => {
                let possible: Vec<String> = merge::context(&error, ContextKind::ValidValue).into_iter().collect();
                let wrong = at(setting, &merge::first_line(&error));
                return Err(match possible.is_empty() {
                    true => wrong,
                    false => wrong.hint(format!("it can be {}", possible.join(", "))),
                });
            }
        }
    }
    Ok(())
}

fn at(setting: &Setting, why: &str) -> Error {
    match &setting.origin {
        Origin::Variable(name) => Error::usage(format!("the variable {name}: {why}")),
        Origin::File { path, line, .. } => {
            Error::usage(format!("line {line}: {}: {why}", setting.long)).path(Path::new(path))
        }
    }
}
