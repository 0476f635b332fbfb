//! What a run will do, decided before anything is touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use uuid::Uuid;

use super::base::{Base, Bases};
use super::channel::Channel;
use super::disks::{self, Selected, Selection};
use super::outlived::Outlived;
use super::way::Way;
use super::{level, marker, old_chain};
use crate::cli::backup::{Backup, OutputType};
use crate::error::{Error, Kind};
use crate::libvirt::backup_job::{BackupDisk, BackupMode, BackupSpec, bitmap_name};
use crate::libvirt::checkpoint::{self, Checkpoint};
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::libvirt::domain_xml::{Disk, DomainConfig};
use crate::phrases::OWN;
use crate::qemu::img::ImageInfo;
use crate::set::Level;
use crate::set::catalogue::Catalogue;
use crate::set::intent::{Held, Intent};
use crate::set::job_files;
use crate::set::layout::{checkpoint_name, data_name};
use crate::set::manifest::{Skipped, data_files};
use crate::set::moment;
use crate::ui::log::on_disk;

/// Begin of the description of our checkpoints; the run and its directory follow.
pub const DESCRIPTION: &str = "virtkeep run ";

/// The plan of one run.
#[derive(Debug)]
pub struct Plan {
    /// Identity of the run.
    pub run: Uuid,
    /// How the disks are read.
    pub way: Way,
    /// The domain's UUID.
    pub domain_uuid: Uuid,
    /// Level of the run.
    pub level: Level,
    /// The checkpoint that the streams bear: the one that the run makes; of a diff the one that the
    /// next increment will make.
    pub checkpoint: String,
    /// What stands in the names of the run's files.
    pub ident: String,
    /// Begin of the run.
    pub started: jiff::Zoned,
    /// The time in the names of a diff's files.
    unixtime: i64,
    /// The disks to copy.
    pub disks: Vec<PlannedDisk>,
    /// The disks left out.
    pub skipped: Vec<Skipped>,
    /// A disk was left out that should be in the backup.
    pub missed: bool,
    /// Targets of all disks that the job leaves alone.
    pub others: Vec<String>,
    /// Checkpoints of an older chain, which a new one ends.
    pub old_chain: Vec<Checkpoint>,
    /// Checkpoints of this chain that nothing needs after this run, with the ids of their runs.
    pub spare: Vec<(Checkpoint, String)>,
    /// Disks that are full in this run and were in earlier ones, with the runs that made them full then.
    pub replaced: Vec<(Uuid, String)>,
    /// Checkpoints of earlier chains, where the backup goes to standard output.
    pub outlived: Outlived,
    /// Disks that have the run's marker.
    pub marked: Vec<String>,
    /// The domain as libvirt runs it.
    pub config: DomainConfig,
    /// The way of the data.
    pub channel: Channel,
    scratch: PathBuf,
    classic_scratch: bool,
    verbatim: bool,
    directory: PathBuf,
    /// Name of the run's log.
    pub log: String,
    /// What a crash of the run would leave, as it was last written.
    pub intent: Intent,
    /// Versions of the programs, for the manifest.
    pub versions: BTreeMap<String, String>,
}

/// One disk of a plan.
#[derive(Debug)]
pub struct PlannedDisk {
    /// Target name.
    pub target: String,
    /// The disk as the domain has it.
    pub disk: Disk,
    /// Path of its image on the domain's host.
    pub image: PathBuf,
    /// What the image is.
    pub info: Option<ImageInfo>,
    /// Level of its stream.
    pub level: Level,
    /// Its size when the run was planned.
    pub virtual_size: u64,
    /// What its stream builds on.
    pub base: Option<Base>,
    /// Name of its data file.
    pub file: String,
    /// Its image is raw: it has no bitmap.
    pub raw: bool,
    /// It is written as a raw image.
    pub verbatim: bool,
}

impl PlannedDisk {
    /// The files with the disk's data.
    pub fn files(&self) -> Vec<String> {
        data_files(&self.file, self.verbatim)
    }
}

/// Where a disk can be read.
#[derive(Debug)]
pub struct Export {
    /// NBD URI.
    pub uri: String,
    /// Meta context with what has changed since the disk's base, where it has one.
    pub bitmap: Option<String>,
}

