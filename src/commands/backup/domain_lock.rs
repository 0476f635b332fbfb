//! One run at a time on a domain of this host, whatever set it writes to; and what a run that died left
//! on the domain for a set that is not this one.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::undo::{self, Keep};
use crate::cancel::Cancel;
use crate::error::{self, Error, Kind, Result};
use crate::libvirt::domain::Domain;
use crate::lock::{Holder, Lock, Patience};
use crate::set;
use crate::set::layout::Layout;

/// Takes the lock of the domain on this host. It is this user's: against others stands that libvirt has
/// one job for a domain.
///
/// # Errors
/// [`Kind::Busy`], saying who holds it.
pub fn take(domain: Uuid, holder: &Holder, patience: &Patience) -> Result<Lock> {
    let directory = directory()?;
    Lock::take(&directory.join(format!("{domain}.lock")), holder, patience, |by| {
        let by = by.map_or_else(|| "by whom is not known".to_owned(), Holder::to_string);
        Error::new(Kind::Busy, format!("domain {} is being backed up already ({by})", holder.domain))
            .hint("wait for it to end; `virtkeep backup --wait SECONDS` does")
    })
}

/// Undoes what the last run on the domain left when it died, if that wrote to another set than `layout`.
/// A set that can't be reached, be it this one's directory whose disk is not mounted, keeps its intent; the
/// job goes in any case: its process is dead, and no other run can begin beside it.
pub fn clear_dead(domain: &Domain, lock: &mut Lock, layout: &Layout, keep: Keep) {
    let Some(dead) = lock.dead_holder().cloned() else { return };
    let is_other = dead.directory != layout.directory();
    let result = if is_other { clear_other_set(domain, &dead, keep) } else { Ok(()) };
    match result.and_then(|()| abort_job_of(domain, &dead)) {
        // What is in this set is cleared next.
        Ok(()) if !is_other => {}
        Ok(()) => lock.forget_dead(),
        Err(error) => tracing::warn!("what a dead run left ({dead}) stays for now: {}", error::report(&error)),
    }
}

fn clear_other_set(domain: &Domain, dead: &Holder, keep: Keep) -> Result<()> {
    let layout = Layout::new(&dead.directory);
    if !layout.private().is_dir() {
        return Ok(());
    }
    let _lock = set::lock::take(&layout, dead, &Patience::new(Duration::ZERO, &Cancel::new()))?;
    undo::clear_leftovers(domain, &layout, Keep { started: true, ..keep })
        .map(drop)
        .map_err(|error| Error::new(Kind::Io, format!("its set {}", layout.directory().display())).caused_by(error))
}

fn abort_job_of(domain: &Domain, dead: &Holder) -> Result<()> {
    let Some(run) = dead.run else { return Ok(()) };
    if !domain.is_active()? {
        return Ok(());
    }
    if undo::end_dead_job(domain, run)? {
        tracing::warn!("aborted the backup job of run {run}, whose process is gone ({dead})");
    }
    Ok(())
}

/// Where this user's locks are; a folder that is lost with the next boot, as jobs are.
fn directory() -> Result<PathBuf> {
    let user = rustix::process::geteuid();
    let directory = match std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !user.is_root()) {
        _ if user.is_root() => PathBuf::from("/run/virtkeep"),
        Some(runtime) => Path::new(&runtime).join("virtkeep"),
        None => std::env::temp_dir().join(format!("virtkeep-{}", user.as_raw())),
    };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.map_err(|error| Error::io("create directory", error).path(&directory))?;
    let metadata = directory.symlink_metadata().map_err(|error| Error::io("stat", error).path(&directory))?;
    if !metadata.is_dir() || metadata.uid() != user.as_raw() {
        return Err(Error::new(Kind::Busy, "is not a directory of this user").path(directory));
    }
    Ok(directory)
}
