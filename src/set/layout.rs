//! The names of a set's files, and making them durable.
//!
//! Names follow virtnbdbackup, so that either tool finds the other's files. Everything of virtkeep's
//! own is called so that none of virtnbdrestore's globs (`DISK*.data`, `*.partial`,
//! `vmconfig*.xml`, `DISK*.qcow.json*`, `autostart.*`) matches it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::Level;
use crate::error::{Error, Kind, Result};

/// Permissions of files that nobody asked to be otherwise: a disk holds everything.
const PRIVATE: u32 = 0o600;

/// Begin of the names of files that are being written.
const TEMPORARY: &str = ".virtkeep-";

/// Ending of a data file that is not committed.
pub const PARTIAL: &str = ".partial";
/// Ending of the file that holds a data file's Adler-32.
pub const CHKSUM: &str = ".chksum";
/// Ending of the file that holds the index of a raw image.
const INDEX: &str = ".index";
/// First part of every checkpoint's name; the position in the chain follows.
pub const CHECKPOINT_PREFIX: &str = "virtnbdbackup.";

/// More increments than an hourly backup makes in a century; names come from files, and lists of
/// this many are made.
const MAX_POSITION: u64 = 1_000_000;

/// The name of the checkpoint at `position` of a chain.
pub fn checkpoint_name(position: u64) -> String {
    format!("{CHECKPOINT_PREFIX}{position}")
}

/// The position in its chain that a checkpoint's name says; `None` for a foreign one.
pub fn checkpoint_position(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(CHECKPOINT_PREFIX)?;
    let position =
        (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?;
    position.filter(|position| *position <= MAX_POSITION)
}

/// The data file of a disk in a run of `level`; `checkpoint` names an increment, `unixtime` a diff.
pub fn data_name(target: &str, level: Level, checkpoint: &str, unixtime: i64) -> String {
    match level {
        Level::Copy => format!("{target}.copy.data"),
        Level::Full => format!("{target}.full.data"),
        Level::Inc => format!("{target}.inc.{checkpoint}.data"),
        Level::Diff => format!("{target}.diff.{unixtime}.data"),
    }
}

/// The index of the raw image in data file `name`.
pub fn index_name(name: &str) -> String {
    format!("{name}{INDEX}")
}

/// What a data file's name says; the stream's meta decides where the two differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataName {
    /// Target name of the disk.
    pub target: String,
    /// Level in the name.
    pub level: Level,
    /// What stands between level and ending: a checkpoint or a time, `""` for full and copy.
    pub ident: String,
}

impl DataName {
    /// Splits `name`; `None` where it is not a data file's.
    pub fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".data")?;
        let (target, rest) = stem.split_once('.')?;
        let (level, ident) = rest.split_once('.').unwrap_or((rest, ""));
        let level = match level {
            "copy" => Level::Copy,
            "full" => Level::Full,
            "inc" => Level::Inc,
            "diff" => Level::Diff,
            _ => return None,
        };
        (!target.is_empty() && ident.is_empty() != level.needs_base()).then(|| Self {
            target: target.to_owned(),
            level,
            ident: ident.to_owned(),
        })
    }
}

/// The files of one set.
#[derive(Debug, Clone)]
pub struct Layout {
    directory: PathBuf,
    mode: u32,
}

