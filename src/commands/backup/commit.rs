//! From complete data to a committed run: configuration, sums, manifest, renames, and what the
//! commit makes superfluous.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Result;

use super::config::{self, Extra};
use super::copy::Copied;
use super::old_chain;
use super::plan::Plan;
use crate::cli::backup::Backup;
use crate::commands::Session;
use crate::error::{self, Error, Kind};
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::set::catalogue::Catalogue;
use crate::set::cpt;
use crate::set::intent::Intent;
use crate::set::layout::{
    CHKSUM, Layout, PARTIAL, checkpoint_name, checkpoint_position, create_new, sync_directory, write_atomically,
};
use crate::set::manifest::{self, Disk, FileRecord, Manifest, Role};
use crate::set::moment;

/// A run that is in the set.
#[derive(Debug)]
pub struct Outcome {
    /// Its record.
    pub manifest: Manifest,
}

/// Opens the run's log file in the set.
pub fn open_log(session: &Session, layout: &Layout, plan: &Plan) -> Result<()> {
    let path = layout.file(&plan.log)?;
    let file = create_new(&path)?;
    session.log.open_file(file).map_err(|error| Error::io("write", error).path(path))?;
    Ok(())
}

/// Commits the run: after this it is a restore point, and nothing that fails takes it back.
pub fn run(
    args: &Backup,
    session: &Session,
    connection: &Connection,
    domain: &Domain,
    catalogue: &Catalogue,
    plan: &Plan,
    copied: Copied,
) -> Result<Outcome> {
    let layout = &catalogue.layout;
    let mut extras = config::gather(domain, plan)?;
    for disk in copied.disks.iter() {
        let file = plan.disks.iter().find(|planned| planned.target == disk.target).map(|planned| &planned.file);
        let Some(file) = file else { continue };
        let sum = disk.finished.adler32.to_string().into_bytes();
        let mut extra = Extra::new(format!("{file}{CHKSUM}"), Role::Checksum, sum);
        extra.record = extra.record.of_disk(&disk.target);
        extras.push(extra);
    }
    let mut intent = plan.intent(connection);
    intent.extra = extras.iter().map(|extra| extra.record.name.clone()).collect();
    intent.write(layout)?;
    let result = write_extras(layout, &extras).and_then(|()| {
        session.cancel.check()?;
        let log = finish_log(session, layout, plan)?;
        let mut files: Vec<FileRecord> = extras.into_iter().map(|extra| extra.record).collect();
        files.push(log);
        let manifest = assemble(session, connection, domain, plan, layout, copied, files)?;
        manifest.commit(layout)?;
        Ok(manifest)
    });
    let manifest = match result {
        Ok(manifest) => manifest,
        Err(error) => {
            remove_extras(layout, &intent);
            return Err(error);
        }
    };
    // Committed: from here on errors are warnings, and the next run completes what is missing.
    if let Err(error) = after_commit(args, domain, layout, plan, &manifest) {
        tracing::warn!("the run is committed, but the next one has to tidy up: {}", error::report(error.as_ref()));
    }
    Ok(Outcome { manifest })
}

fn remove_extras(layout: &Layout, intent: &Intent) {
    for name in &intent.extra {
        // What stays is in the intent and removed by the next run.
        let _ = layout.file(name).map(std::fs::remove_file);
    }
}

fn write_extras(layout: &Layout, extras: &[Extra]) -> Result<()> {
    for extra in extras {
        let path = layout.file(&extra.record.name)?;
        // Left by a run that never was: virtnbdbackup overwrites them, too.
        let _ = std::fs::remove_file(&path);
        let mut file = create_new(&path)?;
        let written = file.write_all(&extra.content).and_then(|()| file.sync_all());
        written.map_err(|error| Error::io("write", error).path(&path))?;
    }
    sync_directory(&layout.checkpoints())?;
    Ok(sync_directory(layout.directory())?)
}

/// Ends the log: it is part of what the manifest seals.
fn finish_log(session: &Session, layout: &Layout, plan: &Plan) -> Result<FileRecord> {
    let path = layout.file(&plan.log)?;
    tracing::debug!("all data is complete and synced; committing run {}", plan.run);
    session.log.close_file().map_err(|error| Error::io("sync", error).path(&path))?;
    let content = std::fs::read(&path).map_err(|error| Error::io("read", error).path(&path))?;
    Ok(FileRecord::of(&plan.log, Role::Log, &content))
}

fn assemble(
    session: &Session,
    connection: &Connection,
    domain: &Domain,
    plan: &Plan,
    layout: &Layout,
    copied: Copied,
    files: Vec<FileRecord>,
) -> Result<Manifest> {
    let mut versions = BTreeMap::from([("virtkeep".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    versions.insert("libvirt_daemon".to_owned(), format_version(connection.daemon_version()?));
    versions.insert("hypervisor".to_owned(), format_version(connection.hypervisor_version()?));
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
    });
    Ok(Manifest {
        virtkeep_manifest: manifest::VERSION,
        run: plan.run,
        domain: domain.name().to_owned(),
        domain_uuid: plan.domain_uuid,
        level: plan.level,
        checkpoint: plan.made_checkpoint().map(str::to_owned),
        started: plan.started.clone(),
        finished: moment::now(),
        point_in_time: copied.point_in_time,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        directory: layout.directory().to_string_lossy().into_owned(),
        versions,
        freeze: copied.freeze,
        disks: disks.collect(),
        skipped: plan.skipped.clone(),
        files,
        warnings: session.log.warnings(),
    })
}

/// libvirt's numbers: 9001002 is 9.1.2.
fn format_version(version: u64) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1_000 % 1_000, version % 1_000)
}

fn after_commit(args: &Backup, domain: &Domain, layout: &Layout, plan: &Plan, manifest: &Manifest) -> Result<()> {
    roll_forward(layout, manifest)?;
    if let Some(directory) = &args.places.checkpointdir {
        copy_checkpoint(layout, manifest, directory)?;
    }
    Intent::remove(layout, plan.run)?;
    old_chain::remove(domain, plan);
    Ok(())
}

/// Gives a committed run's files their names; done again after a crash, it completes the rest.
pub fn roll_forward(layout: &Layout, manifest: &Manifest) -> Result<()> {
    for disk in &manifest.disks {
        let path = layout.file(&disk.file)?;
        let partial = layout.file(&format!("{}{PARTIAL}", disk.file))?;
        match std::fs::rename(&partial, &path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.exists() => {}
            other => other.map_err(|error| Error::io("rename", error).path(&partial))?,
        }
    }
    if let Some(position) = manifest.checkpoint.as_deref().and_then(checkpoint_position) {
        let names: Vec<String> = (0..=position).map(checkpoint_name).collect();
        write_atomically(&cpt::path(layout, &manifest.domain)?, cpt::format(&names).as_bytes())?;
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
    for disk in &plan.disks {
        let path = layout.file(&disk.file)?;
        let partial = layout.file(&format!("{}{PARTIAL}", disk.file))?;
        if partial.exists() {
            return Err(Error::new(Kind::Busy, "exists already")
                .path(partial)
                .hint("a run of another tool left it, or is still writing it: look, then remove it")
                .into());
        }
        if File::open(&path).is_ok() {
            return Err(Error::new(Kind::Busy, "exists already, and a committed file is never overwritten")
                .path(path)
                .hint("start a new chain with -l full in an empty directory")
                .into());
        }
    }
    Ok(())
}
