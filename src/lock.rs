//! A lock on a file, held until its process ends however it does, with a note of who holds it.
//!
//! The note outlives a holder that died: whoever takes the lock next finds it, see [`Lock::dead_holder`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock, fstat};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::cancel::Cancel;
use crate::error::{Error, Result};

/// How often to try while waiting.
const POLL: Duration = Duration::from_millis(100);
/// A note is a line; more than this is not one of ours.
const MAX_NOTE: u64 = 16 << 10;

/// Who holds a lock, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process.
    pub process: u32,
    /// The domain that is backed up.
    pub domain: String,
    /// The set that is written to.
    pub directory: PathBuf,
    /// Since when, in local time.
    pub since: String,
    /// The run, once it has begun.
    #[serde(default)]
    pub run: Option<Uuid>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { process, domain, directory, since, .. } = self;
        write!(f, "process {process}: {domain} into {} since {since}", directory.display())
    }
}

/// How long to wait for what another holds.
#[derive(Debug, Clone)]
pub struct Patience {
    until: Instant,
    cancel: Cancel,
}

impl Patience {
    /// From now on for `time`, or until `cancel` is set.
    pub fn new(time: Duration, cancel: &Cancel) -> Self {
        Self { until: Instant::now() + time, cancel: cancel.clone() }
    }

    /// Waits a moment; false when the time is over.
    ///
    /// # Errors
    /// [`Kind::Cancelled`](crate::error::Kind::Cancelled).
    pub fn wait(&self) -> Result<bool> {
        self.cancel.check()?;
        let left = self.until.saturating_duration_since(Instant::now());
        thread::sleep(left.min(POLL));
        Ok(!left.is_zero())
    }
}

/// A lock that is ours while this lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    dead_holder: Option<Holder>,
    keeps_note: bool,
}

impl Lock {
    /// Takes the lock at `path`, whose directory exists; waits for it as `patience` says.
    ///
    /// # Errors
    /// That of `busy`, which is told who holds it, where that is known.
    pub fn take(
        path: &Path,
        holder: &Holder,
        patience: &Patience,
        busy: impl Fn(Option<&Holder>) -> Error,
    ) -> Result<Self> {
        let mut told = false;
        loop {
            let (file, other) = match open(path)? {
                Attempt::Taken(file, note) => (file, note),
                Attempt::Held(by) => {
                    let error = busy(by.as_ref());
                    if !patience.wait()? {
                        return Err(error);
                    }
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!("waiting: {error}");
                    }
                    continue;
                }
            };
            let mut lock = Self { file, path: path.to_owned(), dead_holder: other, keeps_note: false };
            lock.note(holder)?;
            return Ok(lock);
        }
    }

    /// The holder before, if it died without letting go. Its note comes back when the lock is let go,
    /// unless [`Lock::forget_dead`] says that nothing of it is left.
    pub fn dead_holder(&self) -> Option<&Holder> {
        self.dead_holder.as_ref()
    }

    /// What the dead holder left is cleared.
    pub fn forget_dead(&mut self) {
        self.dead_holder = None;
    }

    /// Replaces the note of who holds it.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io).
    pub fn note(&mut self, holder: &Holder) -> Result<()> {
        let text = serde_json::to_string(holder).map_err(|error| Error::corrupt("a lock's note").caused_by(error))?;
        let written = self.file.set_len(0).and_then(|()| self.file.rewind());
        let written = written.and_then(|()| writeln!(self.file, "{text}"));
        written.map_err(|error| Error::io("write", error).path(&self.path))
    }

    /// Leaves the note behind, for the next holder to find.
    pub fn keep_note(&mut self) {
        self.keeps_note = true;
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.keeps_note {
            // A note that stays is looked into and found to be of nothing.
            let _ = match self.dead_holder.take() {
                Some(dead) => self.note(&dead),
                None => self.file.set_len(0).map_err(|error| Error::io("write", error)),
            };
        }
        // Not left to closing: a child on its way to its program has the descriptor, too, and would hold the lock.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Who noted at `path` that he holds it; whether he still does is not said.
pub fn holder_of(path: &Path) -> Option<Holder> {
    read_note(&File::open(path).ok()?)
}

/// Opens a file to be locked, private and new where it is missing.
///
/// # Errors
/// Of the file system.
pub fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    // Others may write there: a link would have us cut off a file elsewhere.
    options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)
}