impl Layout {
    /// The names in `directory`, which need not exist.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), mode: PRIVATE }
    }

    /// With `mode` as the permissions of new files, whatever the umask; directories get x where it has r.
    pub fn with_mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// The set's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file of the set by its name.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for a name that could leave the directory: names come from manifests too.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        Self::check_name(name).map_err(|error| error.path(&self.directory))?;
        Ok(self.directory.join(name))
    }

    /// Refuses what is no name of a file of a set.
    ///
    /// # Errors
    /// [`Kind::Corrupt`].
    pub fn check_name(name: &str) -> Result<()> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['/', '\0']);
        let ok = match name.split_once('/') {
            None => plain(name),
            Some((folder, rest)) => (folder == "checkpoints" || folder == ".virtkeep") && plain(rest),
        };
        if ok { Ok(()) } else { Err(Error::corrupt(format!("{name:?} is not a file name of a set"))) }
    }

    /// virtkeep's own folder: intents, locks.
    pub fn private(&self) -> PathBuf {
        self.directory.join(".virtkeep")
    }

    /// Where the checkpoints' XML is kept.
    pub fn checkpoints(&self) -> PathBuf {
        self.directory.join("checkpoints")
    }

    /// Name of a run's manifest.
    pub fn manifest_name(run: Uuid) -> String {
        format!("manifest.{run}.json")
    }

    /// Whether `run` is committed. A file server that does not answer is no proof that it is not.
    ///
    /// # Errors
    /// [`Kind::Io`] where that can't be found out.
    pub fn is_committed(&self, run: Uuid) -> Result<bool> {
        let manifest = self.file(&Self::manifest_name(run))?;
        manifest.try_exists().map_err(|error| Error::io("look for", error).path(manifest))
    }

    /// Creates those of the set's directories that are missing, and makes their names durable: a power
    /// loss after a run must not take the whole set.
    ///
    /// # Errors
    /// [`Kind::Io`]/[`Kind::NotFound`] naming the directory, with a hint.
    pub fn create(&self) -> Result<()> {
        if self.directory.exists() && !self.directory.is_dir() {
            return Err(Error::new(Kind::Busy, "is a file, not a directory")
                .path(&self.directory)
                .hint("-o takes the directory of the set; it is made where it is missing"));
        }
        let missing: Vec<&Path> = self.directory.ancestors().take_while(|path| !path.is_dir()).collect();
        for directory in [self.directory.clone(), self.private(), self.checkpoints()] {
            let exists = directory.is_dir();
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
            let made = made.and_then(|()| match exists {
                true => Ok(()),
                false => {
                    std::fs::set_permissions(&directory, Permissions::from_mode(self.mode | (self.mode & 0o444) >> 2))
                }
            });
            made.map_err(|error| {
                Error::io("create directory", error)
                    .path(&directory)
                    .hint("the target directory must be writable: choose another with -o")
            })?;
        }
        // Also where they were there already: a run that was killed may not have come to it.
        sync_directory(&self.directory)?;
        for made in &missing {
            sync_directory(parent(made))?;
        }
        if missing.is_empty() {
            // A directory of somebody else's need not be readable for us.
            let _ = sync_directory(parent(&self.directory));
        }
        Ok(())
    }

    /// Removes what a crash left of [`Layout::write_atomically`]. Only for whoever holds the set's lock.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn remove_temporary(&self) -> Result<()> {
        for directory in [self.directory.clone(), self.private(), self.checkpoints()] {
            let place = |error| Error::io("read directory", error).path(&directory);
            for entry in std::fs::read_dir(&directory).map_err(place)? {
                let entry = entry.map_err(place)?;
                let is_ours = entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes());
                if is_ours && entry.path().is_file() {
                    std::fs::remove_file(entry.path())
                        .map_err(|error| Error::io("remove", error).path(entry.path()))?;
                }
            }
        }
        Ok(())
    }

    /// Creates a new file of the set.
    ///
    /// # Errors
    /// [`Kind::Busy`] where it exists, else [`Kind::Io`].
    pub fn create_new(&self, path: &Path) -> Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(PRIVATE).open(path);
        let file = file.map_err(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                Error::new(Kind::Busy, "exists already").path(path)
            } else {
                Error::io("create", error).path(path)
            }
        })?;
        if self.mode != PRIVATE {
            let set = file.set_permissions(Permissions::from_mode(self.mode));
            set.map_err(|error| Error::io("set the permissions", error).path(path))?;
        }
        Ok(file)
    }

    /// [`write_with_mode`], with the set's permissions.
    ///
    /// # Errors
    /// [`Kind::Io`]: the old file is there, or none.
    pub fn write_atomically(&self, path: &Path, content: &[u8]) -> Result<()> {
        write_with_mode(path, content, self.mode)
    }

    /// The names of the plain files in the set's directory, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        let place = |error| Error::io("read directory", error).path(&self.directory);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(place)? {
            let entry = entry.map_err(place)?;
            // A name that is not UTF-8 was not written by any of the tools.
            if let (Ok(name), true) = (entry.file_name().into_string(), entry.path().is_file()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

/// [`write_with_mode`], readable by its owner only.
///
/// # Errors
/// [`Kind::Io`]: the old file is there, or none.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    write_with_mode(path, content, PRIVATE)
}

