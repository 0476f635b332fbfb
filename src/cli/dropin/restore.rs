//! `virtnbdrestore`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use super::{Logging, Remote};

/// Restore disks of a libvirt/QEMU domain: virtkeep, with the options of virtnbdrestore.
#[derive(Debug, Parser)]
#[command(
    name = "virtnbdrestore", version = super::VERSION, infer_long_args = true, args_override_self = true,
    max_term_width = 100, after_help = EXAMPLES
)]
pub struct Options {
    /// What to do.
    #[arg(short, long, value_enum, default_value_t = Action::Restore)]
    pub action: Action,

    /// Directory with the backup.
    #[arg(short, long)]
    pub input: PathBuf,

    /// Directory for the images; the words dump and verify do that instead.
    #[arg(short, long)]
    pub output: PathBuf,

    /// What the backup is read with: directory [default], or zip.
    #[arg(long, value_name = "PLUGIN")]
    pub input_source: Option<String>,

    /// Restore the state of this checkpoint [default: the newest]
    #[arg(short, long)]
    pub until: Option<String>,

    /// Restore one disk from exactly these files, separated by commas.
    #[arg(short, long)]
    pub sequence: Option<String>,

    /// Adjust the domain's XML to the restored images.
    #[arg(short = 'c', long)]
    pub adjust_config: bool,

    /// Only this disk.
    #[arg(short, long)]
    pub disk: Option<String>,

    /// Remove the disks that -d leaves out from the domain's XML.
    #[arg(short = 'R', long)]
    pub remove_skipped_disks: bool,

    /// Not needed: accepted for its name.
    #[arg(short = 'f', long)]
    pub socketfile: Option<PathBuf>,

    /// Restore raw disks, too.
    #[arg(short, long)]
    pub raw: bool,

    /// Define the restored domain.
    #[arg(short = 'D', long)]
    pub define: bool,

    /// Name of the domain's XML in the output directory.
    #[arg(short = 'C', long, value_name = "NAME", default_value = "vmconfig.xml")]
    pub config_file: PathBuf,

    /// Name of the restored domain [default: restore_NAME]
    #[arg(short = 'N', long)]
    pub name: Option<String>,

    /// Not needed: accepted for its name.
    #[arg(short = 'B', long, default_value_t = 8192)]
    pub buffsize: u64,

    /// Allocate the whole size of the images.
    #[arg(short = 'A', long)]
    pub preallocate: bool,

    /// Compress the restored images.
    #[arg(long)]
    pub compress: bool,

    /// Other places for the data files of qcow2 images.
    #[arg(long, value_name = "DISK:PATH[,DISK:PATH...]")]
    pub relocate_data_file: Option<String>,

    /// How the hypervisor and its disks are reached.
    #[command(flatten)]
    pub remote: Remote,

    /// Log file [default: virtnbdrestore.log in the home directory]
    #[arg(short = 'L', long, help_heading = "Logging options")]
    pub logfile: Option<PathBuf>,

    /// What is said.
    #[command(flatten)]
    pub logging: Logging,
}

/// What `-a` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Show the heads of the data files.
    Dump,
    /// Restore.
    Restore,
    /// Check the data files.
    Verify,
}

impl Options {
    /// What is to be done: `-o dump` and `-o verify` mean that, too.
    pub fn action(&self) -> Action {
        match self.output.to_str() {
            Some("dump") => Action::Dump,
            Some("verify") => Action::Verify,
            _ => self.action,
        }
    }
}

const EXAMPLES: &str = "Examples:
  virtnbdrestore -i /backup/ -o dump              the heads of the data files
  virtnbdrestore -i /backup/ -o verify            every byte of every file
  virtnbdrestore -i /backup/ -o /target           all disks
  virtnbdrestore -cD -i /backup/ -o /target       and define it, as restore_NAME
  virtnbdrestore -i /backup/ -o /target --until virtnbdbackup.2

This is virtkeep under the name of virtnbdrestore: same options, same files, exit status 0 done, 1 failed or \
damaged, 2 wrong usage. `virtkeep restore --help` has what it can do beyond.";
