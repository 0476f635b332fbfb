//! The command line of this process, with what environment and file add to it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};

use super::file::{self, Configuration};
use super::merge::{self, Merged, Origin, Setting, Typed};
use super::settings::{self, Place};
use super::variables::Variables;
use super::{Section, options};
use crate::cli::backup::Excluded;
use crate::cli::{self, Cli};
use crate::error::Error;

/// What to run.
#[derive(Debug)]
pub struct Read {
    /// The command line, complete.
    pub cli: Cli,
    /// What to warn of: it has no effect, though somebody thought that it has.
    pub notes: Vec<String>,
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Failure {
    /// The command line: an error, or help.
    Usage(clap::Error),
    /// The configuration.
    Configuration(Error),
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self::Usage(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Configuration(error)
    }
}

/// The definition of the command line, ready to be asked.
pub fn program() -> Command {
    let mut program = Cli::command();
    program.build();
    program
}

/// The password that was typed, whatever else was; nothing else is read for that.
pub fn typed_password(words: &[OsString]) -> Option<String> {
    let matches = tolerant(words).ok()?;
    let (_, options) = matches.subcommand()?;
    options.try_get_one::<String>("password").ok()?.cloned()
}

fn tolerant(words: &[OsString]) -> Result<ArgMatches, clap::Error> {
    program().ignore_errors(true).try_get_matches_from(words)
}

/// The command that was typed, whatever is wrong with the rest.
pub fn command_of(words: &[OsString]) -> Option<String> {
    tolerant(words).ok()?.subcommand_name().map(str::to_owned)
}

/// Reads `words`, the program's name first, and what `variables` and the file add.
///
/// # Errors
/// [`Failure::Usage`] also asks for help to be printed.
pub fn read(words: &[OsString], variables: &Variables) -> Result<Read, Failure> {
    let mut program = program();
    let matches = tolerant(words)?;
    let is_section = |name: &str| options::commands(&program).any(|command| command.get_name() == name);
    let Some((name, options)) = matches.subcommand().filter(|(name, _)| is_section(name)) else {
        let mut cli = parse(&mut program, words)?;
        if let cli::Command::Config(args) = &mut cli.command {
            args.file = cli.config.clone();
        }
        return Ok(Read { cli, notes: Vec::new() });
    };
    // What is wrong with the words alone is said first.
    match program.try_get_matches_from_mut(words) {
        Err(error) if error.kind() != ErrorKind::MissingRequiredArgument => return Err(error.into()),
        _ => {}
    }
    let typed = typed(&program, words, name, options);
    let asked = options.try_get_one::<PathBuf>("config").ok().flatten().cloned();
    let file = file::open(super::named(asked, variables).as_deref(), &program)?;
    let mut layers = layers(&mut program, name, variables, file.as_ref())?;
    let sections = domain_layers(&mut program, name, file.as_ref())?;
    let notes = variables.strangers(name, &settings::definitions(&program, name));
    let merged = merge::merge(&mut program, &typed, &layers);
    if let Some(own) = only_domain(options, &merged).and_then(|domain| sections.get(&domain)) {
        layers.insert(ABOVE_THE_COMMAND, own.clone());
        let merged = merge::merge(&mut program, &typed, &layers);
        let mut cli = parse(&mut program, &typed.with(&merged.words))?;
        if let cli::Command::Backup(args) = &mut cli.command {
            args.excluded = excluded(&merged);
        }
        return Ok(Read { cli, notes });
    }
    let mut cli = parse(&mut program, &typed.with(&merged.words))?;
    if let cli::Command::Backup(args) = &mut cli.command {
        args.excluded = excluded(&merged);
        for (domain, own) in sections {
            let mut layers = layers.clone();
            layers.insert(ABOVE_THE_COMMAND, own);
            args.sections.insert(domain, section(&mut program, &typed, &layers)?);
        }
    }
    Ok(Read { cli, notes })
}

fn parse(program: &mut Command, words: &[OsString]) -> Result<Cli, clap::Error> {
    let matches = program.try_get_matches_from_mut(words)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(program))
}

