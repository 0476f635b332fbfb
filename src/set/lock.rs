//! One run at a time in a set: a lock on `.virtkeep/lock` that ends with its process.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{FlockOperation, flock};

use super::layout::Layout;
use crate::error::{Error, Kind, Result};

/// The set is ours to write while this lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a set whose directories exist. Readers need none: they see committed runs.
    ///
    /// # Errors
    /// [`Kind::Busy`], saying who holds it.
    pub fn acquire(layout: &Layout) -> Result<Self> {
        let path = layout.private().join("lock");
        let place = |operation: &str, error: std::io::Error| Error::io(operation, error).path(&path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| place("open", error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Only to name the holder; an unreadable name changes nothing.
                let _ = file.take(100).read_to_string(&mut holder);
                return Err(Error::new(Kind::Busy, format!("another run is writing to this set ({})", holder.trim()))
                    .path(layout.directory())
                    .hint("wait for it to end, or end it"));
            }
            Err(error) => return Err(place("lock", error.into())),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(|error| place("write", error))?;
        writeln!(file, "process {}", std::process::id()).map_err(|error| place("write", error))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.create().unwrap();
        let first = Lock::acquire(&layout).unwrap();
        let error = Lock::acquire(&layout).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        Lock::acquire(&layout).unwrap();
    }
}
