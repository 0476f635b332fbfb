//! The command line: exactly what was typed, in clap structs. Meaning comes in [`crate::commands`].

pub mod backup;
pub mod chains;
pub mod complete;
pub mod config;
pub mod doctor;
pub mod dropin;
pub mod errors;
pub mod files;
pub mod manual;
pub mod map;
pub mod read;
pub mod status;
pub mod usage;
pub mod watched;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

/// Full and incremental backups of libvirt/QEMU domains, and their restore.
#[derive(Debug, Parser)]
#[command(
    name = "virtkeep",
    version,
    max_term_width = 100,
    styles = STYLES,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "Exit status: 0 done, 1 failed and nothing committed, 2 wrong usage, 3 done but look \
                  (a disk was skipped, or --strict and warnings), 4 damage found, 128+N ended by signal N.\n\n\
                  What is not typed is taken from variables such as VIRTKEEP_BACKUP_COMPRESS=4 (VIRTKEEP_, command, \
                  option), then from the configuration; virtkeep config check shows what is in force and why."
)]
pub struct Cli {
    /// Take options that are not typed from this file (TOML), instead of /etc/virtkeep/virtkeep.toml or the one
    /// that VIRTKEEP_CONFIG names; /dev/null has none.
    #[arg(long, value_name = "FILE", global = true, help_heading = "Output")]
    pub config: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const STYLES: Styles =
    Styles::styled().header(AnsiColor::Green.on_default().bold()).literal(AnsiColor::Cyan.on_default());

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Back up domains, running or not.
    Backup(Box<backup::Backup>),
    /// Write a restore point's disks to images, and its configuration beside them.
    Restore(Box<read::Restore>),
    /// Prove that a set is whole and undamaged.
    Verify(Box<read::Verify>),
    /// List the restore points of a set.
    Dump(read::Dump),
    /// Serve a restore point's disks over NBD, at once and without restoring them.
    Map(Box<map::Map>),
    /// End a map.
    Unmap(map::Unmap),
    /// List the files in a restore point, or what is on its disks; nothing is restored or mounted here.
    Ls(files::Ls),
    /// Copy files out of a restore point; nothing is restored or mounted here.
    Cp(files::Cp),
    /// Say for monitoring whether the newest backups are young and whole.
    Status(status::Status),
    /// Show what earlier runs left behind and what stands in the way of the next, and mend it.
    Doctor(doctor::Doctor),
    /// Show which options are in force without being typed, and where each comes from.
    Config(config::Config),
    /// Backs up one of several domains; started by backup itself.
    #[command(hide = true)]
    BackupOne(Talk),
    /// Lets a guest go when the backup that holds it dies; started by backup itself.
    #[command(hide = true)]
    Guard,
    /// Writes the manual pages into a directory, for packages, and the page of errors.
    #[command(hide = true)]
    Manual(Generate),
    /// Ends a domain that runs from a map when the map dies; started by map itself.
    #[command(hide = true)]
    BootGuard,
    /// Becomes a program that is killed when the process that started it dies; for virtkeep's own use.
    #[command(hide = true)]
    Bound(Bound),
}

/// Where to write.
#[derive(Debug, Args)]
pub struct Generate {
    /// Directory for the manual pages.
    #[arg(required_unless_present = "errors")]
    pub directory: Option<PathBuf>,

    /// File for the page of errors, Markdown.
    #[arg(long, value_name = "FILE")]
    pub errors: Option<PathBuf>,
}

/// A program to become.
#[derive(Debug, Args)]
pub struct Bound {
    /// The process that starts it.
    pub parent: i32,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<std::ffi::OsString>,
}

impl Command {
    /// The options on how the hypervisor is reached, where there are any.
    pub fn hypervisor(&self) -> Option<&Hypervisor> {
        match self {
            Self::Backup(args) => Some(&args.hypervisor),
            Self::Restore(args) => Some(&args.hypervisor),
            Self::Doctor(args) => Some(&args.hypervisor),
            Self::Verify(args) => Some(&args.hypervisor),
            Self::Map(args) => Some(&args.boot.hypervisor),
            Self::Dump(_)
            | Self::Unmap(_)
            | Self::Ls(_)
            | Self::Cp(_)
            | Self::Status(_)
            | Self::Config(_)
            | Self::BackupOne(_)
            | Self::Guard
            | Self::Manual(_)
            | Self::BootGuard
            | Self::Bound(_) => None,
        }
    }

