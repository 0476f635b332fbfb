//! The records of backups that went to standard output: intents, manifests, checkpoints, locks; everything of a
//! set but its data. They are what the next increment builds on.
//!
//! What a pipe took may be lost behind it. So the checkpoints of the chain before are kept until a run after the
//! one that replaced it has succeeded.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::catalogue::Catalogue;
use super::layout::Layout;
use crate::error::{Error, Result};
use crate::stored::StoredFile;

/// In the private folder of a directory of records.
const MARK: &str = "stdout";
/// There, too: what a full replaced.
const REPLACED: &str = "replaced";
/// A domain has a few checkpoints; a list of this size is not one of ours.
const MAX_SIZE: u64 = 64 << 20;

/// Whether `layout` holds records, and no data.
pub fn is_of_stdout(layout: &Layout) -> bool {
    mark(layout).exists()
}

/// The file that says so.
pub fn mark(layout: &Layout) -> PathBuf {
    layout.private().join(MARK)
}

/// Makes sure that a directory holds records where the data goes to standard output, and data else.
///
/// # Errors
/// [`Usage`](crate::error::Kind::Usage) where it is of the other kind.
pub fn check(layout: &Layout, catalogue: &mut Catalogue, to_stdout: bool) -> Result<()> {
    let is_empty = catalogue.runs.is_empty() && catalogue.problems.is_empty() && catalogue.partial.is_empty();
    match (to_stdout, catalogue.is_of_stdout) {
        (true, false) if is_empty => {
            let text = "Records of backups that went to standard output; the data is where that went.\n";
            layout.write_atomically(&mark(layout), text.as_bytes())?;
            catalogue.is_of_stdout = true;
            Ok(())
        }
        (true, false) => Err(Error::usage("holds a set with its data: no run of its chain can go to standard output")
            .path(layout.directory())
            .hint("--state-dir names another directory for the records; a new chain begins there")),
        (false, true) => Err(Error::usage("holds only the records of backups that went to standard output")
            .path(layout.directory())
            .hint("choose another directory with -o; `-o - --state-dir` continues that chain")),
        _ => Ok(()),
    }
}

/// A checkpoint that was on the domain when a full began a chain, and is not of these records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: Option<String>,
    /// When it was made.
    pub creation_time: u64,
}

#[derive(Serialize, Deserialize)]
struct List {
    /// The full that replaced them. Only if that is committed are they replaced.
    run: Uuid,
    checkpoints: Vec<Replaced>,
}

/// Notes what the full `run` replaces once it is committed.
///
/// # Errors
/// [`Io`](crate::error::Kind::Io).
pub fn note_replaced(layout: &Layout, run: Uuid, checkpoints: Vec<Replaced>) -> Result<()> {
    let text = serde_json::to_vec(&List { run, checkpoints })
        .map_err(|error| Error::corrupt("the list can't be encoded").caused_by(error))?;
    layout.write_atomically(&layout.private().join(REPLACED), &text)
}

/// What a committed full replaced, and what may still be on the domain. A list that can't be read is none: what it
/// named is refused as somebody else's then.
pub fn replaced(catalogue: &Catalogue) -> Vec<Replaced> {
    let Some(layout) = catalogue.files.layout() else { return Vec::new() };
    let text = StoredFile::from(layout.private().join(REPLACED)).read(MAX_SIZE).unwrap_or_default();
    match serde_json::from_slice::<List>(&text) {
        Ok(list) if catalogue.runs.iter().any(|run| run.run_id() == Some(list.run)) => list.checkpoints,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_of_one_kind() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.create().unwrap();
        let open = || Catalogue::open(layout.clone()).unwrap();
        check(&layout, &mut open(), false).unwrap();
        std::fs::write(directory.path().join("vda.full.data.partial"), "x").unwrap();
        assert!(check(&layout, &mut open(), true).is_err());
        std::fs::remove_file(directory.path().join("vda.full.data.partial")).unwrap();
        check(&layout, &mut open(), true).unwrap();
        assert!(open().is_of_stdout && is_of_stdout(&layout));
        check(&layout, &mut open(), true).unwrap();
        assert!(check(&layout, &mut open(), false).is_err());
    }

    #[test]
    fn only_a_committed_full_replaces() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.create().unwrap();
        let manifest = crate::set::manifest::tests::sample();
        let old = Replaced { name: "virtnbdbackup.0".into(), description: None, creation_time: 7 };
        note_replaced(&layout, manifest.run, vec![old.clone()]).unwrap();
        assert_eq!(replaced(&Catalogue::open(layout.clone()).unwrap()), []);
        manifest.commit(&layout).unwrap();
        assert_eq!(replaced(&Catalogue::open(layout).unwrap()), [old]);
    }
}
