//! What a restore writes on a machine: directories, files, names.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::ErrorKind::NotADirectory;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{FileKind, Host, remote};
use crate::error::{Error, Kind, Result};
use crate::qemu::lock;
use crate::set::layout::{self, sync_directory};

/// What is written may have to go to a disk that is busy.
const LIMIT: Duration = Duration::from_secs(300);
/// Status of our scripts for a file that is there and should not.
pub(super) const EXISTS: i32 = 45;

impl Host {
    /// Whether anything is at `path`.
    ///
    /// # Errors
    /// As for [`Host::kind`].
    pub fn exists(&self, path: &Path) -> Result<bool> {
        self.kind(path).map(|kind| kind.is_some())
    }

    /// What is at `path`, if anything.
    ///
    /// # Errors
    /// [`Kind::Io`] where that can't be seen.
    pub fn kind(&self, path: &Path) -> Result<Option<FileKind>> {
        match self.file(path) {
            Ok(facts) => Ok(Some(facts.kind)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            // A file stands where a directory would have to.
            Err(_) if self.is_local() && path.metadata().is_err_and(|error| error.kind() == NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether `path` is a link, be it to nothing; on this host.
    pub fn is_link(&self, path: &Path) -> bool {
        self.is_local() && path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
    }

    /// Makes a directory and those above it, as far as they are missing.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn make_directory(&self, path: &Path) -> Result<()> {
        match self {
            Self::Local => {
                std::fs::create_dir_all(path).map_err(|error| Error::io("create directory", error).path(path))
            }
            _ => self.change("create directory", "exec mkdir -p -- \"$1\"", &[path.into()], &[]),
        }
    }

    /// Makes an empty file that is the user's alone, of which nothing may be there yet.
    ///
    /// # Errors
    /// [`Kind::Busy`] where it exists.
    pub fn reserve(&self, path: &Path) -> Result<()> {
        let exists = || Error::new(Kind::Busy, "the file exists").path(path);
        match self {
            Self::Local => {
                let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
                made.map(drop).map_err(|error| match error.kind() {
                    std::io::ErrorKind::AlreadyExists => exists(),
                    _ => Error::io("create", error).path(path),
                })
            }
            _ => {
                let script =
                    format!("if [ -e \"$1\" ] || [ -L \"$1\" ]; then exit {EXISTS}; fi; umask 077; set -C; : >\"$1\"");
                self.change("create", &script, &[path.into()], &[])
            }
        }
    }

    /// Makes the content of a file durable.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn sync(&self, path: &Path) -> Result<()> {
        match self {
            Self::Local => {
                let file = std::fs::File::open(path).map_err(|error| Error::io("open", error).path(path))?;
                file.sync_all().map_err(|error| Error::io("sync", error).path(path))
            }
            _ => self.change("sync", "exec sync -- \"$1\"", &[path.into()], &[]),
        }
    }

    /// Gives a file another name in its directory, durably; what bears that name is replaced.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let directory = to.parent().unwrap_or(Path::new("."));
        match self {
            Self::Local => {
                std::fs::rename(from, to).map_err(|error| Error::io("rename", error).path(to))?;
                sync_directory(directory)
            }
            _ => {
                let words = [from, to, directory].map(OsString::from);
                self.change("rename", "mv -f -T -- \"$1\" \"$2\" && exec sync -- \"$3\"", &words, &[])
            }
        }
    }

    /// Writes a file as a whole, with these permissions; a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        if self.is_local() {
            return layout::write_with_mode(path, content, mode);
        }
        let partial = with_ending(path, ".partial");
        let script = "umask 077; rm -f -- \"$1\" && cat >\"$1\" && chmod \"$2\" -- \"$1\" && exec sync -- \"$1\"";
        self.change("write", script, &[partial.clone().into(), format!("{mode:o}").into()], content)?;
        // What was cut off on the way has ended the command without a failure.
        let size = self.file(&partial)?.size;
        if size != content.len() as u64 {
            return Err(Error::new(Kind::Io, format!("has {size} bytes instead of {}", content.len())).path(partial));
        }
        self.rename(&partial, path)
    }

    /// Fails where the image at `path` is in use by QEMU, see [`lock`].
    ///
    /// # Errors
    /// [`Kind::Busy`] if it is in use, or can't be asked.
    pub fn refuse_used(&self, path: &Path) -> Result<()> {
        if self.is_local() {
            return lock::refuse_used(path);
        }
        // QEMU's locks are in the kernel's list. To take one, as is done here, there is no program there.
        match self.is_locked(path) {
            Some(false) => Ok(()),
            held => {
                let message = match held {
                    Some(_) => "the image is in use by a running domain",
                    None => "can't find out whether the image is in use",
                };
                Err(Error::new(Kind::Busy, message)
                    .path(path)
                    .hint("shut the domain down first, or restore to another place with -o"))
            }
        }
    }

    fn change(&self, operation: &str, script: &str, words: &[OsString], input: &[u8]) -> Result<()> {
        let path = words.first().map(PathBuf::from).unwrap_or_default();
        match self {
            Self::Ssh(ssh) => {
                let ended = ssh.send(script, words, input, LIMIT)?;
                if ended.status.code() == Some(EXISTS) {
                    return Err(Error::new(Kind::Busy, "the file exists").path(path));
                }
                remote::answer(operation, &path, ended).map(drop)
            }
            Self::Local | Self::Closed(_) => Err(Error::unsupported(format!("{operation}: no way there")).path(path)),
        }
    }
}

/// `path` with its name made longer.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}