    /// The directory of `--cache-dir`.
    pub fn cache_dir(&self) -> Option<&std::path::Path> {
        match self {
            Self::Restore(args) => args.cache_dir.as_deref(),
            Self::Verify(args) => args.cache_dir.as_deref(),
            Self::Dump(args) => args.cache_dir.as_deref(),
            Self::Map(args) => args.cache_dir.as_deref(),
            _ => None,
        }
    }

    /// The options on what is said.
    pub fn talk(&self) -> &Talk {
        const PLAIN: &Talk = &Talk {
            noprogress: true,
            quiet: false,
            nocolor: false,
            bytes: false,
            verbose: 0,
            log_file: None,
            log_format: LogFormat::Text,
            log_to: None,
        };
        match self {
            Self::Backup(args) => &args.talk,
            Self::Restore(args) => &args.talk,
            Self::Verify(args) => &args.talk,
            Self::Dump(args) => &args.talk,
            Self::Map(args) => &args.talk,
            Self::Unmap(args) => &args.talk,
            Self::Ls(args) => &args.point.talk,
            Self::Cp(args) => &args.point.talk,
            Self::Status(args) => &args.talk,
            Self::Doctor(args) => &args.talk,
            Self::Config(args) => &args.talk,
            Self::BackupOne(talk) => talk,
            Self::Guard | Self::BootGuard | Self::Manual(_) | Self::Bound(_) => PLAIN,
        }
    }
}

/// How much is said, and how.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Output")]
pub struct Talk {
    /// No progress bars or progress lines.
    #[arg(short = 'n', long)]
    pub noprogress: bool,

    /// Only warnings and errors.
    #[arg(long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// No colours.
    #[arg(long)]
    pub nocolor: bool,

    /// All sizes to the byte: 1610612736 B instead of 1.5 GiB.
    #[arg(long)]
    pub bytes: bool,

    /// Say more; twice: everything.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Append all messages, with their times and more than is shown, to this file, too.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,

    /// How lines of --log-file look: text, or an object of JSON each.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, requires = "log_file")]
    pub log_format: LogFormat,

    /// Send messages to this log of the system's, too, whatever --quiet shows. Without it, where stderr is systemd's
    /// journal, what would be shown goes there with fields: domain, disk, run.
    #[arg(long, value_name = "LOG", value_enum)]
    pub log_to: Option<LogTo>,
}

/// What `--log-to` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum LogTo {
    /// systemd's journal, with fields.
    Journal,
    /// syslog, at /dev/log.
    Syslog,
}

/// What `--log-format` takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum LogFormat {
    /// Time, level, message.
    #[default]
    Text,
    /// An object for each message.
    Json,
}

/// How the hypervisor is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Hypervisor")]
pub struct Hypervisor {
    /// libvirt connection URI [default: qemu:///system as root, qemu:///session otherwise]; that of another host
    /// is qemu+ssh://root@HOST/system, or qemu+tls, qemu+tcp: files there are got at by ssh in any case
    #[arg(short = 'U', long, env = "VIRTKEEP_URI")]
    pub uri: Option<String>,

    /// User name, where the daemon asks for one.
    #[arg(long)]
    pub user: Option<String>,

    /// Password, where the daemon asks for one. For a moment other users of this machine can see it in the list
    /// of processes: prefer --password-file or the variable VIRTKEEP_PASSWORD.
    #[arg(long, conflicts_with = "password_file")]
    pub password: Option<String>,

    /// File whose first line is the password.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// User name for ssh to the host of the URI [default: the URI's, else as ssh is configured]
    #[arg(long, value_name = "NAME")]
    pub ssh_user: Option<String>,

    /// Port for ssh to the host of the URI [default: the URI's, else as ssh is configured]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub ssh_port: Option<u16>,

    /// Private key for ssh to the host of the URI [default: keyfile= of the URI, else as ssh is configured]
    #[arg(long, value_name = "FILE")]
    pub ssh_private_key: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
