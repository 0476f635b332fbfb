//! What came of one domain's run, for the report and the metrics. `docs/monitoring.md` is the page for users.

use std::path::Path;

use jiff::Zoned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::commands::backup::facts::{Known, Phase};
use crate::commands::dump::chain_length;
use crate::commands::foreign_raw;
use crate::error::{self, Error, Kind};
use crate::exit::Exit;
use crate::set::Level;
use crate::set::layout::Layout;
use crate::set::manifest::{Manifest, Skipped};
use crate::set::moment;

/// One domain's run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The domain's name; of one that was not found, what it was called on the command line.
    pub domain: String,
    /// Its UUID, where it was found.
    pub domain_uuid: Option<String>,
    /// In a word.
    pub status: Status,
    /// The exit status of the run.
    pub exit: i32,
    /// Its level.
    pub level: Option<Level>,
    /// Its identity.
    pub run: Option<Uuid>,
    /// The checkpoint that it made.
    pub checkpoint: Option<String>,
    /// The set's directory.
    pub set: Option<String>,
    /// Begin of the run.
    pub start: String,
    /// Its end.
    pub end: String,
    /// Seconds between them.
    pub duration_seconds: f64,
    /// The moment that the backup holds.
    pub point_in_time: Option<String>,
    /// When it was committed.
    pub committed: Option<String>,
    /// Runs that a restore of this point reads.
    pub chain_length: Option<usize>,
    /// The disks in it.
    pub disks: Vec<DiskRecord>,
    /// The disks that are not.
    pub skipped: Vec<Skipped>,
    /// Warnings that were given.
    pub warnings: Vec<String>,
    /// Why it failed.
    pub error: Option<Failure>,
}

/// How a run ended, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Committed.
    Done,
    /// Committed, but somebody should look.
    Look,
    /// Nothing was committed because nothing was to be done.
    NothingToDo,
    /// Nothing was committed.
    Failed,
}

/// One disk of a committed run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Target name.
    pub target: String,
    /// Level of the disk.
    pub level: Level,
    /// Name of the data file.
    pub file: String,
    /// The checkpoint that it builds on.
    pub base_checkpoint: Option<String>,
    /// Size of the disk.
    pub virtual_bytes: u64,
    /// Bytes of the guest that were read and are in the file.
    pub data_bytes: u64,
    /// Bytes recorded as zeroes.
    pub zeroed_bytes: u64,
    /// Size of the file.
    pub stored_bytes: u64,
    /// It is a raw image.
    pub raw: bool,
}

/// Why something failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of error.
    pub kind: String,
    /// The message with its causes.
    pub message: String,
    /// The remedy, where one is known.
    pub hint: Option<String>,
    /// In which part of the run; not of a process that died.
    pub phase: Option<Phase>,
}

impl Failure {
    /// That of `error`.
    pub fn of(error: &anyhow::Error, phase: Option<Phase>) -> Self {
        let kind = error.chain().find_map(|cause| cause.downcast_ref::<Error>()).map_or(Kind::Io, Error::kind);
        let hint = error::hint(error.as_ref()).map(str::to_owned);
        Self { kind: kind.word().to_owned(), message: error::report(error.as_ref()), hint, phase }
    }
}

impl Record {
    /// Of a run that began at `start` and has ended with `exit`, or with `error`.
    pub fn of(domain: &str, known: &Known, exit: Exit, start: &Zoned, error: Option<&anyhow::Error>) -> Self {
        let mut record = Self::blank(known.domain.as_deref().unwrap_or(domain), exit, start);
        record.domain_uuid.clone_from(&known.domain_uuid);
        record.set = known.set.as_ref().map(|set| set.to_string_lossy().into_owned());
        (record.level, record.run) = (known.level, known.run);
        record.error = error.map(|error| Failure::of(error, Some(known.phase)));
        if let Some(manifest) = &known.manifest {
            record.status = if exit == Exit::Done { Status::Done } else { Status::Look };
            record.describe(manifest);
        } else if exit == Exit::Done {
            record.status = Status::NothingToDo;
        }
        record
    }

    /// The run ends with `exit` after all.
    pub fn exits(&mut self, exit: Exit) {
        self.exit = exit.code();
        if exit == Exit::Look && self.status == Status::Done {
            self.status = Status::Look;
        }
    }

    /// Of a run whose process could not tell more than this.
    pub fn died(domain: &str, exit: Exit, start: &Zoned, message: String) -> Self {
        let mut record = Self::blank(domain, exit, start);
        record.error = Some(Failure { kind: Kind::Io.word().to_owned(), message, hint: None, phase: None });
        record
    }

    /// Of the newest run in a set, as it ended then; none where there is none, or it is another tool's.
    pub fn newest_in(set: &Path) -> Option<Self> {
        let catalogue = foreign_raw::open_set(Layout::new(set)).ok()?;
        let manifests = catalogue.runs.iter().filter_map(|run| run.manifest.as_ref());
        let manifest = manifests.max_by_key(|manifest| manifest.point_in_time.timestamp())?;
        let mut record = Self::blank(&manifest.domain, Exit::Done, &manifest.started);
        record.status = Status::Done;
        record.set = Some(set.to_string_lossy().into_owned());
        record.describe(manifest);
        Some(record)
    }

    /// Whether there is a backup of this run.
    pub fn is_committed(&self) -> bool {
        matches!(self.status, Status::Done | Status::Look)
    }

    fn blank(domain: &str, exit: Exit, start: &Zoned) -> Self {
        let end = moment::now();
        Self {
            domain: domain.to_owned(),
            domain_uuid: None,
            status: Status::Failed,
            exit: exit.code(),
            level: None,
            run: None,
            checkpoint: None,
            set: None,
            start: moment::format(start),
            duration_seconds: seconds(start, &end),
            end: moment::format(&end),
            point_in_time: None,
            committed: None,
            chain_length: None,
            disks: Vec::new(),
            skipped: Vec::new(),
            warnings: Vec::new(),
            error: None,
        }
    }

    fn describe(&mut self, manifest: &Manifest) {
        (self.level, self.run) = (Some(manifest.level), Some(manifest.run));
        self.checkpoint.clone_from(&manifest.checkpoint);
        self.point_in_time = Some(moment::format(&manifest.point_in_time));
        self.committed = Some(moment::format(&manifest.finished));
        self.skipped.clone_from(&manifest.skipped);
        self.warnings.clone_from(&manifest.warnings);
        let disks = manifest.disks.iter().map(|disk| DiskRecord {
            target: disk.target.clone(),
            level: disk.level,
            file: disk.file.clone(),
            base_checkpoint: disk.base_checkpoint.clone(),
            virtual_bytes: disk.virtual_size,
            data_bytes: disk.data_size,
            zeroed_bytes: disk.zeroed_size,
            stored_bytes: disk.stored_size,
            raw: disk.raw,
        });
        self.disks = disks.collect();
        self.chain_length = self.set.as_deref().and_then(|set| chain(Path::new(set), manifest.run));
    }
}

/// Seconds from `start` to `end`; a clock that was put back makes none.
pub fn seconds(start: &Zoned, end: &Zoned) -> f64 {
    end.duration_since(start).as_secs_f64().max(0.0)
}

fn chain(set: &Path, run: Uuid) -> Option<usize> {
    let catalogue = foreign_raw::open_set(Layout::new(set)).ok()?;
    let run =
        catalogue.runs.iter().find(|other| other.manifest.as_ref().is_some_and(|manifest| manifest.run == run))?;
    chain_length(&catalogue, run).ok()
}
