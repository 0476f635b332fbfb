//! Which options a file or the environment may set, and the words that a value becomes.

use clap::{Arg, ArgAction, Command};

/// Commands that have no options to set.
const NOT_A_SECTION: [&str; 2] = ["config", "help"];
/// Options that mean the same to every command, besides those of these headings.
const COMMON: [&str; 3] = ["cache-dir", "checkpointdir", "scratchdir"];
const COMMON_HEADINGS: [&str; 2] = ["Hypervisor", "Output"];
/// Options of a backup that are about a whole run, whatever domains are in it.
const WHOLE_RUN: [&str; 5] = ["all", "domain", "exclude-domain", "inactive", "parallel"];
/// Options that were thought over for one run, and do harm in any other.
const ONE_RUN: [&str; 7] = ["base", "file", "force", "printonly", "repair", "sequence", "to-device"];

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Flag,
    /// Nothing; it counts how often it is there.
    Count,
    /// A value, which may be left away.
    Optional,
    /// A value.
    Value,
    /// Values.
    List,
}

/// An option that may be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its long name.
    pub long: String,
    /// What it takes.
    pub kind: Kind,
    /// Whether it means the same to every command.
    pub common: bool,
    /// Whether a domain may have its own.
    pub domain: bool,
    /// What is so without it.
    pub default: Option<String>,
}

/// A value as it is written in a file or a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// `true`, `false`
    Bool(bool),
    /// A decimal number.
    Number(String),
    /// A text.
    Text(String),
    /// Texts and numbers.
    List(Vec<String>),
}

/// The commands that have a section. `program` is built.
pub fn commands(program: &Command) -> impl Iterator<Item = &Command> {
    program.get_subcommands().filter(|command| !command.is_hide_set() && !NOT_A_SECTION.contains(&command.get_name()))
}

/// The options of a command that may be set.
pub fn definitions(command: &Command) -> Vec<Definition> {
    command.get_arguments().filter(|arg| !arg.is_positional()).filter_map(define).collect()
}

fn define(arg: &Arg) -> Option<Definition> {
    let long = arg.get_long()?.to_owned();
    if arg.is_hide_set() || refusal(&long).is_some() {
        return None;
    }
    let optional = arg.get_num_args().is_some_and(|range| range.min_values() == 0);
    let kind = match arg.get_action() {
        ArgAction::SetTrue => Kind::Flag,
        ArgAction::Count => Kind::Count,
        ArgAction::Append => Kind::List,
        _ if optional => Kind::Optional,
        _ => Kind::Value,
    };
    let heading = arg.get_help_heading().unwrap_or_default();
    let common = COMMON.contains(&long.as_str()) || COMMON_HEADINGS.contains(&heading);
    let domain = !WHOLE_RUN.contains(&long.as_str()) && heading != "Output";
    let default = arg.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
    let default = default.filter(|_| matches!(kind, Kind::Value | Kind::List | Kind::Optional));
    Some(Definition { long, kind, common, domain, default })
}

/// Why an option can't be set, where it could be typed; what to do instead.
pub fn refusal(long: &str) -> Option<&'static str> {
    match long {
        "password" => Some("write it into a file that only its owner can read, and name that: password-file"),
        "help" | "version" | "config" => Some("leave it away: it is for the command line"),
        long if ONE_RUN.contains(&long) => Some(
            "give it on the command line: it is for one run that was thought over, and would do harm in all others",
        ),
        _ => None,
    }
}

/// The name of `names` that is most like `name`, if one is like it at all.
pub fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let plain = name.to_lowercase().replace('_', "-");
    let rated = names.map(|other| (strsim::jaro_winkler(&plain, other), other));
    rated.filter(|(likeness, _)| *likeness > 0.8).max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, name)| name)
}

