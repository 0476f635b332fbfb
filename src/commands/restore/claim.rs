//! Keeps two restores from writing the same image: each file that is written has a lock beside its partial name until
//! the image has its own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::lock;

/// Longest number of a process that is read from a lock.
const MAX_NOTE: u64 = 20;

/// The right to write one file, until this is dropped.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _file: File,
}

impl Claim {
    /// Claims `partial`, whose directory exists; none where the file system knows no locks.
    ///
    /// # Errors
    /// [`Kind::Busy`] if another process has it.
    pub fn take(partial: &Path) -> Result<Option<Self>> {
        let mut name = partial.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        loop {
            let mut file = lock::open_file(&path).map_err(|error| Error::io("open", error).path(&path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(busy(partial, &file)),
                Err(error) => {
                    tracing::debug!("{}: no lock: {error}", path.display());
                    let _ = std::fs::remove_file(&path);
                    return Ok(None);
                }
            }
            // Whoever had it removed it while it was ours to wait for: then it locks nothing.
            let is_there =
                path.symlink_metadata().is_ok_and(|now| file.metadata().is_ok_and(|own| own.ino() == now.ino()));
            if is_there {
                // Who it is, for others to say: no reason to fail.
                let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
                return Ok(Some(Self { path, _file: file }));
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Still locked. One that stays is taken by the next.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn busy(partial: &Path, file: &File) -> Error {
    let mut note = String::new();
    let _ = file.take(MAX_NOTE).read_to_string(&mut note);
    let who = note.parse::<u32>().map_or_else(|_| "another restore".to_owned(), |process| format!("process {process}"));
    Error::new(Kind::Busy, format!("{who} is writing it"))
        .path(partial)
        .hint("wait until that restore has ended, or choose another directory with -o")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::report;

    #[test]
    fn one_has_it_until_it_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let partial = directory.path().join("vda.qcow2.partial");
        let first = Claim::take(&partial).unwrap().unwrap();
        let error = Claim::take(&partial).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        let said = report(&error);
        assert!(said.contains(&format!("process {} is writing it", std::process::id())), "{said}");
        let other = Claim::take(&directory.path().join("vdb.qcow2.partial")).unwrap();
        drop((first, other));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

        // What a killed one left.
        std::fs::write(directory.path().join("vda.qcow2.partial.lock"), "4194304 and more than a number").unwrap();
        drop(Claim::take(&partial).unwrap().unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
