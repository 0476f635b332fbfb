//! The intent: written before a run touches the domain, removed when it is over. What it names is
//! provably that run's and is cleared by whoever finds it without a manifest.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Level;
use super::layout::{Layout, remove, sync_directory};
use crate::error::{Error, Result};

/// An intent names a few files per disk; more than this is not one of ours.
const MAX_SIZE: u64 = 1 << 20;

/// What a run is about to create.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Identity of the run.
    pub run: Uuid,
    /// The domain's UUID.
    pub domain_uuid: Uuid,
    /// The URI the domain is reached by; without credentials.
    pub uri: String,
    /// Level of the run.
    pub level: Level,
    /// The checkpoint that the run makes.
    pub checkpoint: Option<String>,
    /// The backup job's NBD socket on the domain's host; empty where it serves over TCP.
    pub socket: PathBuf,
    /// The backup job's scratch files on the domain's host.
    pub scratch: Vec<PathBuf>,
    /// Names of the data files, without `.partial`.
    pub files: Vec<String>,
    /// Names of the run's other files; they exist only once the data is complete.
    #[serde(default)]
    pub extra: Vec<String>,
    /// What the run does to the guest at the moment.
    #[serde(default)]
    pub held: Held,
    /// The number that the domain had since it was started: with another one it is held by nobody.
    #[serde(default)]
    pub instance: Option<String>,
}

/// What a run does to a guest and has to undo whatever happens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its filesystems are frozen, or are about to be.
    #[serde(default)]
    pub frozen: bool,
    /// It is paused, or about to be.
    #[serde(default)]
    pub paused: bool,
    /// The domain was off and is started, paused, for the run.
    #[serde(default)]
    pub started: bool,
}

impl Intent {
    fn name(run: Uuid) -> String {
        format!(".virtkeep/intent.{run}.json")
    }

    /// Writes the intent durably.
    pub fn write(&self, layout: &Layout) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::corrupt("intent can't be encoded").caused_by(error))?;
        layout.write_atomically(&layout.file(&Self::name(self.run))?, &text)
    }

    /// Removes the intent of `run`: the run is over, committed or undone.
    pub fn remove(layout: &Layout, run: Uuid) -> Result<()> {
        remove(&layout.file(&Self::name(run))?)?;
        sync_directory(&layout.private())
    }

    /// The intents that runs left behind. One that can't be read is an error: it may be all that is
    /// known of a job that is still there.
    pub fn left_behind(layout: &Layout) -> Result<Vec<Self>> {
        let private = layout.private();
        let mut intents = Vec::new();
        let entries = match std::fs::read_dir(&private) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(intents),
            Err(error) => return Err(Error::io("read directory", error).path(private)),
        };
        for entry in entries {
            let path = entry.map_err(|error| Error::io("read directory", error).path(&private))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with("intent.") && name.ends_with(".json") {
                intents.push(Self::read(&path)?);
            }
        }
        Ok(intents)
    }

    fn read(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).map_err(|error| Error::io("stat", error).path(path))?.len();
        let text = match size {
            0..=MAX_SIZE => std::fs::read(path).map_err(|error| Error::io("read", error).path(path))?,
            _ => return Err(Error::corrupt(format!("intent of {size} bytes")).path(path)),
        };
        serde_json::from_slice(&text).map_err(|error| {
            Error::corrupt("the record of an unfinished run is damaged")
                .path(path)
                .caused_by(error)
                .hint("look for a leftover backup job (virsh domjobinfo), then remove this file")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intents_are_found_until_removed() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        assert_eq!(Intent::left_behind(&layout).unwrap(), []);
        layout.create().unwrap();
        let intent = Intent {
            run: Uuid::from_u128(1),
            domain_uuid: Uuid::from_u128(2),
            uri: "qemu:///system".into(),
            level: Level::Inc,
            checkpoint: Some("virtnbdbackup.1".into()),
            socket: "/var/tmp/x.sock".into(),
            scratch: vec![],
            files: vec!["vda.inc.virtnbdbackup.1.data".into()],
            extra: vec![],
            held: Held { frozen: true, ..Held::default() },
            instance: Some("7".into()),
        };
        intent.write(&layout).unwrap();
        assert_eq!(Intent::left_behind(&layout).unwrap(), std::slice::from_ref(&intent));
        Intent::remove(&layout, intent.run).unwrap();
        Intent::remove(&layout, intent.run).unwrap();
        assert_eq!(Intent::left_behind(&layout).unwrap(), []);
    }

    #[test]
    fn a_damaged_intent_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.create().unwrap();
        std::fs::write(layout.private().join("intent.x.json"), b"{").unwrap();
        assert!(Intent::left_behind(&layout).is_err());
    }
}
