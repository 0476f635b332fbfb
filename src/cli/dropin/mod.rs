//! The command lines of virtnbdbackup 2.53's three programs, for a virtkeep that is started under their names:
//! exactly what was typed. [`crate::commands`] translates it into virtkeep's own options.
//!
//! Long options may be shortened as long as they are unambiguous, and the last one wins where one is given
//! twice, as with them.

pub mod backup;
pub mod map;
pub mod restore;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser};

/// The version that the drop-in commands say to be, with the program that they are.
pub const VERSION: &str = concat!("2.53 (virtkeep ", env!("CARGO_PKG_VERSION"), ")");

/// Long option, not shown, that takes the place of `--password` while the program runs.
pub const PASSWORD_FILE: &str = "--virtkeep-password-file";

/// One of virtnbdbackup's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `virtnbdbackup`
    Backup,
    /// `virtnbdrestore`
    Restore,
    /// `virtnbdmap`
    Map,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Backup, Self::Restore, Self::Map];

    /// The definition of its command line.
    pub fn command(self) -> clap::Command {
        match self {
            Self::Backup => backup::Options::command(),
            Self::Restore => restore::Options::command(),
            Self::Map => map::Options::command(),
        }
    }

    /// The program that this one was started as: by the last part of the path in `argv[0]`.
    pub fn started_as(program: &OsStr) -> Option<Self> {
        let name = Path::new(program).file_name()?.to_str()?;
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "virtnbdbackup",
            Self::Restore => "virtnbdrestore",
            Self::Map => "virtnbdmap",
        }
    }

    /// Reads its command line; `words` begin with the program's name.
    ///
    /// # Errors
    /// What to print, and where: help and version too.
    pub fn parse(self, words: &[OsString]) -> Result<Dropin, clap::Error> {
        Ok(match self {
            Self::Backup => Dropin::Backup(Box::new(backup::Options::try_parse_from(words)?)),
            Self::Restore => Dropin::Restore(Box::new(restore::Options::try_parse_from(words)?)),
            Self::Map => Dropin::Map(map::Options::try_parse_from(words)?),
        })
    }
}

/// A command line.
#[derive(Debug)]
pub enum Dropin {
    /// Of virtnbdbackup.
    Backup(Box<backup::Options>),
    /// Of virtnbdrestore.
    Restore(Box<restore::Options>),
    /// Of virtnbdmap.
    Map(map::Options),
}

impl Dropin {
    /// The password on the command line.
    pub fn password(&self) -> Option<&str> {
        match self {
            Self::Backup(options) => options.remote.password.as_deref(),
            Self::Restore(options) => options.remote.password.as_deref(),
            Self::Map(_) => None,
        }
    }

    /// How much is said.
    pub fn logging(&self) -> &Logging {
        match self {
            Self::Backup(options) => &options.logging,
            Self::Restore(options) => &options.logging,
            Self::Map(options) => &options.logging,
        }
    }
}

/// How the hypervisor and its disks are reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Remote options")]
pub struct Remote {
    /// Libvirt connection URI.
    #[arg(short = 'U', long, default_value = "qemu:///system")]
    pub uri: String,

    /// User to authenticate against libvirtd.
    #[arg(long)]
    pub user: Option<String>,

    /// User to authenticate against the remote sshd, for copies of files [default: as ssh has it]
    #[arg(long)]
    pub ssh_user: Option<String>,

    /// Port of the remote sshd [default: as ssh has it]
    #[arg(long)]
    pub ssh_port: Option<u16>,

    /// Private key file for ssh.
    #[arg(long)]
    pub ssh_private_key: Option<PathBuf>,

    /// Password to authenticate against libvirtd.
    #[arg(long)]
    pub password: Option<String>,

    /// File with the password.
    #[arg(long = "virtkeep-password-file", hide = true)]
    pub password_file: Option<PathBuf>,

    /// Port of the remote NBD service.
    #[arg(short = 'P', long, default_value_t = 10809)]
    pub nbd_port: u16,

    /// Address of the remote NBD service [default: the name that libvirtd gives its host]
    #[arg(short = 'I', long)]
    pub nbd_ip: Option<String>,

    /// TLS for the NBD connection.
    #[arg(long)]
    pub tls: bool,

    /// Directory with the TLS certificates [default: those of the user, then the system's]
    #[arg(long)]
    pub tls_cert: Option<PathBuf>,
}

/// What is said, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging options")]
pub struct Logging {
    /// No progress bars.
    #[arg(short, long)]
    pub noprogress: bool,

