//! From complete data to a committed run: configuration, sums, manifest, renames, and what the
//! commit makes superfluous.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::config::Extra;
use super::job::Copied;
use super::plan::{Plan, PlannedDisk};
use super::{Context, forget, old_chain, outlived, output, phrases, undo};
use crate::error::{self, Error, Kind};
use crate::fault;
use crate::set::Level;
use crate::set::cpt;
use crate::set::intent::Intent;
use crate::set::layout::{
    CHKSUM, Layout, PARTIAL, checkpoint_name, checkpoint_position, sync_directory, write_atomically,
};
use crate::set::manifest::{self, Disk, FileRecord, Manifest, Role};
use crate::set::moment;
use crate::set::records;

/// A daemon that is being restarted gets this long to come back.
const PATIENCE: Duration = Duration::from_secs(15);

/// A run that is in the set.
#[derive(Debug)]
pub struct Outcome {
    /// Its record.
    pub manifest: Manifest,
    /// The guest may be left with frozen filesystems.
    pub maybe_frozen: bool,
    /// A disk was left out that should be in the backup.
    pub missed: bool,
}

/// Opens the run's log file in the set.
pub fn open_log(run: &Context<'_>, plan: &Plan) -> Result<()> {
    let Context { args, session, layout, .. } = run;
    if args.classic.own_log {
        return Ok(());
    }
    let path = layout.file(&plan.log)?;
    let file = layout.create_new(&path)?;
    session.log.open_file(file).map_err(|error| Error::io("write", error).path(path))?;
    Ok(())
}

/// Commits the run: after this it is a restore point, and nothing that fails takes it back.
pub fn run(run: &Context<'_>, plan: &mut Plan, copied: Copied) -> Result<Outcome> {
    let layout = run.layout;
    let maybe_frozen = copied.quiet.maybe_frozen;
    let extras = extras(layout, plan, &copied)?;
    let kept: Vec<&Extra> = extras.iter().filter(|extra| run.zip.is_none() || output::is_record(extra)).collect();
    plan.intent.extra = kept.iter().map(|extra| extra.record.name.clone()).collect();
    plan.intent.write(layout)?;
    fault::point("extras-named")?;
    write_extras(layout, &kept)?;
    if let Some(zip) = run.zip {
        output::store_extras(zip, &extras)?;
        outlived::note(run, plan)?;
    }
    fault::point("extras-written")?;
    let manifest = seal(run, plan, copied, extras)?;
    // Committed: from here on errors are warnings, and the next run completes what is missing.
    if let Err(error) = after_commit(run, plan, &manifest) {
        tracing::warn!("the run is committed, but the next one has to tidy up: {}", error::report(error.as_ref()));
    }
    Ok(Outcome { manifest, maybe_frozen, missed: plan.missed })
}

/// Everything of the run that is not a stream: configuration and sums.
fn extras(layout: &Layout, plan: &Plan, copied: &Copied) -> Result<Vec<Extra>> {
    let mut extras = copied.config.clone();
    // A raw image has none, as in virtnbdbackup's sets: its index proves it.
    for (planned, disk) in plan.disks.iter().zip(&copied.disks).filter(|(planned, _)| !planned.verbatim) {
        let sum = disk.finished.adler32.to_string().into_bytes();
        let mut extra = Extra::new(format!("{}{CHKSUM}", planned.file), Role::Checksum, sum);
        extra.record = extra.record.of_disk(&disk.target);
        extras.push(extra);
    }
    for extra in &mut extras {
        let is_firmware = matches!(extra.record.role, Role::Loader | Role::Nvram | Role::Kernel | Role::Initrd);
        // Beside a copy firmware bears its plain name, which may be anybody's.
        if is_firmware && layout.file(&extra.record.name)?.try_exists().unwrap_or(true) {
            extra.record.name = format!("{}.{}", extra.record.name, plan.run);
        }
    }
    Ok(extras)
}

/// Writes the manifest, which seals everything else.
fn seal(run: &Context<'_>, plan: &Plan, copied: Copied, extras: Vec<Extra>) -> Result<Manifest> {
    run.session.cancel.check()?;
    let log = finish_log(run, plan)?;
    let mut files: Vec<FileRecord> = extras.into_iter().map(|extra| extra.record).collect();
    if !run.args.classic.own_log {
        files.push(FileRecord::of(&plan.log, Role::Log, &log));
    }
    let manifest = assemble(run, plan, copied, files);
    fault::point("log-closed")?;
    if let Some(zip) = run.zip {
        output::finish(zip, plan, &log, &manifest, &run.session.cancel)?;
    }
    manifest.commit(run.layout)?;
    Ok(manifest)
}

fn write_extras(layout: &Layout, extras: &[&Extra]) -> Result<()> {
    for extra in extras {
        let path = layout.file(&extra.record.name)?;
        // Left by a run that never was: virtnbdbackup overwrites them, too.
        let _ = std::fs::remove_file(&path);
        // Whatever others may read: with these they read the disks, too.
        let is_secret = extra.record.role == Role::RecoveryKeys;
        let mut file =
            if is_secret { layout.clone().with_mode(0o600).create_new(&path)? } else { layout.create_new(&path)? };
        let written = file.write_all(&extra.content).and_then(|()| file.sync_all());
        written.map_err(|error| Error::io("write", error).path(&path))?;
    }
    sync_directory(&layout.checkpoints())?;
    Ok(sync_directory(layout.directory())?)
}

