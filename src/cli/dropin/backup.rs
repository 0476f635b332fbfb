//! `virtnbdbackup`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use super::{Logging, Remote};
use crate::cli::backup::OutputType;

/// Back up a libvirt/QEMU domain: virtkeep, with the options of virtnbdbackup.
#[derive(Debug, Parser)]
#[command(
    name = "virtnbdbackup", version = super::VERSION, infer_long_args = true, args_override_self = true,
    max_term_width = 100, after_help = EXAMPLES
)]
pub struct Options {
    /// Domain to back up.
    #[arg(short, long)]
    pub domain: String,

    /// Backup level.
    #[arg(short, long, value_enum, default_value_t = Level::Copy)]
    pub level: Level,

    /// Output type.
    #[arg(short = 't', long = "type", value_enum, default_value_t = OutputType::Stream)]
    pub kind: OutputType,

    /// Include raw disks, as full images.
    #[arg(short, long)]
    pub raw: bool,

    /// Directory of the backup; - is a zip archive on stdout.
    #[arg(short, long)]
    pub output: PathBuf,

    /// What the backup is written with: directory, zip or null [default: directory, or zip with -o -]
    #[arg(long, visible_alias = "output-plugin", value_name = "PLUGIN")]
    pub output_target: Option<String>,

    /// Directory for the checkpoints' XML.
    #[arg(short = 'C', long)]
    pub checkpointdir: Option<PathBuf>,

    /// Directory for the scratch files, on the domain's host.
    #[arg(long, default_value = "/var/tmp")]
    pub scratchdir: PathBuf,

    /// Start a stopped domain, paused, for the backup.
    #[arg(short = 'S', long)]
    pub start_domain: bool,

    /// Pause the domain while the backup job starts.
    #[arg(long)]
    pub pause: bool,

    /// Back up only this disk.
    #[arg(short, long)]
    pub include: Option<String>,

    /// Back up all disks but these, separated by commas.
    #[arg(short = 'x', long)]
    pub exclude: Option<String>,

    /// Socket for QEMU's NBD server [default: /var/tmp/virtnbdbackup.PID]
    #[arg(short = 'f', long)]
    pub socketfile: Option<PathBuf>,

    /// Compress with LZ4 [without a level: 2]
    #[arg(
        short = 'z', long, value_name = "LEVEL", num_args = 0..=1, default_missing_value = "2",
        value_parser = parse_compression
    )]
    pub compress: Option<u8>,

    /// Disks at a time [default: all]
    #[arg(short, long)]
    pub worker: Option<u16>,

    /// Freeze only these filesystems, separated by commas [default: all]
    #[arg(short = 'F', long)]
    pub freeze_mountpoint: Option<String>,

    /// End with status 2 where there was a warning.
    #[arg(short = 'e', long)]
    pub strict: bool,

    /// Do not look for zeroes in what has changed.
    #[arg(long)]
    pub no_sparse_detection: bool,

    /// Do nothing where an increment would have fewer bytes than this.
    #[arg(short = 'T', long)]
    pub threshold: Option<u64>,

    /// How the hypervisor and its disks are reached.
    #[command(flatten)]
    pub remote: Remote,

    /// Log to syslog, too.
    #[arg(short = 'L', long, help_heading = "Logging options")]
    pub syslog: bool,

    /// Nothing on stderr.
    #[arg(long, help_heading = "Logging options")]
    pub quiet: bool,

    /// What is said.
    #[command(flatten)]
    pub logging: Logging,

    /// Compare the extents with those of nbdinfo.
    #[arg(short, long, help_heading = "Debug options")]
    pub qemu: bool,

    /// Only begin the backup job, and leave it there.
    #[arg(short, long, help_heading = "Debug options")]
    pub startonly: bool,

    /// Only end the backup job that the domain has.
    #[arg(short, long, help_heading = "Debug options")]
    pub killonly: bool,

    /// Only estimate the size.
    #[arg(short, long, help_heading = "Debug options")]
    pub printonly: bool,
}

/// What `-l` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Everything, without a checkpoint.
    Copy,
    /// Everything; a chain starts.
    Full,
    /// What changed since the last full or inc.
    Inc,
    /// As inc, without a checkpoint.
    Diff,
    /// full in an empty directory, else inc.
    Auto,
}

impl Level {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Full => "full",
            Self::Inc => "inc",
            Self::Diff => "diff",
            Self::Auto => "auto",
        }
    }
}

/// The highest level of LZ4.
const MAX_COMPRESSION: u8 = 16;

fn parse_compression(text: &str) -> Result<u8, String> {
    match text.parse::<u32>() {
        Ok(0) | Err(_) => Err(format!("a level from 1 to {MAX_COMPRESSION}")),
        Ok(level) => Ok(u8::try_from(level).unwrap_or(MAX_COMPRESSION).min(MAX_COMPRESSION)),
    }
}

const EXAMPLES: &str = "Examples:
  virtnbdbackup -d webvm -l full -o /backup/        everything, a chain starts
  virtnbdbackup -d webvm -l inc -o /backup/         what changed since
  virtnbdbackup -d webvm -l full -x vda -o /backup/
  virtnbdbackup -d webvm -l full -z -o /backup/     compressed

This is virtkeep under the name of virtnbdbackup: same options, same files, same exit status (0 done, \
1 failed, 2 wrong usage, or --strict and warnings). `virtkeep backup --help` has what it can do beyond.";
