//! Which chains a command reads as devices.

use std::path::PathBuf;

use clap::Args;

/// A restore point of a set, or streams by their names.
#[derive(Debug, Args)]
pub struct Chains {
    /// Directory of the set, or its zip files: full.zip,inc1.zip; repeatable.
    #[arg(short, long, value_name = "SET", required_unless_present = "file")]
    pub input: Vec<PathBuf>,

    /// Only these disks (target names such as vda); repeatable, or separated by commas.
    #[arg(short, long, value_name = "DISK", value_delimiter = ',', conflicts_with = "file")]
    pub disk: Vec<String>,

    /// Restore point: a checkpoint, a run id (its first 4 characters will do), or a date in local time: the newest
    /// run started by its end. 2026-11-20 is that whole day, "2026-11-20 06:15" that whole minute; seconds, and T
    /// instead of the space, will do, too [default: the newest point]
    #[arg(short, long, value_name = "POINT", conflicts_with = "file")]
    pub until: Option<String>,

    /// One disk from exactly these streams, the full first.
    #[arg(short, long, value_name = "FILE", value_delimiter = ',')]
    pub file: Vec<PathBuf>,
}
