//! The machine that a domain runs on: its files, its tools, its free space. What a run has to do there goes
//! through [`Host`] and nothing else, so that no path of the domain's host is looked up on another machine.
//!
//! The set is always on this machine.

pub mod address;
mod local;
mod remote;
pub mod serve;
mod shell;
pub mod ssh;
mod trouble;
mod write;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::address::{Address, SshOptions};
use self::ssh::Ssh;
use crate::error::{Error, Result, report};
use crate::set::layout;

/// Where on this machine what may be large and is temporary lies: overlays, libguestfs' appliance.
pub fn temporary() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// A domain's machine.
#[derive(Debug, Clone, Default)]
pub enum Host {
    /// This one.
    #[default]
    Local,
    /// Another one, by ssh.
    Ssh(Arc<Ssh>),
    /// Another one whose files can't be got at: only libvirt is reached there.
    Closed(Arc<Closed>),
}

/// Why a machine's files can't be got at.
#[derive(Debug)]
pub struct Closed {
    name: String,
    reason: String,
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A block device.
    Block,
    /// A Unix socket.
    Socket,
    /// Anything else.
    Other,
}

/// A file as the operating system describes it; symbolic links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// What it is.
    pub kind: FileKind,
    /// Bytes; of a device not its capacity.
    pub size: u64,
}

/// Bytes of a file system: all, and those that a user may still write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All.
    pub size: u64,
    /// What a user who is not root may still write: QEMU is none.
    pub free: u64,
}

impl Host {
    /// The machine that `uri` names. Where libvirt itself goes through ssh, so must this; with other URIs a
    /// machine without ssh is [`Host::Closed`], and that is said.
    ///
    /// # Errors
    /// As for [`Ssh::connect`].
    pub fn of_uri(uri: &str, options: &SshOptions) -> Result<Self> {
        let Some(address) = Address::parse(uri) else { return Ok(Self::Local) };
        match Ssh::connect(address.ssh(options)) {
            Ok(ssh) => Ok(Self::Ssh(ssh)),
            Err(error) if address.is_ssh() => Err(error),
            Err(error) => {
                tracing::warn!(
                    "the files of {} can't be got at: options of images and firmware files are not saved, the space \
                     for scratch files is not watched: {}",
                    address.host,
                    report(&error)
                );
                Ok(Self::Closed(Arc::new(Closed { name: address.host, reason: report(&error) })))
            }
        }
    }

    /// Whether it is this machine, so that its images can be opened here.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local)
    }

    /// Whether its files can be got at.
    pub fn is_open(&self) -> bool {
        !matches!(self, Self::Closed(_))
    }

    /// The names in a directory, unsorted.
    ///
    /// # Errors
    /// As for [`Host::file`].
    pub fn names(&self, directory: &Path) -> Result<Vec<OsString>> {
        match self {
            Self::Local => local::names(directory),
            Self::Ssh(ssh) => remote::names(ssh, directory),
            Self::Closed(closed) => Err(closed.error(directory)),
        }
    }

    /// Whether a process there holds a lock on a file, see [`crate::proc_locks`]; none where that can't be known.
    pub fn is_locked(&self, path: &Path) -> Option<bool> {
        match self {
            Self::Local => crate::proc_locks::is_locked(path),
            Self::Ssh(ssh) => remote::is_locked(ssh, path),
            Self::Closed(_) => None,
        }
    }

    /// Runs one of QEMU's tools there and returns its standard output.
    ///
    /// # Errors
    /// As for [`crate::qemu::process::run`].
    pub fn run(&self, tool: &str, args: &[OsString]) -> Result<Vec<u8>> {
        match self {
            Self::Local => local::run(tool, args),
            Self::Ssh(ssh) => remote::run(ssh, tool, args),
            Self::Closed(closed) => Err(Error::unsupported(closed.message())),
        }
    }

    /// As [`Host::run`], for a call that changes an image: it is not ended before its time.
    ///
    /// # Errors
    /// As for [`crate::qemu::process::run_to_end`].
    pub fn run_to_end(&self, tool: &str, args: &[OsString]) -> Result<Vec<u8>> {
        match self {
            Self::Local => local::run_to_end(tool, args),
            Self::Ssh(ssh) => remote::run_to_end(ssh, tool, args),
            Self::Closed(closed) => Err(Error::unsupported(closed.message())),
        }
    }

    /// What lies at `path`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind::NotFound), [`Kind::Io`](crate::error::Kind::Io).
    pub fn file(&self, path: &Path) -> Result<FileFacts> {
        match self {
            Self::Local => local::file(path),
            Self::Ssh(ssh) => remote::file(ssh, path),
            Self::Closed(closed) => Err(closed.error(path)),
        }
    }

    /// The content of a regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) where it is larger or not a regular file, as for
    /// [`Host::file`].
    pub fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>> {
        match self {
            Self::Local => local::read(path, limit),
            Self::Ssh(ssh) => remote::read(ssh, path, limit),
            Self::Closed(closed) => Err(closed.error(path)),
        }
    }

    /// Removes a file or a socket; one that is not there is no error.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io).
    pub fn remove(&self, path: &Path) -> Result<()> {
        match self {
            Self::Local => layout::remove(path),
            Self::Ssh(ssh) => remote::remove(ssh, path),
            Self::Closed(closed) => Err(closed.error(path)),
        }
    }

    /// Whether a process listens at the Unix socket `path`.
    pub fn listens(&self, path: &Path) -> bool {
        match self {
            Self::Local => local::listens(path),
            Self::Ssh(ssh) => remote::listens(ssh, path),
            Self::Closed(_) => true,
        }
    }

    /// The space of the file system of `directory`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind::NotFound), [`Kind::Io`](crate::error::Kind::Io).
    pub fn space(&self, directory: &Path) -> Result<Space> {
        match self {
            Self::Local => local::space(directory),
            Self::Ssh(ssh) => remote::space(ssh, directory),
            Self::Closed(closed) => Err(closed.error(directory)),
        }
    }
}

impl Closed {
    fn message(&self) -> String {
        format!("the files of {} can't be got at", self.name)
    }

    fn error(&self, path: &Path) -> Error {
        Error::unsupported(self.message()).path(path).caused_by(self.reason.clone())
    }
}
