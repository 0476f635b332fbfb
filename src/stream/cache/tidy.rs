//! What goes from the cache: tables that nobody used for long, tables of files that are gone, and the oldest where
//! there are too many. Whenever one is written, and never with a word: a table is made anew where it is missed.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::entry::{ENDING, path_of};

/// Begin of the names of tables that are being written.
pub(super) const NEW: &str = "new.";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Not used for so long.
const MAX_AGE: Duration = DAY.saturating_mul(90);
/// A file that is gone may be on a disk that is not mounted at the moment.
const MAX_AGE_ALONE: Duration = DAY.saturating_mul(7);
/// Bytes of all tables.
const MAX_SIZE: u64 = 2 << 30;

/// Removes what is not worth its room.
pub(super) fn tidy(directory: &Path) {
    let now = SystemTime::now();
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let mut tables: Vec<(Duration, u64, PathBuf)> = Vec::new();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let (is_table, is_new) = (name.ends_with(ENDING), name.starts_with(NEW));
        // Nothing that could be somebody else's.
        let Some(facts) = entry.metadata().ok().filter(|facts| facts.is_file() && (is_table || is_new)) else {
            continue;
        };
        let (age, path) = (age(&facts, now), entry.path());
        let is_old = if is_new { age > DAY } else { age > MAX_AGE || age > MAX_AGE_ALONE && is_alone(&path) };
        if is_old {
            let _ = std::fs::remove_file(path);
        } else if is_table {
            tables.push((age, facts.len(), path));
        }
    }
    tables.sort_unstable();
    let mut size = 0_u64;
    for (_, length, path) in tables {
        size = size.saturating_add(length);
        if size > MAX_SIZE {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn age(facts: &Metadata, now: SystemTime) -> Duration {
    facts.modified().ok().and_then(|modified| now.duration_since(modified).ok()).unwrap_or_default()
}

/// Whether the file is gone that a table is of, or can't be told.
fn is_alone(table: &Path) -> bool {
    let path = File::open(table).ok().and_then(|mut file| path_of(&mut file));
    // Of a member of a zip file the archive is there.
    path.is_none_or(|path| !path.exists() && !path.parent().is_some_and(Path::is_file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_tables_go() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, days: u64, content: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            let time = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        let of = |path: &Path| {
            let path = path.as_os_str().as_encoded_bytes();
            [&b"VKTABLE\x01"[..], &(path.len() as u64).to_le_bytes(), path].concat()
        };
        let (there, gone) = (of(directory.path()), of(&directory.path().join("gone")));
        for (name, days, content) in [
            ("a.table", 80, &there),
            ("b.table", 100, &there),
            ("c.table", 3, &gone),
            ("d.table", 10, &gone),
            ("new.1", 0, &gone),
            ("new.2", 2, &gone),
            ("other", 1000, &gone),
        ] {
            file(name, days, content);
        }
        tidy(directory.path());
        let mut left: Vec<String> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["a.table", "c.table", "new.1", "other"]);
    }
}