enum Attempt {
    Taken(File, Option<Holder>),
    Held(Option<Holder>),
}

fn open(path: &Path) -> Result<Attempt> {
    let place = |operation: &str, error: io::Error| Error::io(operation, error).path(path);
    let file = open_file(path).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => "what takes a lock has to write there: mount it read-write",
            io::ErrorKind::PermissionDenied => "what takes a lock has to write there: run it as the owner, or root",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there",
            _ => "a lock is a plain file: if something else is in its place, remove that",
        };
        place("open", error).hint(hint)
    })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Its holder removed it between the two calls: a lock on it keeps nobody out.
        Ok(()) if fstat(&file).is_ok_and(|stat| stat.st_nlink == 0) => Ok(Attempt::Held(None)),
        Ok(()) => {
            let note = read_note(&file);
            Ok(Attempt::Taken(file, note))
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Attempt::Held(read_note(&file))),
        Err(error) => Err(place("lock", error.into())),
    }
}

/// What is no note is none: it only names a holder.
fn read_note(file: &File) -> Option<Holder> {
    let mut text = String::new();
    file.take(MAX_NOTE).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn holder() -> Holder {
        Holder {
            process: std::process::id(),
            domain: "web".into(),
            directory: "/backup/web".into(),
            since: "2026-11-22 03:00".into(),
            run: None,
        }
    }

    fn take(path: &Path, wait: Duration, cancel: &Cancel) -> Result<Lock> {
        let busy = |by: Option<&Holder>| Error::new(Kind::Busy, by.map(Holder::to_string).unwrap_or_default());
        Lock::take(path, &holder(), &Patience::new(wait, cancel), busy)
    }

    #[test]
    fn the_second_is_told_who_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert_eq!(holder_of(&path), None);
        let first = take(&path, Duration::ZERO, &Cancel::new()).unwrap();
        let error = take(&path, Duration::ZERO, &Cancel::new()).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.to_string().contains(&format!("process {}: web into /backup/web", std::process::id())));
        assert_eq!(holder_of(&path), Some(holder()));
        drop(first);
        assert_eq!(holder_of(&path), None);
        let next = take(&path, Duration::ZERO, &Cancel::new()).unwrap();
        assert_eq!(next.dead_holder(), None);
    }

    #[test]
    fn a_child_on_its_way_holds_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = take(&path, Duration::ZERO, &Cancel::new()).unwrap();
        let inherited = first.file.try_clone().unwrap();
        drop(first);
        take(&path, Duration::ZERO, &Cancel::new()).unwrap();
        drop(inherited);
    }

    #[test]
    fn who_waits_gets_it_and_a_signal_ends_the_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = take(&path, Duration::ZERO, &Cancel::new()).unwrap();
        let cancel = Cancel::new();
        cancel.cancel();
        assert_eq!(take(&path, Duration::from_secs(60), &cancel).unwrap_err().kind(), Kind::Cancelled);
        let waiting = thread::spawn({
            let path = path.clone();
            move || take(&path, Duration::from_secs(60), &Cancel::new()).map(drop)
        });
        thread::sleep(POLL);
        drop(first);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn the_dead_are_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let mut first = take(&path, Duration::ZERO, &Cancel::new()).unwrap();
        let run = Holder { run: Some(Uuid::from_u128(7)), ..holder() };
        first.note(&run).unwrap();
        first.keep_note();
        drop(first);
        // Also by one who does nothing about it.
        for _ in 0..2 {
            assert_eq!(take(&path, Duration::ZERO, &Cancel::new()).unwrap().dead_holder(), Some(&run));
        }
        take(&path, Duration::ZERO, &Cancel::new()).unwrap().forget_dead();
        assert_eq!(take(&path, Duration::ZERO, &Cancel::new()).unwrap().dead_holder(), None);
    }
}