    /// No colours.
    #[arg(long)]
    pub nocolor: bool,

    /// Messages as JSON, an object per line: on stderr, in the log file and to syslog.
    #[arg(long)]
    pub json: bool,

    /// Say more.
    #[arg(short, long)]
    pub verbose: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(tool: Tool, words: &[&str]) -> Result<Dropin, clap::Error> {
        let words: Vec<OsString> = [tool.name()].iter().chain(words).map(OsString::from).collect();
        tool.parse(&words)
    }

    fn backup(words: &[&str]) -> backup::Options {
        match parse(Tool::Backup, words).unwrap() {
            Dropin::Backup(options) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definitions_are_sound() {
        backup::Options::command().debug_assert();
        restore::Options::command().debug_assert();
        map::Options::command().debug_assert();
    }

    #[test]
    fn names_are_told_by_their_last_part() {
        for (program, tool) in [
            ("/usr/bin/virtnbdbackup", Some(Tool::Backup)),
            ("virtnbdrestore", Some(Tool::Restore)),
            ("./virtnbdmap", Some(Tool::Map)),
            ("virtkeep", None),
            ("/proc/self/exe", None),
            ("virtnbdbackup.sh", None),
            ("", None),
        ] {
            assert_eq!(Tool::started_as(OsStr::new(program)), tool, "{program}");
        }
    }

    /// Each of these was tried with virtnbdbackup 2.53.
    #[test]
    fn values_are_taken_in_every_way() {
        for words in [
            &["-d", "vm", "-l", "full", "-o", "/t"][..],
            &["-dvm", "-lfull", "-o/t"],
            &["-d=vm", "-l=full", "-o=/t"],
            &["--domain=vm", "--level=full", "--output=/t"],
            &["--dom", "vm", "--lev", "full", "--output", "/t"],
            &["-d", "other", "-d", "vm", "-l", "inc", "-l", "full", "-o", "/t"],
        ] {
            let options = backup(words);
            assert_eq!((options.domain.as_str(), options.level), ("vm", backup::Level::Full), "{words:?}");
            assert_eq!(options.output, Path::new("/t"), "{words:?}");
        }
        assert_eq!(backup(&["-d", "vm", "-o", "-"]).output, Path::new("-"));
    }

    #[test]
    fn compression_takes_a_level_in_every_way() {
        let compress = |words: &[&str]| backup(&[&["-d", "vm", "-o", "/t"], words].concat()).compress;
        assert_eq!(compress(&[]), None);
        for words in [&["-z"][..], &["-nz"], &["-z", "-n"], &["--compress"], &["--comp", "-n"]] {
            assert_eq!(compress(words), Some(2), "{words:?}");
        }
        for words in [&["-z", "9"][..], &["-z9"], &["-nz9"], &["--compress=9"], &["--compress", "9"]] {
            assert_eq!(compress(words), Some(9), "{words:?}");
        }
        // More than LZ4 has is its most.
        assert_eq!(compress(&["-z", "17"]), Some(16));
    }

    #[test]
    fn what_it_refuses_is_refused() {
        for words in [
            &["-d", "vm"][..],
            &["-o", "/t"],
            &["-d", "vm", "-o", "/t", "extra"],
            &["-d", "vm", "-o", "-l"],
            &["-d", "vm", "-o", "/t", "-zn"],
            &["-d", "vm", "-o", "/t", "-l", "FULL"],
            &["-d", "vm", "-o", "/t", "-w", "x"],
            &["-d", "vm", "-o", "/t", "-T", "1k"],
            // Ambiguous.
            &["-d", "vm", "--out", "/t"],
            &["-d", "vm", "-o", "/t", "--no"],
            &["-d", "vm", "-o", "/t", "--ss", "root"],
            // It writes a backup of nothing.
            &["-d", "vm", "-o", "/t", "-z", "0"],
        ] {
            assert_eq!(parse(Tool::Backup, words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }

    #[test]
    fn defaults_are_those_of_virtnbdbackup() {
        let options = backup(&["-d", "vm", "-o", "/t"]);
        assert_eq!(options.level, backup::Level::Copy);
        assert_eq!(options.kind, crate::cli::backup::OutputType::Stream);
        assert_eq!(options.scratchdir, Path::new("/var/tmp"));
        let remote = &options.remote;
        assert_eq!((remote.uri.as_str(), remote.nbd_port), ("qemu:///system", 10809));
    }
}
