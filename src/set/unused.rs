//! Directories of a set that a run made, and then wrote nothing to.

use std::path::{Path, PathBuf};

use super::layout::Layout;
use super::{lock, records};

/// The directories of a set that were missing before a run made them, the innermost first.
#[derive(Debug)]
pub struct Made(Vec<PathBuf>);

impl Made {
    /// What is missing now: to be asked before the directories are made.
    pub fn of(layout: &Layout) -> Self {
        let above = layout.directory().ancestors().map(Path::to_owned);
        let missing = [layout.private(), layout.checkpoints()].into_iter().chain(above);
        Self(missing.filter(|directory| !directory.is_dir()).collect())
    }

    /// Removes them again where the set holds nothing but its own lock and its mark, and of those above it the ones
    /// that are empty then. Only for whoever holds the set's lock.
    ///
    /// What can't be looked at or removed stays: it is in nobody's way.
    pub fn remove_if_unused(&self, layout: &Layout) {
        let (private, checkpoints) = (layout.private(), layout.checkpoints());
        let own = [lock::path(layout), records::mark(layout)];
        let is_unused = self.0.contains(&private)
            && holds_only(layout.directory(), &[private.clone(), checkpoints.clone()])
            && holds_only(&private, &own)
            && holds_only(&checkpoints, &[]);
        if !is_unused {
            return;
        }
        for file in own {
            let _ = std::fs::remove_file(file);
        }
        for directory in &self.0 {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

fn holds_only(directory: &Path, paths: &[PathBuf]) -> bool {
    let Ok(mut entries) = std::fs::read_dir(directory) else { return false };
    entries.all(|entry| entry.is_ok_and(|entry| paths.contains(&entry.path())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_or_is_used_stays() {
        let directory = tempfile::tempdir().unwrap();
        let above = directory.path().join("2026");
        let layout = Layout::new(above.join("11"));
        let made = Made::of(&layout);
        let make = || {
            layout.create().unwrap();
            std::fs::write(lock::path(&layout), "").unwrap();
        };
        make();
        made.remove_if_unused(&layout);
        assert!(!above.exists() && directory.path().exists());

        // Another set beside it.
        make();
        std::fs::write(above.join("other"), "").unwrap();
        made.remove_if_unused(&layout);
        assert!(!layout.directory().exists() && above.exists());

        for file in [layout.directory().join("log"), layout.private().join("intent"), layout.checkpoints().join("xml")]
        {
            make();
            std::fs::write(&file, "").unwrap();
            made.remove_if_unused(&layout);
            assert!(file.exists() && lock::path(&layout).exists(), "{}", file.display());
            std::fs::remove_file(file).unwrap();
        }

        // An empty directory of somebody else's.
        std::fs::remove_dir_all(layout.directory()).unwrap();
        std::fs::create_dir(layout.directory()).unwrap();
        let made = Made::of(&layout);
        make();
        made.remove_if_unused(&layout);
        assert_eq!(std::fs::read_dir(layout.directory()).unwrap().count(), 0);
        // One that was a set before.
        make();
        Made::of(&layout).remove_if_unused(&layout);
        assert!(lock::path(&layout).exists());
    }
}
