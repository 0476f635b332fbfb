//! Undoing a run that was not committed: its own after a failure, a dead one's at the next start.
//! Only what provably belongs to the run is touched.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use uuid::Uuid;

use super::plan::domain_uuid;
use super::{Context, commit, guest, marker, old_chain};
use crate::cancel::Cancel;
use crate::commands::guard;
use crate::commands::link::bounded;
use crate::error::{self, Error, Kind};
use crate::host::{FileKind, Host};
use crate::libvirt::backup_job::{self, ActiveJob};
use crate::libvirt::checkpoint;
use crate::libvirt::domain::Domain;
use crate::qemu::nbd::QemuNbd;
use crate::set::intent::{Held, Intent};
use crate::set::layout::{self, Layout, PARTIAL};
use crate::set::manifest::Manifest;
use crate::set::records;

/// A daemon that died with the run gets this long to come back; what is not undone by then is the next
/// run's to undo.
const PATIENCE: Duration = Duration::from_secs(15);
/// The same for a QEMU that does not answer.
const LIMIT: Duration = Duration::from_secs(60);
/// A job that a dead run asked for gets this long to begin: libvirt goes on with a call whose client is gone.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);
/// How often to look whether it has.
const BEGIN_POLL: Duration = Duration::from_millis(100);

/// What of a dead run is kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Its data, under another name.
    pub partial: bool,
    /// The domain that it started: the new run wants it started, too.
    pub started: bool,
}

/// Ends what earlier runs into this set left undone: a committed run is completed, any other undone.
/// True if a domain that such a run started is left as it
/// is, because `keep` says so.
///
/// # Errors
/// Where that is not possible now: nothing new may begin on top of it.
pub fn clear_leftovers(domain: &Domain, layout: &Layout, keep: Keep) -> Result<bool> {
    let mut kept_started = false;
    for mut intent in Intent::left_behind(layout)? {
        if intent.domain_uuid != domain_uuid(domain)? {
            let message = format!("an unfinished run of another domain ({}) is recorded here", intent.domain_uuid);
            return Err(Error::usage(message)
                .path(layout.directory())
                .hint("every domain needs a directory of its own: choose another with -o")
                .into());
        }
        if intent.instance.is_some() && intent.instance != domain.instance()? {
            // What it did to the guest ended with that.
            tracing::debug!("the domain was started anew since run {}", intent.run);
            intent.held = Held::default();
        }
        if keep.started {
            kept_started |= std::mem::take(&mut intent.held.started);
        }
        if layout.is_committed(intent.run)? {
            let manifest = layout.file(&Layout::manifest_name(intent.run))?;
            tracing::info!("run {} was committed, but not tidied up: completing it", intent.run);
            let manifest = Manifest::read(manifest)?;
            commit::roll_forward(layout, &manifest)?;
            if !records::is_of_stdout(layout) {
                old_chain::remove_of(domain, &manifest)?;
            }
            remove_job_files(domain.host(), &intent);
            release(domain, &intent)?;
        } else {
            tracing::warn!("run {} did not finish: undoing it", intent.run);
            remove_files(layout, &intent, keep.partial)?;
            undo_on_domain(domain, &intent)?;
        }
        Intent::remove(layout, intent.run)?;
    }
    Ok(kept_started)
}

/// Undoes the run of `intent` after its failure. What can't be undone now stays recorded in the intent for the
/// next run.
pub(super) fn failed_run(run: &Context<'_>, intent: &Intent) {
    let layout = run.layout;
    // The commit itself failed half-way: what the next run makes of it depends on what it finds.
    match layout.is_committed(intent.run) {
        Ok(false) => {}
        Ok(true) => {
            tracing::warn!("the manifest is written, but maybe not durable: the next run completes the run");
            return;
        }
        Err(error) => {
            tracing::warn!(
                "whether the run is committed is not known, the next one finds out: {}",
                error::report(&error)
            );
            return;
        }
    }
    // Their room may be what is missing, and they need no daemon.
    let result = remove_files(layout, intent, run.args.keep_partial).and_then(|()| {
        let (link, layout, intent) = (run.link.clone(), layout.clone(), intent.clone());
        Ok(bounded("undo the run", LIMIT, move || {
            // Not the run's own flag: after a signal it is set.
            let reached = link.reach_within(PATIENCE, &Cancel::new())?;
            undo_on_domain(&reached, &intent).map_err(|error| match error.downcast::<Error>() {
                Ok(error) => error,
                Err(other) => Error::new(Kind::Io, format!("{other:#}")),
            })?;
            Intent::remove(&layout, intent.run)
        })?)
    });
    if let Err(error) = result {
        tracing::warn!("the next run has to undo the rest of this one: {}", error::report(error.as_ref()));
    }
}

