//! The backup set: all files of one domain's backups, in one directory or in zip files.
//!
//! [`layout`] owns the names, [`files`] where they are read, [`manifest`] the commit record of a run, [`catalogue`] reads what a
//! set holds (virtkeep's runs and virtnbdbackup's), [`chain`] resolves which streams a
//! restore point needs. `docs/stream-format.md` is the normative page.

pub mod catalogue;
pub mod chain;
pub mod config;
pub mod cpt;
pub mod dropped;
pub mod files;
pub mod intent;
pub mod job_files;
pub mod layout;
pub mod lock;
pub mod manifest;
pub mod moment;
pub mod records;
pub mod unused;

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a run or a stream holds, relative to the runs before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Everything, without a checkpoint: no chain starts here.
    Copy,
    /// Everything; a chain starts here.
    Full,
    /// What changed since the chain's newest checkpoint, and a new checkpoint.
    Inc,
    /// What changed since the chain's newest checkpoint; a leaf without a checkpoint of its own.
    Diff,
}

impl Level {
    /// Whether a run of this level makes a checkpoint that later runs can build on.
    pub const fn makes_checkpoint(self) -> bool {
        matches!(self, Self::Full | Self::Inc)
    }

    /// Whether a run of this level builds on a checkpoint.
    pub const fn needs_base(self) -> bool {
        matches!(self, Self::Inc | Self::Diff)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Copy => "copy",
            Self::Full => "full",
            Self::Inc => "inc",
            Self::Diff => "diff",
        })
    }
}