/// Where the section of a domain is among the layers: only the environment is stronger.
pub(super) const ABOVE_THE_COMMAND: usize = 1;

/// What is set for a command, whatever the domain, the strongest first.
pub(super) fn layers(
    program: &mut Command,
    command: &str,
    variables: &Variables,
    file: Option<&Configuration>,
) -> Result<Vec<Vec<Setting>>, Error> {
    let environment = variables.settings(command, &settings::definitions(program, command))?;
    settings::validate(program, command, &environment)?;
    let mut layers = vec![environment];
    if let Some(file) = file {
        layers.push(settings::of(program, command, file, Place::Command)?);
        layers.push(settings::of(program, command, file, Place::Top)?);
    }
    Ok(layers)
}

/// What is set for each domain; only a backup is of domains.
pub(super) fn domain_layers(
    program: &mut Command,
    command: &str,
    file: Option<&Configuration>,
) -> Result<BTreeMap<String, Vec<Setting>>, Error> {
    let Some(file) = file.filter(|_| command == "backup") else { return Ok(BTreeMap::new()) };
    let mut layers = BTreeMap::new();
    for domain in file.domains.keys() {
        layers.insert(domain.clone(), settings::of(program, command, file, Place::Domain(domain))?);
    }
    Ok(layers)
}

/// The words as they were typed, and the options in them.
fn typed(program: &Command, words: &[OsString], name: &str, options: &ArgMatches) -> Typed {
    let end = end_of_command(words);
    let (begin, rest) = words.split_at(end);
    let command = options::commands(program).find(|command| command.get_name() == name);
    let is_typed = |id: &str| options.value_source(id) == Some(ValueSource::CommandLine);
    let longs = command.into_iter().flat_map(Command::get_arguments).filter(|arg| is_typed(arg.get_id().as_str()));
    let longs = longs.filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
    Typed { begin: begin.to_vec(), rest: rest.to_vec(), longs }
}

/// Before the command only `--config FILE` can stand.
fn end_of_command(words: &[OsString]) -> usize {
    let mut at = 1;
    while let Some(word) = words.get(at) {
        at += 1;
        match word.to_str() {
            Some("--config") => at += 1,
            Some(word) if word.starts_with("--config=") => {}
            _ => break,
        }
    }
    at.min(words.len())
}

/// The domain of a backup of one domain, as it was typed or set.
fn only_domain(options: &ArgMatches, merged: &Merged) -> Option<String> {
    let typed = options.try_get_many::<String>("domain").ok().flatten();
    let typed: Vec<String> = typed.into_iter().flatten().cloned().collect();
    let set = merged.words.iter().filter_map(|word| word.strip_prefix("--domain=")).map(str::to_owned);
    let mut domains = if typed.is_empty() { set.collect() } else { typed };
    let only = domains.pop();
    only.filter(|_| domains.is_empty())
}

fn section(program: &mut Command, typed: &Typed, layers: &[Vec<Setting>]) -> Result<Section, Failure> {
    let merged = merge::merge(program, typed, layers);
    let cli = parse(program, &typed.with(&merged.words))?;
    let cli::Command::Backup(mut args) = cli.command else {
        return Err(Error::usage("only a backup has sections of domains").into());
    };
    args.excluded = excluded(&merged);
    let own = merged.used.iter().filter(|setting| is_of_domain(setting)).map(|setting| setting.long.clone()).collect();
    Ok(Section { args, own })
}

/// Whether a domain's own section has it.
fn is_of_domain(setting: &Setting) -> bool {
    match &setting.origin {
        Origin::File { section, .. } => section.starts_with("[domain."),
        Origin::Variable(_) => false,
    }
}

/// Whom the disks of `exclude` are said of, where one domain is backed up.
fn excluded(merged: &Merged) -> Excluded {
    let is_file = |setting: &&Setting| matches!(setting.origin, Origin::File { .. });
    match merged.used.iter().filter(is_file).find(|setting| setting.long == "exclude") {
        Some(setting) if !is_of_domain(setting) => Excluded::Any,
        _ => Excluded::Domain,
    }
}