/// Writes `content` as a whole, whatever the umask: to a temporary name, synced, renamed, the directory synced. A
/// crash leaves the old file or the new one.
///
/// # Errors
/// [`Kind::Io`]: the old file is there, or none.
pub fn write_with_mode(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    let directory = parent(path);
    let place = |operation: &'static str| move |error: std::io::Error| Error::io(operation, error).path(path);
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory).map_err(place("create"))?;
    file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(place("set the permissions"))?;
    file.write_all(content).map_err(place("write"))?;
    file.as_file().sync_all().map_err(place("sync"))?;
    file.persist(path).map_err(|error| Error::io("rename", error.error).path(path))?;
    sync_directory(directory)
}

/// The directory that holds `path`; it may be named relative to the working directory.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// [`Kind::Io`].
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", error).path(path)),
        _ => Ok(()),
    }
}

/// Makes the names in `directory` durable.
pub fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|error| Error::io("sync directory", error).path(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_names_are_split() {
        for bad in ["vda.data", "vda.full.x.data", "vda.inc.data", ".full.data", "vda.full.data.partial", "vda.raw"] {
            assert_eq!(DataName::parse(bad), None, "{bad}");
        }
        for (level, name) in [
            (Level::Full, "sda.full.data"),
            (Level::Copy, "sda.copy.data"),
            (Level::Inc, "sda.inc.virtnbdbackup.7.data"),
            (Level::Diff, "sda.diff.1700000000.data"),
        ] {
            let parsed = DataName::parse(name).unwrap();
            assert_eq!((parsed.target.as_str(), parsed.level), ("sda", level));
            assert_eq!(data_name("sda", level, "virtnbdbackup.7", 1_700_000_000), name);
        }
    }

    #[test]
    fn checkpoint_positions() {
        for foreign in [
            "virtnbdbackup",
            "virtnbdbackup.",
            "virtnbdbackup.x",
            "snap.1",
            "virtnbdbackup.-1",
            "virtnbdbackup.+1",
            "virtnbdbackup.1000001",
        ] {
            assert_eq!(checkpoint_position(foreign), None, "{foreign}");
        }
        assert_eq!(checkpoint_position(&checkpoint_name(12)), Some(12));
    }

    #[test]
    fn names_stay_in_the_set() {
        let layout = Layout::new("/set");
        for bad in ["", "..", "/etc/passwd", "../x", "checkpoints/../x", "a/b", "checkpoints/", ".virtkeep/../../x"] {
            assert!(layout.file(bad).is_err(), "{bad:?}");
        }
        assert_eq!(layout.file("checkpoints/a b.xml").unwrap(), Path::new("/set/checkpoints/a b.xml"));
    }

    #[test]
    fn atomic_writes_replace_and_leave_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x y");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let layout = Layout::new(directory.path());
        layout.create().unwrap();
        std::fs::write(directory.path().join(".virtkeep-abc"), b"thr").unwrap();
        layout.remove_temporary().unwrap();
        assert_eq!(layout.names().unwrap(), ["x y"]);
    }
}
