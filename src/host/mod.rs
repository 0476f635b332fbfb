//! The machine that a domain runs on: its files, its tools, its free space. What a run has to do there goes
//! through [`Host`] and nothing else, so that no path of the domain's host is looked up on another machine.
//!
//! The set, and restored images, are always on this machine.

mod local;

use std::ffi::OsString;
use std::path::Path;

use crate::error::Result;

/// A domain's machine.
#[derive(Debug, Clone, Default)]
pub enum Host {
    /// This one.
    #[default]
    Local,
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
    /// Runs one of QEMU's tools there and returns its standard output.
    ///
    /// # Errors
    /// As for [`crate::qemu::process::run`].
    pub fn run(&self, tool: &str, args: &[OsString]) -> Result<Vec<u8>> {
        match self {
            Self::Local => local::run(tool, args),
        }
    }

    /// As [`Host::run`], for a call that changes an image: it is not ended before its time.
    ///
    /// # Errors
    /// As for [`crate::qemu::process::run_to_end`].
    pub fn run_to_end(&self, tool: &str, args: &[OsString]) -> Result<Vec<u8>> {
        match self {
            Self::Local => local::run_to_end(tool, args),
        }
    }

    /// Whether it is this machine, so that its images can be opened here.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Local => true,
        }
    }

    /// What lies at `path`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind::NotFound), [`Kind::Io`](crate::error::Kind::Io).
    pub fn file(&self, path: &Path) -> Result<FileFacts> {
        match self {
            Self::Local => local::file(path),
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
        }
    }

    /// Removes a file or a socket; one that is not there is no error.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io).
    pub fn remove(&self, path: &Path) -> Result<()> {
        match self {
            Self::Local => local::remove(path),
        }
    }

    /// Whether a process listens at the Unix socket `path`.
    pub fn listens(&self, path: &Path) -> bool {
        match self {
            Self::Local => local::listens(path),
        }
    }

    /// The space of the file system of `directory`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind::NotFound), [`Kind::Io`](crate::error::Kind::Io).
    pub fn space(&self, directory: &Path) -> Result<Space> {
        match self {
            Self::Local => local::space(directory),
        }
    }
}
