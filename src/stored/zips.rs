//! The members of several zip files as the files of one set: a full and its increments, say.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoredFile;
use super::archive::{Archive, Entry};
use crate::error::{Error, Result};

/// Ends the name of the list of a chain's checkpoints: every zip file has one, the newest is the longest.
const LIST: &str = ".cpt";

/// Zip files, read as one.
#[derive(Debug)]
pub struct Zips {
    archives: Vec<(PathBuf, Arc<File>)>,
    /// All members, each with the number of its archive.
    members: Vec<(usize, Entry)>,
    /// Members by name.
    names: BTreeMap<String, usize>,
    place: PathBuf,
}

impl Zips {
    /// Opens the zip files at `paths`.
    ///
    /// # Errors
    /// As for [`Archive::open`]; [`Usage`](crate::error::Kind::Usage) where two of them have different files
    /// under one name: then they are not of one chain.
    pub fn open(paths: &[PathBuf]) -> Result<Arc<Self>> {
        let place = PathBuf::from(paths.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>().join(","));
        let mut zips = Self { archives: Vec::new(), members: Vec::new(), names: BTreeMap::new(), place };
        for path in paths {
            let Archive { file, entries } = Archive::open(path)?;
            zips.archives.push((path.clone(), file));
            for entry in entries {
                zips.add(entry)?;
            }
        }
        Ok(Arc::new(zips))
    }

    fn add(&mut self, entry: Entry) -> Result<()> {
        let archive = self.archives.len() - 1;
        let path = &self.archives[archive].0;
        match self.names.entry(entry.name.clone()) {
            btree_map::Entry::Vacant(vacant) => {
                vacant.insert(self.members.len());
            }
            btree_map::Entry::Occupied(mut occupied) => {
                let (other, known) = &self.members[*occupied.get()];
                if *other == archive {
                    return Err(Error::corrupt(format!("{:?} is in it twice", entry.name)).path(path));
                }
                if known.name.ends_with(LIST) {
                    if known.length < entry.length {
                        occupied.insert(self.members.len());
                    }
                } else if (known.length, known.crc32) != (entry.length, entry.crc32) {
                    let other = &self.archives[*other].0;
                    return Err(Error::usage(format!(
                        "{:?} is in {}, too, with other content",
                        entry.name,
                        other.display()
                    ))
                    .path(path)
                    .hint("name the zip files of one chain: the full and the increments on it"));
                }
            }
        }
        self.members.push((archive, entry));
        Ok(())
    }

    /// The file called `name`; that it is there is not said.
    pub fn file_called(self: &Arc<Self>, name: &str) -> StoredFile {
        StoredFile::member(self, name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The paths, as they are given to `-i`.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Number of the member called `name`, and the path of its archive.
    pub(super) fn find(&self, name: &str) -> Option<(usize, &Path)> {
        let number = *self.names.get(name)?;
        Some((number, &self.archives[self.members[number].0].0))
    }

    pub(super) fn entry(&self, number: usize) -> &Entry {
        &self.members[number].1
    }

    pub(super) fn file(&self, number: usize) -> Arc<File> {
        Arc::clone(&self.archives[self.members[number].0].1)
    }
}