/// Undoes what the run did to the domain and on its host.
fn undo_on_domain(domain: &Domain, intent: &Intent) -> Result<()> {
    undo_job(domain, intent)?;
    remove_job_files(domain.host(), intent);
    release(domain, intent)
}

/// Ends the run's job and removes its checkpoint. Of a domain that is off there is no job.
fn undo_job(domain: &Domain, intent: &Intent) -> Result<()> {
    wait_for_begin(domain)?;
    // Twice: the job may still have been waiting for another's to end. What is done to checkpoints waits for it.
    for _ in 0..2 {
        if end_dead_job(domain, intent.run)? {
            tracing::info!("aborted the backup job of run {}", intent.run);
        }
        remove_checkpoint(domain, intent)?;
    }
    Ok(())
}

/// Waits while libvirt begins a job: it has no XML yet, and would be overlooked. One that a dead daemon left
/// half-made looks the same, but stays so.
fn wait_for_begin(domain: &Domain) -> error::Result<()> {
    let deadline = Instant::now() + BEGIN_LIMIT;
    while backup_job::active_job(domain)? == ActiveJob::Zombie {
        if Instant::now() >= deadline {
            return Err(backup_job::zombie_error(domain));
        }
        thread::sleep(BEGIN_POLL);
    }
    Ok(())
}

/// As [`abort_job`], of a run whose process is gone: its scratch files may have paused the guest, and nobody
/// was there to resume it.
///
/// # Errors
/// By libvirt's code.
pub(super) fn end_dead_job(domain: &Domain, run: Uuid) -> error::Result<bool> {
    let ended = abort_job(domain, run)?;
    if ended {
        guest::resume_after_full_scratch(domain);
    }
    Ok(ended)
}

/// Ends the job of `run`, if that is the one that runs; whether it was.
///
/// # Errors
/// By libvirt's code.
pub(super) fn abort_job(domain: &Domain, run: Uuid) -> error::Result<bool> {
    let mark = run.to_string();
    match backup_job::job_xml(domain)?.is_some_and(|xml| backup_job::job_is_ours(&xml, &mark)) {
        true => backup_job::abort(domain, &mark),
        false => Ok(false),
    }
}

/// Lets a guest go that the run held when it died, and the guard died, too.
fn release(domain: &Domain, intent: &Intent) -> Result<()> {
    if intent.held == Held::default() {
        return Ok(());
    }
    Ok(guard::release(domain, intent.held)?)
}

/// Removes the run's checkpoint: older ones still hold the whole delta.
fn remove_checkpoint(domain: &Domain, intent: &Intent) -> Result<()> {
    let Some(name) = &intent.checkpoint else { return Ok(()) };
    let run = intent.run.to_string();
    let ours = |text: &String| text.contains(&run);
    for checkpoint in checkpoint::list(domain)? {
        if checkpoint.name == *name && checkpoint.description.as_ref().is_some_and(ours) {
            checkpoint::discard(domain, &checkpoint)?;
            tracing::info!("removed checkpoint {name} of run {run}");
        }
    }
    marker::remove(domain, intent.run)
}

/// Removes what the run wrote into the set; its data stays under a name of its own where that is asked for.
fn remove_files(layout: &Layout, intent: &Intent, keep_partial: bool) -> Result<()> {
    for name in &intent.files {
        let partial = layout.file(&format!("{name}{PARTIAL}"))?;
        if keep_partial && partial.exists() {
            let kept = layout.file(&format!("{name}.{}{PARTIAL}", intent.run))?;
            std::fs::rename(&partial, &kept).map_err(|error| Error::io("rename", error).path(&partial))?;
            tracing::info!("kept {}", kept.display());
        }
        layout::remove(&partial)?;
    }
    Ok(intent.extra.iter().try_for_each(|name| layout::remove(&layout.file(name)?))?)
}

/// Scratch files and the socket: libvirt and QEMU remove them, unless they died. An intent is a file that
/// others could have written: only what bears the run's UUID is believed to be ours, and a socket that
/// nobody listens at.
pub(super) fn remove_job_files(host: &Host, intent: &Intent) {
    if !host.is_open() {
        tracing::debug!("scratch files of run {} are left to libvirt: the host's files can't be got at", intent.run);
        return;
    }
    let run = intent.run.to_string();
    let named = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(&run));
    let socket = Some(&intent.socket).filter(|path| path.is_absolute() && is_dead_socket(host, path));
    for path in intent.scratch.iter().filter(named).chain(socket) {
        if let Err(error) = host.remove(path) {
            tracing::warn!("{}", error::report(&error));
        }
    }
    if let Err(error) = QemuNbd::remove_left(intent.run) {
        tracing::debug!("{}", error::report(&error));
    }
}

fn is_dead_socket(host: &Host, path: &Path) -> bool {
    host.file(path).is_ok_and(|facts| facts.kind == FileKind::Socket) && !host.listens(path)
}
