//! The configuration file: TOML, with the line of everything, and who may write it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Command;
use rustix::process::geteuid;
use toml::de::{DeTable, DeValue};

use super::SYSTEM;
use super::options::{self, Given};
use crate::error::{Error, Result};

/// More is not a configuration.
const MAX_SIZE: u64 = 1 << 20;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// An option's name, or what was taken for one.
    pub key: String,
    /// Its value, or why it is none.
    pub given: Result<Given, &'static str>,
    /// Where it is, from 1.
    pub line: usize,
}

/// A file that is well-formed: its sections are there, its keys and values not looked at.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    /// Where it is.
    pub path: PathBuf,
    /// What stands before all sections.
    pub top: Vec<Entry>,
    /// The section of each command.
    pub commands: BTreeMap<String, Vec<Entry>>,
    /// The section of each domain.
    pub domains: BTreeMap<String, Vec<Entry>>,
}

/// Reads the file that was `named`, else the system's, if there is one. `program` is built.
///
/// # Errors
/// [`Kind::NotFound`](crate::error::Kind::NotFound) for a named file that is not there; [`Kind::Usage`](crate::error::Kind::Usage) for one that others may write, that is no
/// TOML, and for sections that there are not.
pub fn open(named: Option<&Path>, program: &Command) -> Result<Option<Configuration>> {
    let path = named.unwrap_or(Path::new(SYSTEM));
    let read = match File::open(path) {
        Ok(file) => text(file, named.is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(None),
        Err(error) => Err(Error::io("open the configuration", error)),
    };
    let read = read.and_then(|text| parse(path, &text, program));
    read.map(Some).map_err(|error| error.path(path).hint("--config FILE names another file, --config /dev/null none"))
}

fn text(file: File, of_system: bool) -> Result<String> {
    let failed = |error| Error::io("read the configuration", error);
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() {
        trust(metadata.uid(), metadata.mode(), geteuid().as_raw(), of_system)?;
    }
    let mut text = String::new();
    file.take(MAX_SIZE).read_to_string(&mut text).map_err(failed)?;
    match text.len() as u64 {
        MAX_SIZE => Err(Error::usage("more than 1 MiB is no configuration")),
        _ => Ok(text),
    }
}

/// Who can write the file decides what is backed up and where to. The system's is read unasked, so it must be
/// root's or the user's; one that was named only must not be everybody's.
fn trust(owner: u32, mode: u32, user: u32, of_system: bool) -> Result<()> {
    let writable = if of_system { mode & 0o022 } else { mode & 0o002 };
    if writable != 0 {
        return Err(Error::usage(format!("other users can write the configuration (mode {:04o})", mode & 0o7777))
            .hint("make sure that it says what it should, then: chmod go-w FILE"));
    }
    if of_system && owner != 0 && owner != user {
        return Err(Error::usage(format!("the configuration belongs to another user (uid {owner})"))
            .hint("make sure that it says what it should, then: chown root FILE"));
    }
    Ok(())
}

/// Reads the text of a file.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage), with the line.
pub fn parse(path: &Path, text: &str, program: &Command) -> Result<Configuration> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line(text, span.start));
        Error::usage(format!("line {line}: {}", error.message().trim().replace('\n', ", ")))
    })?;
    let mut configuration = Configuration { path: path.to_owned(), ..Configuration::default() };
    for (key, value) in table.get_ref() {
        let at = line(text, key.span().start);
        let name = key.get_ref().as_ref();
        match value.get_ref() {
            DeValue::Table(table) if name == "domain" => {
                for (domain, value) in table {
                    let at = line(text, domain.span().start);
                    let DeValue::Table(table) = value.get_ref() else { return Err(no_domain(at, domain.get_ref())) };
                    configuration.domains.insert(domain.get_ref().to_string(), entries(text, table));
                }
            }
            DeValue::Table(table) if options::commands(program).any(|command| command.get_name() == name) => {
                configuration.commands.insert(name.to_owned(), entries(text, table));
            }
            DeValue::Table(_) => return Err(no_section(at, name, program)),
            _ => configuration.top.push(entry(text, name, key.span().start, value.get_ref())),
        }
    }
    configuration.top.sort_by_key(|entry| entry.line);
    Ok(configuration)
}

fn no_domain(line: usize, name: &str) -> Error {
    Error::usage(format!("line {line}: [domain] has a section for each domain, and {name} is none")).hint(
        "write [domain.NAME], or [domain.\"my.name\"] where there is a dot in it; what is for all domains is in [backup]",
    )
}

