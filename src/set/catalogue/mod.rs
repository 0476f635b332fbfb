//! What a set holds: its committed runs, virtkeep's by their manifests and virtnbdbackup's by their
//! streams, in the order of the chain.
//!
//! The order never comes from modification times, which copying a set changes: runs of a chain are
//! ordered by their place in it.

mod foreign;

use std::collections::BTreeSet;

use uuid::Uuid;

use foreign::Foreign;

use super::Level;
use super::files::Files;
use super::layout::{CHKSUM, DataName, Layout, PARTIAL, checkpoint_position, index_name};
use super::manifest::{self, Manifest};
use super::records;
use crate::error::{Error, Kind, Result};
use crate::stored::StoredFile;
use crate::stream::head;

/// One committed run: a restore point.
#[derive(Debug, Clone)]
pub struct Run {
    /// What `--until` takes: the run's UUID, or for virtnbdbackup's runs the checkpoint, `copy` or
    /// `diff.UNIXTIME`.
    pub id: String,
    /// The level.
    pub level: Level,
    /// The checkpoint that the run made.
    pub checkpoint: Option<String>,
    /// When the run started.
    pub started: jiff::Zoned,
    /// The run's streams, by target.
    pub streams: Vec<Stream>,
    /// The commit record; none for virtnbdbackup's runs.
    pub manifest: Option<Manifest>,
}

impl Run {
    /// The stream of a disk in this run.
    pub fn stream(&self, target: &str) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.target == target)
    }

    /// The sum over the run's streams of what `size` says of each.
    pub fn sum(&self, size: impl Fn(&Stream) -> u64) -> u64 {
        self.streams.iter().map(size).fold(0, u64::saturating_add)
    }

    /// Whether another stream can build on this run.
    pub fn is_base(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// Whether virtkeep made it.
    pub fn run_id(&self) -> Option<Uuid> {
        self.manifest.as_ref().map(|manifest| manifest.run)
    }

    /// Position in the chain: of the run's own checkpoint, or of the newest that it builds on.
    fn position(&self) -> Option<u64> {
        match &self.checkpoint {
            Some(name) => checkpoint_position(name),
            None => self.streams.iter().filter_map(|s| checkpoint_position(s.base.as_deref()?)).max(),
        }
    }
}

/// One disk's stream in one run, as its meta or its manifest tells.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Target name of the disk.
    pub target: String,
    /// Name of the data file in the set.
    pub file: String,
    /// The checkpoint that it builds on; none for a stream that holds the whole disk.
    pub base: Option<String>,
    /// The run that made [`Stream::base`], where virtkeep did.
    pub base_run: Option<Uuid>,
    /// Size of the disk as the guest sees it.
    pub virtual_size: u64,
    /// Guest bytes carried.
    pub data_size: u64,
    /// Size of the data file.
    pub stored_size: u64,
    /// It is no stream, but the disk's image as the guest sees it.
    pub raw: bool,
    /// The disk's own image was raw: it has no bitmap, and is in no increment.
    pub raw_disk: bool,
}

/// Something in the set that is not part of a committed run.
#[derive(Debug)]
pub struct Problem {
    /// Name of the file.
    pub file: String,
    /// What is wrong with it.
    pub error: Error,
}

impl Problem {
    /// Whether it is damage; if not, it is only nothing that virtkeep can read.
    pub fn is_damage(&self) -> bool {
        self.error.kind() != Kind::Unsupported
    }

    /// Whether a run may be missing from the catalogue for it: by damage, or by a manifest of a newer
    /// version.
    pub fn may_hide_run(&self) -> bool {
        self.is_damage() || is_manifest(&self.file)
    }
}

/// The runs of a set and what else lies there.
#[derive(Debug)]
pub struct Catalogue {
    /// Where the set is read.
    pub files: Files,
    /// Committed runs in the order of the chain.
    pub runs: Vec<Run>,
    /// Files that belong to no committed run, or are damaged where the catalogue looked.
    pub problems: Vec<Problem>,
    /// Data files of runs that never finished.
    pub partial: Vec<String>,
    /// Only the records are here: the data went to standard output, see [`records`].
    pub is_of_stdout: bool,
}

impl Catalogue {
    /// Reads the names, manifests and stream heads of a set.
    ///
    /// # Errors
    /// Only where the directory can't be read; damage is in [`Catalogue::problems`].
    pub fn open(files: impl Into<Files>) -> Result<Self> {
        let files = files.into();
        let is_of_stdout = files.layout().is_some_and(records::is_of_stdout);
        let names = files.names().map_err(|error| match error.kind() {
            Kind::NotFound => error.hint("-i takes the directory that `virtkeep backup -o` wrote"),
            _ => error,
        })?;
        let mut catalogue = Self { files, runs: vec![], problems: vec![], partial: vec![], is_of_stdout };
        let mut claimed = BTreeSet::new();
        for name in names.iter().filter(|name| is_manifest(name)) {
            catalogue.add_manifest(name, &mut claimed);
        }
        let foreign = names.iter().filter(|name| !claimed.contains(*name)).cloned().collect::<Vec<_>>();
        catalogue.add_foreign(&foreign);
        catalogue.sort();
        Ok(catalogue)
    }