impl Plan {
    /// Decides what to do.
    ///
    /// # Errors
    /// Everything that makes the run impossible or unsafe, each with the remedy.
    pub fn make(args: &Backup, connection: &Connection, domain: &Domain, catalogue: &Catalogue) -> Result<Self> {
        let config = DomainConfig::parse(&domain.xml(false)?)?;
        let domain_uuid = domain_uuid(domain)?;
        disks::refuse_other_domain(catalogue, domain_uuid)?;
        let level = level::decide(args.level, catalogue)?;
        if let (true, Some(layout)) = (level.needs_base(), catalogue.files.layout()) {
            old_chain::refuse_ended(layout)?;
        }
        level::refuse_type(args.kind, level)?;
        let way = Way::of(connection, domain)?;
        let selection = Selection::of(args, domain, &config)?.for_level(args, level, catalogue, &config)?;
        let known = marker::forget_stray(domain, checkpoint::list(domain)?)?;
        if level != Level::Copy {
            level::refuse_foreign(&known, domain)?;
        }
        let position = level::next_position(catalogue, domain)?;
        let mut bases = Bases::find(args, domain, catalogue, level, known)?;
        let started = moment::now();
        let unixtime = level::free_time(&level::used_names(catalogue)?, started.timestamp().as_second());
        let run = Uuid::new_v4();
        let channel = match way {
            Way::Job => Channel::choose(args, connection, domain, run)?,
            // There is none.
            Way::Images => Channel::Socket(args.places.scratchdir.join(job_files::socket_name(run))),
        };
        let intent = Intent {
            run,
            domain_uuid,
            uri: connection.requested_uri().to_owned(),
            level,
            checkpoint: None,
            socket: channel.socket().unwrap_or_default(),
            scratch: Vec::new(),
            files: Vec::new(),
            extra: Vec::new(),
            held: Held::default(),
            instance: domain.instance()?,
        };
        let mut plan = Self {
            run,
            way,
            domain_uuid,
            level,
            checkpoint: checkpoint_name(if level == Level::Copy { 0 } else { position }),
            ident: String::new(),
            disks: Vec::new(),
            skipped: selection.skipped,
            missed: selection.missed,
            others: selection.others,
            old_chain: bases.old_chain.clone(),
            spare: Vec::new(),
            replaced: Vec::new(),
            outlived: Outlived::default(),
            marked: Vec::new(),
            config,
            channel,
            scratch: args.places.scratchdir.clone(),
            classic_scratch: args.classic.scratch_names,
            verbatim: args.kind == OutputType::Raw,
            directory: catalogue.files.place().to_owned(),
            log: log_name(args, catalogue, level, &started, run)?,
            started,
            unixtime,
            intent,
            versions: versions(connection)?,
        };
        plan.ident = match level {
            Level::Copy => "copy".to_owned(),
            Level::Full | Level::Inc => plan.checkpoint.clone(),
            Level::Diff => plan.unixtime.to_string(),
        };
        for selected in selection.disks {
            plan.add(selected, &bases, domain, catalogue)?;
        }
        plan.intent.checkpoint = plan.made_checkpoint().map(str::to_owned);
        plan.intent.scratch = plan.disks.iter().map(|disk| plan.scratch_file(&disk.target)).collect();
        if !catalogue.is_of_stdout {
            plan.intent.files = plan.disks.iter().flat_map(PlannedDisk::files).collect();
        }
        if level.makes_checkpoint() {
            // Those that this run leaves out may be in the next one.
            let planned = plan.disks.iter().map(|disk| &disk.target);
            let targets: Vec<String> = planned.chain(&plan.others).cloned().collect();
            plan.spare = bases.spare(catalogue, &targets, args.keep_checkpoints);
            if let Some(outlived) = bases.outlived.take() {
                outlived.add_to(&mut plan, catalogue)?;
            }
        }
        Ok(plan)
    }

    fn add(&mut self, selected: Selected, bases: &Bases, domain: &Domain, catalogue: &Catalogue) -> Result<()> {
        let virtual_size = selected.size(domain, self.way)?;
        let Selected { disk, image, info, raw } = selected;
        let target = disk.target.clone();
        if raw {
            let (level, base) = (Level::Copy, None);
            let file = data_name(&target, level, &self.checkpoint, self.unixtime);
            self.disks.push(PlannedDisk {
                target,
                disk,
                image,
                info,
                level,
                virtual_size,
                base,
                file,
                raw,
                verbatim: true,
            });
            return Ok(());
        }
        let base = if self.level.needs_base() {
            bases.of_disk(catalogue, domain, &target, &image, virtual_size)?
        } else {
            None
        };
        let level = match &base {
            None if self.level.needs_base() => Level::Full,
            _ => self.level,
        };
        if base.is_none() && self.level.makes_checkpoint() && !catalogue.is_of_stdout {
            let before = catalogue.runs.iter().rev().find(|run| run.is_base() && run.stream(&target).is_some());
            // A gap in the old files is no matter to a full.
            let root = before.and_then(|run| marker::root(catalogue, run, &target).ok().flatten());
            self.replaced.extend(root.map(|root| (root, target.clone())));
        }
        let is_new = catalogue.runs.iter().all(|run| run.stream(&target).is_none());
        // Where a base was lost the name stays that of an increment: the meta says that it is full.
        let named = if level == Level::Full && is_new { Level::Full } else { self.level };
        let file = data_name(&target, named, &self.checkpoint, self.unixtime);
        let verbatim = self.verbatim;
        self.disks.push(PlannedDisk { target, disk, image, info, level, virtual_size, base, file, raw, verbatim });
        Ok(())
    }