fn no_section(line: usize, name: &str, program: &Command) -> Error {
    let names: Vec<&str> = options::commands(program).map(Command::get_name).collect();
    let error = Error::usage(format!("line {line}: there is no section [{name}]"));
    match options::nearest(name, names.iter().copied().chain(["domain"])) {
        Some(near) => error.hint(format!("is it [{near}]?")),
        None => error.hint(format!("there are [domain.NAME], [{}]", names.join("], ["))),
    }
}

fn entries(text: &str, table: &DeTable<'_>) -> Vec<Entry> {
    let all = table.iter().map(|(key, value)| entry(text, key.get_ref(), key.span().start, value.get_ref()));
    let mut all: Vec<Entry> = all.collect();
    all.sort_by_key(|entry| entry.line);
    all
}

fn entry(text: &str, key: &str, at: usize, value: &DeValue<'_>) -> Entry {
    Entry { key: key.to_owned(), given: given(value), line: line(text, at) }
}

fn given(value: &DeValue<'_>) -> Result<Given, &'static str> {
    let scalar = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Ok(text.to_string()),
        // 0o640 would be read as 416.
        DeValue::Integer(number) if number.radix() != 10 => Err("only decimal numbers go without quotes"),
        DeValue::Integer(number) => Ok(number.as_str().replace('_', "")),
        _ => Err("texts are in quotes, numbers are whole, and lists hold these"),
    };
    match value {
        DeValue::Boolean(set) => Ok(Given::Bool(*set)),
        DeValue::Integer(_) => scalar(value).map(Given::Number),
        DeValue::Array(values) => {
            values.iter().map(|value| scalar(value.get_ref())).collect::<Result<_, _>>().map(Given::List)
        }
        _ => scalar(value).map(Given::Text),
    }
}

fn line(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::error::Kind;
    use clap::CommandFactory;

    fn read(text: &str) -> Result<Configuration> {
        let mut program = Cli::command();
        program.build();
        parse(Path::new("x.toml"), text, &program)
    }

    #[test]
    fn sections_keys_and_lines_are_found() {
        let found =
            read("uri = 'a'\n\n[backup]\nworker = 1_0\n# c\ncompress = true\n[domain.\"a.b\"]\ninclude = ['vda', 1]\n");
        let found = found.unwrap();
        let entry = |key: &str, given, line| Entry { key: key.to_owned(), given: Ok(given), line };
        assert_eq!(found.top, [entry("uri", Given::Text("a".to_owned()), 1)]);
        let backup = [entry("worker", Given::Number("10".to_owned()), 4), entry("compress", Given::Bool(true), 6)];
        assert_eq!(found.commands["backup"], backup);
        let list = Given::List(vec!["vda".to_owned(), "1".to_owned()]);
        assert_eq!(found.domains["a.b"], [entry("include", list, 8)]);
    }

    #[test]
    fn what_is_no_configuration_is_named_with_its_line() {
        for (text, words) in [
            ("a = 1\nb = = 2", "line 2: "),
            ("[backup]\n[backup]", "line 2: "),
            ("\n[bakup]\na = 1", "line 2: there is no section [bakup]"),
            ("[guard]", "no section [guard]"),
            ("[config]", "no section [config]"),
            ("[domain]\nweb = 1", "line 2: [domain] has a section for each domain"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().contains(words) && error.kind() == Kind::Usage, "{text:?}: {error}");
        }
        assert_eq!(read("[bakup]").unwrap_err().hint_text(), Some("is it [backup]?"));
        for bad in ["0o640", "1.5", "[[1]]", "{ b = 1 }", "1979-05-27"] {
            let found = read(&format!("[backup]\na = {bad}")).unwrap();
            assert!(found.commands["backup"][0].given.is_err(), "{bad}");
        }
    }

    #[test]
    fn the_system_s_file_is_root_s_or_the_user_s_and_nobody_else_writes_it() {
        for (owner, mode, user, of_system, good) in [
            (0, 0o644, 1000, true, true),
            (1000, 0o600, 1000, true, true),
            (1001, 0o644, 1000, true, false),
            (1001, 0o644, 1000, false, true),
            (0, 0o664, 0, true, false),
            (0, 0o664, 0, false, true),
            (0, 0o646, 0, true, false),
            (0, 0o646, 0, false, false),
        ] {
            assert_eq!(trust(owner, mode, user, of_system).is_ok(), good, "{owner} {mode:o} {user} {of_system}");
        }
    }
}
