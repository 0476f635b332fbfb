//! Everything that file and environment say, for every command and domain.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Command;

use super::file::{self, Configuration};
use super::merge::{self, Merged, Setting, Typed};
use super::read::{ABOVE_THE_COMMAND, domain_layers, layers, program};
use super::settings::{self, Place};
use super::variables::Variables;
use super::{SYSTEM, options};
use crate::error::Error;

/// What is in force for a command, or for a domain of a backup.
#[derive(Debug)]
pub struct InForce {
    /// `backup`
    pub command: String,
    /// The domain, where it has a section.
    pub domain: Option<String>,
    /// Options that something sets.
    pub merged: Merged,
    /// Other options and what the program does without them.
    pub defaults: Vec<(String, String)>,
}

/// The look.
#[derive(Debug, Default)]
pub struct Look {
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What is in force, in the order of the commands.
    pub sections: Vec<InForce>,
    /// What is wrong.
    pub errors: Vec<Error>,
    /// Variables without an effect.
    pub notes: Vec<String>,
}

/// Looks at all of it; with a `domain` at a backup of it alone.
pub fn look(named: Option<PathBuf>, variables: &Variables, domain: Option<&str>) -> Look {
    let mut program = program();
    let mut look = Look::default();
    let named = super::named(named, variables);
    let file = match file::open(named.as_deref(), &program) {
        Ok(file) => file,
        Err(error) => {
            look.errors.push(error);
            return look;
        }
    };
    look.file = file.as_ref().map(|_| named.unwrap_or_else(|| Path::new(SYSTEM).to_owned()));
    let commands: Vec<String> = options::commands(&program).map(|command| command.get_name().to_owned()).collect();
    for command in commands.iter().filter(|command| domain.is_none() || *command == "backup") {
        look.notes.extend(variables.strangers(command, &settings::definitions(&program, command)));
        match of_command(&mut program, command, variables, file.as_ref(), domain) {
            Ok(sections) => look.sections.extend(sections),
            Err(_) => look.errors.extend(all_errors(&mut program, command, variables, file.as_ref())),
        }
    }
    // What is at the top is wrong for every command alike.
    let mut seen = BTreeSet::new();
    look.errors.retain(|error| seen.insert(error.to_string()));
    look
}

fn of_command(
    program: &mut Command,
    command: &str,
    variables: &Variables,
    file: Option<&Configuration>,
    domain: Option<&str>,
) -> Result<Vec<InForce>, Error> {
    let layers = layers(program, command, variables, file)?;
    let domains = domain_layers(program, command, file)?;
    let mut found = Vec::new();
    if domain.is_none() {
        found.push(in_force(program, command, None, &layers));
    }
    let named = domain.map(|name| (name.to_owned(), domains.get(name).cloned().unwrap_or_default()));
    for (name, own) in if named.is_some() { named.into_iter().collect() } else { Vec::from_iter(domains) } {
        let mut layers = layers.clone();
        layers.insert(ABOVE_THE_COMMAND, own);
        found.push(in_force(program, command, Some(name), &layers));
    }
    Ok(found)
}

fn in_force(program: &mut Command, command: &str, domain: Option<String>, layers: &[Vec<Setting>]) -> InForce {
    let rest = domain.iter().map(|name| format!("--domain={name}").into()).collect();
    let longs = domain.iter().map(|_| "domain".to_owned()).collect();
    let typed = Typed { begin: vec!["virtkeep".into(), command.into()], rest, longs };
    let mut merged = merge::merge(program, &typed, layers);
    let definitions = settings::definitions(program, command);
    let place = |setting: &Setting| definitions.iter().position(|definition| definition.long == setting.long);
    merged.used.sort_by_key(place);
    merged.unused.sort_by_key(|(setting, _)| place(setting));
    let is_set = |long: &str| merged.used.iter().any(|setting| setting.long == long);
    let defaults = definitions.iter().filter(|definition| !is_set(&definition.long));
    let defaults =
        defaults.filter_map(|definition| Some((definition.long.clone(), definition.default.clone()?))).collect();
    InForce { command: command.to_owned(), domain, merged, defaults }
}

/// One for each section that has any.
fn all_errors(program: &mut Command, command: &str, variables: &Variables, file: Option<&Configuration>) -> Vec<Error> {
    let mut errors: Vec<Error> = layers(program, command, variables, None).err().into_iter().collect();
    let Some(file) = file else { return errors };
    let domains = file.domains.keys().filter(|_| command == "backup").map(|name| Place::Domain(name));
    for place in [Place::Top, Place::Command].into_iter().chain(domains) {
        errors.extend(settings::of(program, command, file, place).err());
    }
    errors
}
