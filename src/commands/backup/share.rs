//! The room for scratch files that runs at the same time may take together, see [`crate::commands::many`]: each has
//! a file with its number of bytes, locked for as long as it needs them, however it ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use crate::error::{Error, Result};

/// In turns: of two runs that begin at once one sees the other.
const GATE: &str = "gate";

/// What a run may take; given back when dropped.
#[derive(Debug)]
pub struct Share {
    _locked: File,
}

impl Share {
    /// Notes in `directory` that `run` may take `bytes`; with it comes what the other runs may take together.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io).
    pub fn take(directory: &Path, run: Uuid, bytes: u64) -> Result<(Self, u64)> {
        let failed = |error| Error::io("note the room for scratch files", error).path(directory);
        let open = |name: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(name);
        let gate = open(&directory.join(GATE)).map_err(failed)?;
        flock(&gate, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let mut others = 0_u64;
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.file_name().is_some_and(|name| name != GATE) {
                others = others.saturating_add(held(&path).map_err(failed)?);
            }
        }
        let mut own = open(&directory.join(run.to_string())).map_err(failed)?;
        flock(&own, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        own.write_all(bytes.to_string().as_bytes()).map_err(failed)?;
        Ok((Self { _locked: own }, others))
    }
}

/// What the run of that file may take; nothing once it has ended.
fn held(path: &Path) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => return Ok(0),
        Err(rustix::io::Errno::WOULDBLOCK) => {}
        Err(error) => return Err(error.into()),
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_ended_take_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let take = |bytes| Share::take(directory.path(), Uuid::new_v4(), bytes).unwrap();
        let (first, others) = take(10);
        assert_eq!(others, 0);
        let (second, others) = take(u64::MAX);
        assert_eq!(others, 10);
        drop(first);
        let (third, others) = take(5);
        assert_eq!(others, u64::MAX);
        drop(second);
        assert_eq!(take(1).1, 5);
        drop(third);
        assert_eq!(take(1).1, 0);
        assert!(Share::take(Path::new("/nowhere"), Uuid::nil(), 1).is_err());
    }
}