/// Ends the log, which is part of what the manifest seals, and returns it; nothing where the caller has it.
fn finish_log(run: &Context<'_>, plan: &Plan) -> Result<Vec<u8>> {
    tracing::debug!("all data is complete and synced; committing run {}", plan.run);
    if run.args.classic.own_log {
        return Ok(Vec::new());
    }
    if run.zip.is_some() {
        phrases::log_to_zip(&plan.log);
    }
    let path = run.layout.file(&plan.log)?;
    run.session.log.close_file().map_err(|error| Error::io("sync", error).path(&path))?;
    Ok(std::fs::read(&path).map_err(|error| Error::io("read", error).path(&path))?)
}

fn assemble(run: &Context<'_>, plan: &Plan, copied: Copied, files: Vec<FileRecord>) -> Manifest {
    let disks = plan.disks.iter().zip(&copied.disks).map(|(planned, copied)| Disk {
        target: planned.target.clone(),
        level: planned.level,
        file: planned.file.clone(),
        base_checkpoint: planned.base.as_ref().map(|base| base.checkpoint.clone()),
        base_run: planned.base.as_ref().and_then(|base| base.run),
        virtual_size: copied.virtual_size,
        data_size: copied.finished.data_size,
        zeroed_size: copied.zeroed_size,
        stored_size: copied.finished.stored_size,
        adler32: copied.finished.adler32,
        index_digest: blake3::Hash::from(copied.finished.index_digest).to_hex().to_string(),
        image: planned.image.to_string_lossy().into_owned(),
        raw: planned.verbatim,
        raw_by_choice: planned.verbatim && !planned.raw,
    });
    Manifest {
        virtkeep_manifest: manifest::VERSION,
        run: plan.run,
        domain: plan.config.name.clone(),
        domain_uuid: plan.domain_uuid,
        level: plan.level,
        checkpoint: plan.made_checkpoint().map(str::to_owned),
        started: plan.started.clone(),
        finished: moment::now(),
        point_in_time: copied.point_in_time,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        directory: run.layout.directory().to_string_lossy().into_owned(),
        versions: plan.versions.clone(),
        freeze: copied.quiet.how,
        disks: disks.collect(),
        skipped: plan.skipped.clone(),
        files,
        warnings: run.session.log.warnings(),
    }
}

fn after_commit(run: &Context<'_>, plan: &Plan, manifest: &Manifest) -> Result<()> {
    let layout = run.layout;
    fault::point("committed")?;
    roll_forward(layout, manifest)?;
    if let Some(directory) = &run.args.places.checkpointdir {
        if let Err(error) = copy_checkpoint(layout, manifest, directory) {
            tracing::warn!("the checkpoint's XML is in the set only: {}", error::report(error.as_ref()));
        }
    }
    fault::point("renamed")?;
    outlived::forget_lost(run, plan)?;
    let reached = run.link.reach_within(PATIENCE, &run.session.cancel)?;
    old_chain::remove(&reached, plan)?;
    forget::stale(run, &reached, plan, manifest);
    drop(reached);
    fault::point("old-chain-removed")?;
    // Of a QEMU that died while it ended the job its socket stays.
    undo::remove_job_files(run.link.host(), &plan.intent);
    Ok(Intent::remove(layout, plan.run)?)
}

/// Gives a committed run's files their names; done again after a crash, it completes the rest.
pub fn roll_forward(layout: &Layout, manifest: &Manifest) -> Result<()> {
    let here = if records::is_of_stdout(layout) { &[][..] } else { &manifest.disks };
    for name in here.iter().flat_map(Disk::files) {
        let path = layout.file(&name)?;
        let partial = layout.file(&format!("{name}{PARTIAL}"))?;
        match std::fs::rename(&partial, &path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.exists() => {}
            other => other.map_err(|error| Error::io("rename", error).path(&partial))?,
        }
        fault::point("half-renamed")?;
    }
    if let Some(position) = manifest.checkpoint.as_deref().and_then(checkpoint_position) {
        let names: Vec<String> = (0..=position).map(checkpoint_name).collect();
        layout.write_atomically(&layout.file(&cpt::name(&manifest.domain))?, cpt::format(&names).as_bytes())?;
    }
    if manifest.level == Level::Full {
        old_chain::unmark(layout)?;
    }
    Ok(sync_directory(layout.directory())?)
}

fn copy_checkpoint(layout: &Layout, manifest: &Manifest, directory: &Path) -> Result<()> {
    let Some(name) = &manifest.checkpoint else { return Ok(()) };
    let from = layout.checkpoints().join(format!("{name}.xml"));
    let content = std::fs::read(&from).map_err(|error| Error::io("read", error).path(&from))?;
    std::fs::create_dir_all(directory).map_err(|error| Error::io("create directory", error).path(directory))?;
    write_atomically(&directory.join(format!("{name}.xml")), &content)?;
    Ok(())
}

/// Files that must not be there for the run's data to be written. Before the intent: what it names is
/// the run's to remove.
pub fn refuse_existing(layout: &Layout, plan: &Plan) -> Result<()> {
    for name in plan.disks.iter().flat_map(PlannedDisk::files) {
        let path = layout.file(&name)?;
        let partial = layout.file(&format!("{name}{PARTIAL}"))?;
        // What can't be looked at may be there.
        if partial.try_exists().unwrap_or(true) {
            phrases::partial_found(&partial);
            return Err(Error::new(Kind::Busy, "exists already")
                .path(partial)
                .hint("a run of another tool left it, or is still writing it: look, then remove it")
                .into());
        }
        if path.try_exists().unwrap_or(true) {
            return Err(Error::new(Kind::Busy, "exists already, and a committed file is never overwritten")
                .path(path)
                .hint("start a new chain with -l full in an empty directory")
                .into());
        }
    }
    Ok(())
}