    /// Adds a run that was found otherwise.
    pub fn insert(&mut self, run: Run) {
        self.runs.push(run);
        self.sort();
    }

    /// Puts the runs in the order of the chain. Runs with a checkpoint go by its position, whatever
    /// the clock said; others come after the last of those that had started before them, and in any
    /// case after what they build on.
    fn sort(&mut self) {
        let bases: Vec<(jiff::Timestamp, u64)> = self
            .runs
            .iter()
            .filter(|run| run.is_base())
            .map(|run| (run.started.timestamp(), run.position().unwrap_or(0)))
            .collect();
        self.runs.sort_by_key(|run| {
            let started = run.started.timestamp();
            let before = bases.iter().filter(|(base, _)| !run.is_base() && *base <= started);
            let position = before.map(|(_, position)| *position).chain(run.position()).max();
            (position.unwrap_or(0), !run.is_base(), started)
        });
    }

    fn add_manifest(&mut self, name: &str, claimed: &mut BTreeSet<String>) {
        let manifest = self.files.file(name).and_then(|file| Manifest::read(&file));
        match manifest {
            Ok(manifest) if Layout::manifest_name(manifest.run) == name => {
                for name in manifest.disks.iter().flat_map(manifest::Disk::files) {
                    claimed.insert(format!("{name}{PARTIAL}"));
                    claimed.insert(name);
                }
                self.runs.push(run_of_manifest(manifest));
            }
            Ok(_) => self.problem(name, Error::corrupt("holds the manifest of another run")),
            Err(error) => self.problem(name, error),
        }
    }

    /// Groups the streams that no manifest claims: virtnbdbackup wrote them, or a run that never
    /// was.
    fn add_foreign(&mut self, names: &[String]) {
        let mut streams = Vec::new();
        for name in names {
            if name.ends_with(PARTIAL) {
                self.partial.push(name.clone());
            } else if let Some(parsed) = DataName::parse(name) {
                match self.read_foreign(name, &parsed) {
                    Ok(stream) => streams.push(stream),
                    Err(error) => self.problem(name, error),
                }
            }
        }
        self.runs.extend(foreign::group(streams));
    }

    fn read_foreign(&self, name: &str, parsed: &DataName) -> Result<Foreign> {
        let file = self.files.file(name)?;
        let stored_size = file.size()?;
        let path = file.path();
        if self.files.file(&index_name(name))?.exists() {
            return Err(Error::incomplete("the manifest that names this raw image is missing or damaged").path(path));
        }
        let meta = head::read(&file).map_err(|error| self.unless_raw_image(parsed, error))?;
        if let Some(own) = &meta.own {
            let manifest = Layout::manifest_name(own.run);
            let state = if self.files.file(&manifest)?.exists() { "damaged" } else { "missing" };
            return Err(Error::incomplete(format!("{manifest}, which names this stream, is {state}")).path(path));
        }
        if parsed.level == Level::Inc && parsed.ident != meta.checkpoint_name {
            return Err(Error::corrupt(format!("holds the increment {}", meta.checkpoint_name)).path(path));
        }
        if meta.disk_name != parsed.target {
            return Err(Error::corrupt(format!("holds disk {}", meta.disk_name)).path(path));
        }
        Ok(Foreign { name: parsed.clone(), file: name.to_owned(), stored_size, meta })
    }

    /// virtnbdbackup copies raw disks as they are, without a head and without a sum.
    fn unless_raw_image(&self, name: &DataName, error: Error) -> Error {
        let sum = self.files.file(&format!("{}.copy.data{CHKSUM}", name.target)).is_ok_and(|sum| sum.exists());
        if name.level != Level::Copy || error.kind() != Kind::Corrupt || error.offset() != Some(0) || sum {
            return error;
        }
        Error::unsupported("no stream: virtnbdbackup copies raw disks as they are")
            .path(self.files.place().join(format!("{}.copy.data", name.target)))
            .hint("if it is one, it is the disk's image itself, but nothing in the set says so: copy it")
    }

    fn problem(&mut self, file: &str, error: Error) {
        self.problems.push(Problem { file: file.to_owned(), error });
    }

    /// The catalogue, if the set has its data.
    ///
    /// # Errors
    /// [`Kind::Usage`] for records of backups that went to standard output.
    pub fn with_data(self) -> Result<Self> {
        match self.is_of_stdout {
            false => Ok(self),
            true => Err(Error::usage("holds only the records of backups that went to standard output")
                .path(self.files.place())
                .hint("-i takes the zip files that were made of it: full.zip,inc1.zip")),
        }
    }

