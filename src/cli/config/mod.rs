//! What options are when they are not typed: environment, configuration file. Their values become words of a
//! command line, which clap parses together with what was typed: nothing is read in two ways.
//!
//! ```text
//! typed -> VIRTKEEP_COMMAND_OPTION -> [domain.NAME] -> [COMMAND] -> top of the file -> the program's default
//! ```
//!
//! The first of them that has an option counts, with all of its value: a list is not put together.

pub mod check;
pub mod file;
pub mod merge;
pub mod options;
pub mod read;
pub mod settings;
pub mod variables;

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Talk;
use super::backup::Backup;

/// The file that is read where no other is named; one that is not there says nothing.
pub const SYSTEM: &str = "/etc/virtkeep/virtkeep.toml";

/// A file to begin with: every option of a backup, explained.
pub const EXAMPLE: &str = include_str!("../../../packaging/virtkeep.toml");

/// Show which options are in force without being typed, and where each comes from.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct Config {
    /// What to do.
    #[arg(value_enum, value_name = "ACTION")]
    pub action: Action,

    /// For a backup of this domain, by its name, instead of all that the file has.
    #[arg(short, long, value_name = "NAME")]
    pub domain: Option<String>,

    /// JSON for scripts instead of a table.
    #[arg(long)]
    pub json: bool,

    /// How much is said.
    #[command(flatten)]
    pub talk: Talk,

    /// The file that `--config` names.
    #[arg(skip)]
    pub file: Option<PathBuf>,
}

/// What `virtkeep config` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Prove that file and environment are right, and print what is in force and why.
    Check,
    /// Print a file to begin with, all of it in comments.
    Example,
}

/// The options of one domain of several.
#[derive(Debug, Clone)]
pub struct Section {
    /// As they are for this domain.
    pub args: Box<Backup>,
    /// Those that its own section has, and nothing stronger.
    pub own: BTreeSet<String>,
}

/// The words that decide what file is read.
pub(crate) fn named(typed: Option<PathBuf>, variables: &variables::Variables) -> Option<PathBuf> {
    typed.or_else(|| variables.get("VIRTKEEP_CONFIG").map(PathBuf::from))
}

const EXAMPLES: &str = "Examples:
  virtkeep config check                      all that file and environment say
  virtkeep config check -d web               a backup of the domain web
  virtkeep config check --config new.toml    before it is installed
  virtkeep config check --json | jq '.sections[0].options[]'
  virtkeep config example > new.toml         a file to begin with

Exit status: 0 all is right; 2 something is not, and is named with file and line.";
