//! `virtnbdmap`.

use std::path::PathBuf;

use clap::Parser;

use super::Logging;

/// Map a backup to a block device: virtkeep, with the options of virtnbdmap.
#[derive(Debug, Parser)]
#[command(
    name = "virtnbdmap", version = super::VERSION, infer_long_args = true, args_override_self = true,
    max_term_width = 100
)]
pub struct Options {
    /// The data files, separated by commas: the full first, then each increment.
    #[arg(short, long)]
    pub file: String,

    /// Largest block.
    #[arg(short, long, default_value = "4096")]
    pub blocksize: String,

    /// Block device.
    #[arg(short, long, default_value = "/dev/nbd0")]
    pub device: PathBuf,

    /// Name of the NBD export.
    #[arg(short, long, default_value = "sda")]
    pub export_name: String,

    /// Threads.
    #[arg(short, long, default_value_t = 1)]
    pub threads: u16,

    /// Address to listen at.
    #[arg(short, long, default_value = "127.0.0.1")]
    pub listen_address: String,

    /// Port to listen at.
    #[arg(short = 'p', long, default_value_t = 10809)]
    pub listen_port: u16,

    /// Log file [default: virtnbdmap.log in the home directory]
    #[arg(short = 'L', long, help_heading = "Logging options")]
    pub logfile: Option<PathBuf>,

    /// What is said.
    #[command(flatten)]
    pub logging: Logging,

    /// Nothing can be written.
    #[arg(short, long, help_heading = "Debug options")]
    pub readonly: bool,

    /// Dump the data to the log file.
    #[arg(short = 'H', long, help_heading = "Debug options")]
    pub hexdump: bool,
}