    /// What the manifest of its run records of the data file of that name; none of virtnbdbackup's.
    pub fn record_of(&self, file: &str) -> Option<(&Manifest, &manifest::Disk)> {
        let mut manifests = self.runs.iter().filter_map(|run| run.manifest.as_ref());
        manifests.find_map(|manifest| Some((manifest, manifest.disks.iter().find(|disk| disk.file == file)?)))
    }

    /// The newest committed run that others can build on.
    pub fn newest_base(&self) -> Option<&Run> {
        self.runs.iter().rev().find(|run| run.is_base())
    }

    /// The run that made `checkpoint`.
    pub fn run_of_checkpoint(&self, checkpoint: &str) -> Option<&Run> {
        self.runs.iter().find(|run| run.checkpoint.as_deref() == Some(checkpoint))
    }

    /// The file of a stream: under its name, or still under its partial name where a crash came
    /// between the commit and the renames.
    pub fn stream_file(&self, stream: &Stream) -> Result<StoredFile> {
        self.data_file(&stream.file)
    }

    /// The index of a raw image of ours, as for [`Catalogue::stream_file`].
    pub fn index_file(&self, stream: &Stream) -> Result<StoredFile> {
        self.data_file(&index_name(&stream.file))
    }

    fn data_file(&self, name: &str) -> Result<StoredFile> {
        let file = self.files.file(name)?;
        let partial = self.files.file(&format!("{name}{PARTIAL}"))?;
        Ok(if !file.exists() && partial.exists() { partial } else { file })
    }
}

/// Whether `name` is a manifest's.
pub fn is_manifest(name: &str) -> bool {
    name.strip_prefix("manifest.").and_then(|rest| rest.strip_suffix(".json")).is_some()
}

fn run_of_manifest(manifest: Manifest) -> Run {
    let streams = manifest
        .disks
        .iter()
        .map(|disk| Stream {
            target: disk.target.clone(),
            file: disk.file.clone(),
            base: disk.base_checkpoint.clone(),
            base_run: disk.base_run,
            virtual_size: disk.virtual_size,
            data_size: disk.data_size,
            stored_size: disk.stored_size,
            raw: disk.raw,
            raw_disk: disk.raw && !disk.raw_by_choice,
        })
        .collect();
    Run {
        id: manifest.run.to_string(),
        level: manifest.level,
        checkpoint: manifest.checkpoint.clone(),
        started: manifest.started.clone(),
        streams,
        manifest: Some(manifest),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run of virtnbdbackup with one stream of `vda`, begun at local `time`.
    pub(crate) fn run(id: &str, level: Level, checkpoint: Option<&str>, base: Option<&str>, time: &str) -> Run {
        let stream = Stream {
            target: "vda".into(),
            file: format!("vda.{id}.data"),
            base: base.map(str::to_owned),
            base_run: None,
            virtual_size: 1,
            data_size: 1,
            stored_size: 1,
            raw: false,
            raw_disk: false,
        };
        Run {
            id: id.into(),
            level,
            checkpoint: checkpoint.map(str::to_owned),
            started: time.parse::<jiff::civil::DateTime>().unwrap().to_zoned(jiff::tz::TimeZone::system()).unwrap(),
            streams: vec![stream],
            manifest: None,
        }
    }

    #[test]
    fn runs_go_by_position_and_leaves_by_time() {
        let runs = vec![
            run("full diff", Level::Diff, None, None, "2026-01-01T09:00:00"),
            run("inc 10", Level::Inc, Some("virtnbdbackup.10"), Some("virtnbdbackup.2"), "2026-01-01T07:00:00"),
            // The clock was wrong.
            run("inc 2", Level::Inc, Some("virtnbdbackup.2"), Some("virtnbdbackup.0"), "2026-01-01T01:00:00"),
            run("diff of 0", Level::Diff, None, Some("virtnbdbackup.0"), "2026-01-01T03:00:00"),
            run("early diff of 2", Level::Diff, None, Some("virtnbdbackup.2"), "2026-01-01T00:00:00"),
            run("late diff of 0", Level::Diff, None, Some("virtnbdbackup.0"), "2026-01-01T08:00:00"),
            run("full", Level::Full, Some("virtnbdbackup.0"), None, "2026-01-01T02:00:00"),
        ];
        let mut set = Catalogue {
            files: Layout::new("/set").into(),
            runs,
            problems: vec![],
            partial: vec![],
            is_of_stdout: false,
        };
        set.sort();
        let order: Vec<&str> = set.runs.iter().map(|run| run.id.as_str()).collect();
        assert_eq!(order, ["full", "inc 2", "early diff of 2", "diff of 0", "inc 10", "late diff of 0", "full diff"]);
    }
}
