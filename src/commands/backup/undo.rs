//! Undoing a run that was not committed: its own after a failure, a dead one's at the next start.
//! Only what provably belongs to the run is touched.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::Result;

use super::commit;
use super::plan::domain_uuid;
use crate::error::{self, Error};
use crate::libvirt::backup_job;
use crate::libvirt::checkpoint;
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::set::intent::Intent;
use crate::set::layout::{Layout, PARTIAL};
use crate::set::manifest::Manifest;

/// Ends what earlier runs into this set left undone: a committed run is completed, any other undone.
///
/// # Errors
/// Where that is not possible now: nothing new may begin on top of it.
pub fn clear_leftovers(connection: &Connection, domain: &Domain, layout: &Layout) -> Result<()> {
    for intent in Intent::left_behind(layout)? {
        let manifest = layout.file(&Layout::manifest_name(intent.run))?;
        if manifest.exists() {
            tracing::info!("run {} was committed, but not tidied up: completing it", intent.run);
            commit::roll_forward(layout, &Manifest::read(&manifest)?)?;
        } else if intent.domain_uuid != domain_uuid(domain)? {
            let message = format!("an unfinished run of another domain ({}) is recorded here", intent.domain_uuid);
            return Err(Error::usage(message)
                .path(layout.directory())
                .hint("every domain needs a directory of its own: choose another with -o")
                .into());
        } else {
            tracing::warn!("run {} did not finish: undoing it", intent.run);
            undo(connection, domain, layout, &intent)?;
        }
        Intent::remove(layout, intent.run)?;
    }
    Ok(())
}

/// Undoes the run of `intent` after its failure. What can't be undone now stays recorded in the
/// intent for the next run.
pub fn failed_run(connection: &Connection, domain: &Domain, layout: &Layout, intent: Intent) {
    // The commit itself failed half-way: what the next run makes of it depends on what it finds.
    if layout.file(&Layout::manifest_name(intent.run)).is_ok_and(|manifest| manifest.exists()) {
        tracing::warn!("the manifest is written, but maybe not durable: the next run completes the run");
        return;
    }
    let result = if connection.is_alive() {
        undo(connection, domain, layout, &intent)
    } else {
        remove_files(layout, &intent).and_then(|()| undo_elsewhere(layout, &intent))
    };
    let result = result.and_then(|()| Ok(Intent::remove(layout, intent.run)?));
    if let Err(error) = result {
        tracing::warn!("the next run has to undo the rest of this one: {}", error::report(error.as_ref()));
    }
}

/// The connection is gone: tries once with a new one.
fn undo_elsewhere(layout: &Layout, intent: &Intent) -> Result<()> {
    let connection = Connection::open(&intent.uri, None)?;
    let domain = connection.domain(&intent.domain_uuid.to_string())?;
    undo(&connection, &domain, layout, intent)
}

fn undo(connection: &Connection, domain: &Domain, layout: &Layout, intent: &Intent) -> Result<()> {
    remove_files(layout, intent)?;
    if domain.is_active()? {
        let ours = |xml: &str| backup_job::job_is_ours(xml, &intent.socket);
        if backup_job::job_xml(domain)?.as_deref().is_some_and(ours) {
            backup_job::abort(domain, &intent.socket)?;
            tracing::info!("aborted the backup job of run {}", intent.run);
        }
    }
    remove_checkpoint(domain, intent)?;
    remove_job_files(connection, intent);
    Ok(())
}

/// Removes the run's checkpoint: older ones still hold the whole delta.
fn remove_checkpoint(domain: &Domain, intent: &Intent) -> Result<()> {
    let Some(name) = &intent.checkpoint else { return Ok(()) };
    let run = intent.run.to_string();
    let ours = |text: &String| text.contains(&run);
    for checkpoint in checkpoint::list(domain)? {
        if checkpoint.name == *name && checkpoint.description.as_ref().is_some_and(ours) {
            let how = checkpoint::discard(domain, &checkpoint)?;
            tracing::info!("removed checkpoint {name} of run {run}");
            if how == checkpoint::Discarded::MetadataOnly {
                tracing::warn!(
                    "the domain is off: bitmap {name} may be left in its images; `qemu-img bitmap --remove IMAGE {name}` removes it"
                );
            }
        }
    }
    Ok(())
}

fn remove_files(layout: &Layout, intent: &Intent) -> Result<()> {
    let partial = intent.files.iter().map(|name| format!("{name}{PARTIAL}"));
    for name in partial.chain(intent.extra.iter().cloned()) {
        remove(&layout.file(&name)?)?;
    }
    Ok(())
}

/// Scratch files and the socket: libvirt removes them, unless it died; they bear the run's UUID.
fn remove_job_files(connection: &Connection, intent: &Intent) {
    // On another host there is nothing of ours to remove here.
    if !is_local(connection) {
        return;
    }
    // The user may have named the socket: whatever else lies there is theirs.
    let socket = Some(&intent.socket).filter(|path| is_socket(path));
    for path in intent.scratch.iter().chain(socket) {
        if let Err(error) = remove(path) {
            tracing::warn!("{}", error::report(error.as_ref()));
        }
    }
}

/// Whether the domain's host is this one, as far as can be told.
pub fn is_local(connection: &Connection) -> bool {
    connection.hostname().is_ok_and(|host| host == rustix::system::uname().nodename().to_string_lossy())
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", error).path(path).into()),
        _ => Ok(()),
    }
}