impl Definition {
    /// The words for a value; none where it says that the option is not there.
    ///
    /// # Errors
    /// What the option takes, where this is something else.
    pub fn words(&self, given: &Given) -> Result<Vec<String>, String> {
        let flag = format!("--{}", self.long);
        let with = |value: &String| format!("{flag}={value}");
        match (self.kind, given) {
            (Kind::Flag | Kind::Count | Kind::Optional, Given::Bool(set)) => Ok(vec![flag; usize::from(*set)]),
            (Kind::Count, Given::Number(times)) => match times.parse() {
                Ok(times @ 0..=9) => Ok(vec![flag; times]),
                _ => Err("it takes a number from 0 to 9".to_owned()),
            },
            (Kind::Flag, _) => Err("it takes true or false, without quotes".to_owned()),
            (Kind::Count, _) => Err("it takes a number, true or false".to_owned()),
            (Kind::List, Given::List(values)) => Ok(values.iter().map(with).collect()),
            (_, Given::Text(value) | Given::Number(value)) => Ok(vec![with(value)]),
            (Kind::Value, Given::Bool(_)) => Err("it takes a value, not true or false".to_owned()),
            (Kind::List, Given::Bool(_)) => Err("it takes a list of values, not true or false".to_owned()),
            (_, Given::List(_)) => Err("it takes one value, not a list".to_owned()),
        }
    }

    /// What the text of a variable means to the option.
    pub fn of_text(&self, text: &str) -> Given {
        let bool = match text.to_lowercase().as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            "1" if self.kind == Kind::Flag => Some(true),
            "0" if matches!(self.kind, Kind::Flag | Kind::Optional) => Some(false),
            _ => None,
        };
        match (self.kind, bool) {
            (Kind::Flag | Kind::Count | Kind::Optional, Some(bool)) => Given::Bool(bool),
            (Kind::Count, None) => Given::Number(text.to_owned()),
            _ => Given::Text(text.to_owned()),
        }
    }
}

impl std::fmt::Display for Given {
    /// As it is written in a file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(set) => write!(f, "{set}"),
            Self::Number(number) => f.write_str(number),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::List(values) => write!(f, "{values:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    fn definition(command: &str, long: &str) -> Option<Definition> {
        let mut program = Cli::command();
        program.build();
        let command = commands(&program).find(|found| found.get_name() == command)?;
        definitions(command).into_iter().find(|definition| definition.long == long)
    }

    #[test]
    fn values_become_words() {
        let text = |text: &str| Given::Text(text.to_owned());
        let list = Given::List(vec!["vda".to_owned(), "vdb".to_owned()]);
        for (long, given, words) in [
            ("raw", Given::Bool(true), &["--raw"][..]),
            ("raw", Given::Bool(false), &[]),
            ("compress", Given::Bool(true), &["--compress"]),
            ("compress", Given::Number("4".to_owned()), &["--compress=4"]),
            ("verbose", Given::Number("2".to_owned()), &["--verbose", "--verbose"]),
            ("include", list.clone(), &["--include=vda", "--include=vdb"]),
            ("include", text("vda,vdb"), &["--include=vda,vdb"]),
            ("output", text("-x y"), &["--output=-x y"]),
        ] {
            assert_eq!(definition("backup", long).unwrap().words(&given).unwrap(), words, "{long}");
        }
        for (long, given) in [
            ("raw", text("true")),
            ("raw", Given::Number("1".to_owned())),
            ("output", Given::Bool(true)),
            ("output", list),
        ] {
            assert!(definition("backup", long).unwrap().words(&given).is_err(), "{long}");
        }
    }

    #[test]
    fn what_is_for_the_command_line_alone_can_t_be_set() {
        for long in ["password", "help", "config", "base", "printonly"] {
            assert_eq!(definition("backup", long), None);
            assert!(refusal(long).is_some());
        }
        assert_eq!(definition("restore", "force"), None);
        let mut program = Cli::command();
        program.build();
        let names: Vec<&str> = commands(&program).map(Command::get_name).collect();
        assert!(names.contains(&"backup") && names.contains(&"doctor"), "{names:?}");
        assert!(
            !names.iter().any(|name| ["backup-one", "guard", "bound", "config", "help"].contains(name)),
            "{names:?}"
        );
    }

    #[test]
    fn names_that_are_alike_are_found() {
        let names = ["compress", "scratchdir", "rate-limit"];
        for (wrong, right) in [("compres", "compress"), ("rate_limit", "rate-limit"), ("scratch-dir", "scratchdir")] {
            assert_eq!(nearest(wrong, names.into_iter()), Some(right));
        }
        assert_eq!(nearest("zebra", names.into_iter()), None);
    }
}
