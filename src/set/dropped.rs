//! Which runs' checkpoints were removed from the domain on purpose: the host has not lost them, and
//! nobody tells it of them again.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::layout::{Layout, remove};
use crate::error::{Error, Result};

/// A list of as many runs as there can be is smaller.
const MAX_SIZE: u64 = 64 << 20;

fn path(layout: &Layout) -> PathBuf {
    layout.private().join("dropped")
}

/// The ids of the runs. Where the list is lost or damaged there are none: the host is then told of
/// checkpoints whose bitmaps are gone, refuses them, and nothing is worse than that.
pub fn read(layout: &Layout) -> BTreeSet<String> {
    let mut text = Vec::new();
    match File::open(path(layout)).and_then(|file| file.take(MAX_SIZE).read_to_end(&mut text)) {
        Ok(_) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(_) => BTreeSet::new(),
    }
}

/// Adds runs by their ids. Before their checkpoints go: one that stays is known to the host, whatever
/// the list says.
///
/// # Errors
/// [`Io`](crate::error::Kind::Io) where the list can't be written.
pub fn add(layout: &Layout, runs: impl IntoIterator<Item = String>) -> Result<()> {
    let mut all = read(layout);
    all.extend(runs);
    let text = serde_json::to_vec(&all).map_err(|error| Error::corrupt("can't be encoded").caused_by(error))?;
    layout.write_atomically(&path(layout), &text)
}

/// Forgets all of them: a new chain begins in the set.
///
/// # Errors
/// [`Io`](crate::error::Kind::Io) where the list can't be removed.
pub fn forget(layout: &Layout) -> Result<()> {
    remove(&path(layout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_added_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.create().unwrap();
        assert!(read(&layout).is_empty());
        add(&layout, ["b".to_owned()]).unwrap();
        add(&layout, ["a".to_owned(), "b".to_owned()]).unwrap();
        assert_eq!(read(&layout).into_iter().collect::<Vec<_>>(), ["a", "b"]);
        std::fs::write(path(&layout), "{").unwrap();
        assert!(read(&layout).is_empty());
        forget(&layout).unwrap();
        forget(&layout).unwrap();
    }
}