    /// Says what will be done and why.
    pub fn tell(&self) {
        tracing::info!(target: OWN, "Backup level: [{}], run {}", self.level, self.run);
        for disk in &self.disks {
            let _messages = on_disk(&disk.target);
            match &disk.base {
                Some(base) => tracing::info!("{}: {} since {}", disk.target, disk.level, base.checkpoint),
                None if disk.verbatim => tracing::info!("{}: {}, as a raw image", disk.target, disk.level),
                None => tracing::info!("{}: {}", disk.target, disk.level),
            }
        }
        for disk in &self.skipped {
            tracing::debug!("{}: skipped: {}", disk.target, disk.reason);
        }
    }

    /// Makes every disk full: libvirt refuses the increments after all.
    pub fn demote(&mut self) {
        for disk in self.disks.iter_mut().filter(|disk| disk.level.needs_base()) {
            disk.level = Level::Full;
            disk.base = None;
        }
    }

    /// The checkpoint that the run makes.
    pub fn made_checkpoint(&self) -> Option<&str> {
        self.level.makes_checkpoint().then_some(self.checkpoint.as_str())
    }

    fn scratch_file(&self, target: &str) -> PathBuf {
        let name = if self.classic_scratch { job_files::classic_scratch_name } else { job_files::scratch_name };
        self.scratch.join(name(self.run, target))
    }

    /// The backup job.
    pub fn job(&self) -> BackupSpec {
        let disks = self.disks.iter().map(|disk| BackupDisk {
            target: disk.target.clone(),
            export_name: disk.target.clone(),
            scratch: self.scratch_file(&disk.target),
            mode: match &disk.base {
                Some(base) => BackupMode::Incremental { from: base.checkpoint.clone() },
                None => BackupMode::Full,
            },
        });
        BackupSpec { server: self.channel.server(), disks: disks.collect(), other_disks: self.others.clone() }
    }

    /// Where the job serves the disks, in their order.
    pub fn exports(&self) -> Vec<Export> {
        let export = |disk: &PlannedDisk| {
            let bitmap = disk.base.as_ref().map(|_| format!("qemu:dirty-bitmap:{}", bitmap_name(&disk.target)));
            Export { uri: self.channel.uri(&disk.target), bitmap }
        };
        self.disks.iter().map(export).collect()
    }

    /// The XML of the checkpoint that the run makes.
    pub fn checkpoint_xml(&self) -> Result<Option<String>> {
        let Some(name) = self.made_checkpoint() else { return Ok(None) };
        Ok(Some(checkpoint::new_xml(name, &self.description(), &self.bitmap_targets(), &self.without_bitmap())?))
    }

    /// The disks of the run that have a bitmap.
    pub fn bitmap_targets(&self) -> Vec<String> {
        self.disks.iter().filter(|disk| !disk.raw).map(|disk| disk.target.clone()).collect()
    }

    /// All other disks of the domain.
    fn without_bitmap(&self) -> Vec<String> {
        let raw = self.disks.iter().filter(|disk| disk.raw).map(|disk| &disk.target);
        raw.chain(&self.others).cloned().collect()
    }

    /// Bytes of its disks, as the guest sees them.
    pub fn size(&self) -> u64 {
        self.disks.iter().map(|disk| disk.virtual_size).fold(0, u64::saturating_add)
    }

    /// The set's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the run's checkpoint says of itself: which run, and where its set is.
    pub fn description(&self) -> String {
        format!("{DESCRIPTION}{} in {}", self.run, self.directory.display())
    }
}

/// The name of the run's log. In a directory never one of virtnbdbackup's, which would append to a log that the
/// manifest has sealed; in the drop-in command's zip file the one that its log has there.
fn log_name(args: &Backup, catalogue: &Catalogue, level: Level, started: &jiff::Zoned, run: Uuid) -> Result<String> {
    let time = started.strftime("%m%d%Y%H%M%S");
    if args.classic.log_name {
        let level =
            args.level.to_possible_value().map_or_else(|| level.to_string(), |value| value.get_name().to_owned());
        let name = format!("backup.{level}.{time}.log");
        if !catalogue.files.names()?.contains(&name) {
            return Ok(name);
        }
    }
    Ok(format!("backup.{level}.{time}.{run}.log"))
}

/// The domain's UUID as libvirt says it.
pub fn domain_uuid(domain: &Domain) -> Result<Uuid> {
    Ok(Uuid::parse_str(domain.uuid())
        .map_err(|error| Error::new(Kind::Protocol, "the domain has no valid UUID").caused_by(error))?)
}

fn versions(connection: &Connection) -> Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::from([("virtkeep".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    versions.insert("libvirt_daemon".to_owned(), format_version(connection.daemon_version()?));
    versions.insert("hypervisor".to_owned(), format_version(connection.hypervisor_version()?));
    Ok(versions)
}

/// libvirt's numbers: 9001002 is 9.1.2.
fn format_version(version: u64) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1_000 % 1_000, version % 1_000)
}
