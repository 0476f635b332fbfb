//! From the job's begin to its end: all disks of the plan into partial files.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use uuid::Uuid;

use super::config::{self, Extra};
use super::guest::{self, Hold, Quiet};
use super::plan::{Plan, PlannedDisk};
use super::scratch::Scratch;
use super::watch::Watch;
use super::{Context, base, marker, old_chain, undo, zeroes};
use crate::cancel::Cancel;
use crate::cli::backup::Backup;
use crate::commands::link::{Link, bounded};
use crate::error::{self, Error, Kind};
use crate::extent::{self, Extent, Kind as ExtentKind, align_data};
use crate::fault;
use crate::libvirt::backup_job::{self, PRESERVE_SHUTDOWN_VERSION, bitmap_name};
use crate::libvirt::{code, code_of};
use crate::lock::Patience;
use crate::nbd::block_status::{self, ALLOCATION};
use crate::nbd::client::Client;
use crate::nbd::uri;
use crate::pipeline::backup::{Source, copy};
use crate::set::intent::Held;
use crate::set::layout::PARTIAL;
use crate::set::moment;
use crate::stream::FRAME_ALIGNMENT;
use crate::stream::codec::Compression;
use crate::stream::meta::{Meta, Own};
use crate::stream::writer::Finished;
use crate::units::format_bytes;

/// Connections for one disk, each with a thread that reads, digests and compresses: while one
/// computes, the other keeps the server busy.
const CONNECTIONS: usize = 3;

/// What the copy of all disks gave.
#[derive(Debug)]
pub struct Copied {
    /// By disk, in the order of the plan.
    pub disks: Vec<CopiedDisk>,
    /// The moment whose content was copied.
    pub point_in_time: jiff::Zoned,
    /// The domain's configuration at that moment.
    pub config: Vec<Extra>,
    /// How the freeze went.
    pub quiet: Quiet,
}

/// One disk's stream.
#[derive(Debug)]
pub struct CopiedDisk {
    /// Target name.
    pub target: String,
    /// Size of the disk.
    pub virtual_size: u64,
    /// Changed bytes that read as zeroes.
    pub zeroed_size: u64,
    /// The file.
    pub finished: Finished,
}

/// Runs the job: begins it at a quiet moment, copies every disk, ends it.
pub fn disks(run: &Context<'_>, plan: &mut Plan, hold: &mut Hold<'_>) -> Result<Copied> {
    run.session.cancel.check()?;
    backup_job::refuse_busy(&*run.link.reach()?)?;
    let scratch = Scratch::check(&run.args.places, plan)?;
    let was_paused = guest::is_paused_by_full_disk(&*run.link.reach()?);
    let result = job(run, plan, hold, scratch, was_paused);
    if !was_paused {
        match run.link.reach() {
            Ok(reached) => guest::resume_after_full_scratch(&reached),
            Err(error) => tracing::debug!("the guest's state can't be looked at: {}", error::report(&error)),
        }
    }
    result.map(|mut copied| {
        hold.retry_thaw(&mut copied.quiet);
        copied
    })
}

/// Waits for the jobs of others: libvirt has one for a domain.
///
/// # Errors
/// [`Kind::Busy`], saying what runs; by libvirt's code.
pub fn wait_until_idle(link: &Link, patience: &Patience) -> Result<()> {
    let mut told = false;
    while let Err(busy) = backup_job::refuse_busy(&*link.reach()?) {
        if busy.kind() != Kind::Busy || !patience.wait()? {
            return Err(busy.into());
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!("waiting: {busy}");
        }
    }
    Ok(())
}

fn job(run: &Context<'_>, plan: &mut Plan, hold: &mut Hold<'_>, scratch: Scratch, was_paused: bool) -> Result<Copied> {
    // Armed before it begins: a call that fails may have begun it all the same.
    let job = JobGuard { link: run.link, run: plan.run };
    prepare(run, plan)?;
    // Not before: a guest that its owner pauses after a run that died is his.
    let planned = hold.planned()?;
    if planned != plan.intent.held {
        plan.intent.held = planned;
        plan.intent.write(&run.catalogue.layout)?;
    }
    let (point_in_time, quiet) = hold.at_quiet_moment(|| begin(run, plan))?;
    let cancel = &run.session.cancel;
    run.link.ask(DAEMON_PATIENCE, cancel, |reached| base::refuse_replaced(reached, &plan.disks))?;
    let held = Held { frozen: hold.held().frozen || quiet.maybe_frozen, ..hold.held() };
    if held != plan.intent.held {
        plan.intent.held = held;
        plan.intent.write(&run.catalogue.layout)?;
    }
    fault::point("job-begun")?;
    let cancel = cancel.child();
    let watch = Watch::begin(run.link, plan.run, scratch, was_paused, &cancel)?;
    let config = run.link.ask(DAEMON_PATIENCE, &cancel, |reached| config::gather(reached, plan))?;
    fault::point("config-gathered")?;
    let disks = all(run, plan, &cancel);
    if let Some(reason) = watch.end() {
        return Err(reason.into());
    }
    let disks = disks?;
    fault::point("copied")?;
    job.end(&run.session.cancel)?;
    fault::point("job-ended")?;
    Ok(Copied { disks, point_in_time, config, quiet })
}

/// What the job needs of the domain, and what need not be done while the guest stands still.
fn prepare(run: &Context<'_>, plan: &mut Plan) -> Result<()> {
    let reached = run.link.reach()?;
    old_chain::free_name(&reached, plan)?;
    fault::point("name-freed")?;
    marker::place(&reached, plan)?;
    Ok(fault::point("marked")?)
}

/// Begins the job. Where libvirt finds a base unusable after all, every disk is made full.
fn begin(run: &Context<'_>, plan: &mut Plan) -> Result<jiff::Zoned> {
    let reached = run.link.reach()?;
    let domain = &reached.domain;
    let preserve = reached.connection.daemon_version()? >= PRESERVE_SHUTDOWN_VERSION;
    let checkpoint = plan.checkpoint_xml()?;
    match backup_job::begin(domain, &plan.job(), checkpoint.as_deref(), preserve) {
        Err(error) if is_base_refused(&error) && plan.disks.iter().any(|disk| disk.base.is_some()) => {
            tracing::warn!(
                "switching backup to full, because libvirt refuses the increment: {}",
                error::report(&error)
            );
            plan.demote();
            marker::place(domain, plan)?;
            backup_job::begin(domain, &plan.job(), checkpoint.as_deref(), preserve)?;
        }
        Err(error) if old_chain::free_orphans(domain, plan, &error)? => {
            backup_job::begin(domain, &plan.job(), checkpoint.as_deref(), preserve)?;
        }
        other => other?,
    }
    tracing::debug!("backup job begun, socket {}", plan.socket.display());
    fault::point("begun-unthawed")?;
    Ok(moment::now())
}

fn is_base_refused(error: &Error) -> bool {
    matches!(code_of(error), Some(code::CHECKPOINT_INCONSISTENT | code::NO_DOMAIN_CHECKPOINT))
}

/// A daemon that is being restarted gets this long to come back before a whole copy is thrown away.
const DAEMON_PATIENCE: Duration = Duration::from_secs(60);
/// A QEMU that hangs gets this long to end the job.
const END_LIMIT: Duration = Duration::from_secs(60);

/// The running job; aborted when this is dropped.
struct JobGuard<'r> {
    link: &'r Link,
    run: Uuid,
}

impl JobGuard<'_> {
    /// Ends the job. It must have lasted until now: what was read after its end is not its content.
    fn end(self, cancel: &Cancel) -> Result<()> {
        let lasted = self.link.ask(DAEMON_PATIENCE, cancel, |reached| {
            let (reached, mark) = (Arc::clone(reached), self.run.to_string());
            bounded("end the backup job", END_LIMIT, move || backup_job::abort(&reached, &mark))
        })?;
        std::mem::forget(self);
        if lasted { Ok(()) } else { Err(Error::new(Kind::Io, "the backup job ended before the copy did").into()) }
    }
}

impl Drop for JobGuard<'_> {
    fn drop(&mut self) {
        let (link, run) = (self.link.clone(), self.run);
        let ended = bounded("end the backup job", END_LIMIT, move || undo::abort_job(&*link.reach()?, run).map(drop));
        if let Err(error) = ended {
            tracing::debug!("the backup job may still be there: {}", error::report(&error));
        }
    }
}

/// Copies the disks, as many at a time as asked; the first error stops all.
fn all(run: &Context<'_>, plan: &Plan, cancel: &Cancel) -> Result<Vec<CopiedDisk>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let workers = run.args.worker.map_or(plan.disks.len(), usize::from).clamp(1, plan.disks.len());
    tracing::debug!("Concurrent backup processes: [{workers}]");
    std::thread::scope(|scope| {
        let work = || {
            while let Some((index, disk)) = take(&next, &plan.disks) {
                let result = one(run, plan, disk, cancel).map_err(|e| e.disk(&disk.target));
                if result.is_err() {
                    cancel.cancel();
                }
                results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, result));
            }
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| Error::panicked()))
    })?;
    run.session.cancel.check()?;
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    let (mut disks, mut failures) = (Vec::new(), Vec::new());
    for (_, result) in results {
        match result {
            Ok(disk) => disks.push(disk),
            Err(error) => failures.push(Err(error)),
        }
    }
    Error::first_of(failures)?;
    Ok(disks)
}

fn take<'p>(next: &AtomicUsize, disks: &'p [PlannedDisk]) -> Option<(usize, &'p PlannedDisk)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, disks.get(index)?))
}

/// Copies one disk into its partial file.
fn one(run: &Context<'_>, plan: &Plan, disk: &PlannedDisk, cancel: &Cancel) -> error::Result<CopiedDisk> {
    let layout = &run.catalogue.layout;
    let uri = uri::unix(&plan.socket, &disk.target);
    let bitmap = format!("qemu:dirty-bitmap:{}", bitmap_name(&disk.target));
    let contexts: &[&str] = if disk.base.is_some() { &[ALLOCATION, &bitmap] } else { &[ALLOCATION] };
    let mut first = Client::connect(&uri, contexts, cancel)?;
    let extents = extents(run, disk, &mut first, &bitmap)?;
    let size = first.size();
    if disk.base.as_ref().is_some_and(|base| base.virtual_size != size) {
        return Err(Error::new(Kind::Protocol, format!("its size changed to {size} bytes since the run was planned")));
    }
    let data_size = extent::total(&extents, ExtentKind::Data);
    let zeroed = extent::total(&extents, ExtentKind::Zero);
    tracing::info!(
        "{}: Got {} extents to backup, {}",
        disk.target,
        extents.iter().filter(|extent| extent.kind == ExtentKind::Data).count(),
        format_bytes(data_size)
    );
    fault::point("extents-known")?;
    let meta = meta(run.args, plan, disk, size, data_size);
    let path = layout.file(&format!("{}{PARTIAL}", disk.file))?;
    let file = layout.create_new(&path)?;
    fault::point("stream-created")?;
    let mut clients = vec![first];
    if clients[0].capabilities().multi_conn && data_size > 0 {
        for _ in 1..CONNECTIONS {
            clients.push(Client::connect(&uri, &[], cancel)?);
        }
    }
    // Zero ranges are nearly free to copy: what counts is data.
    let meter = run.session.display.meter(&disk.target, data_size);
    let source = Source { extents: &extents, meta: &meta };
    let finished =
        copy(&source, clients, file, &layout.private(), &meter, cancel).map_err(|error| error.path(&path))?;
    fault::point("stream-written")?;
    let zeroed_size = if meta.incremental { zeroed } else { 0 };
    Ok(CopiedDisk { target: disk.target.clone(), virtual_size: size, zeroed_size, finished })
}

/// What of the disk goes into the stream.
fn extents(run: &Context<'_>, disk: &PlannedDisk, client: &mut Client, bitmap: &str) -> error::Result<Vec<Extent>> {
    let mut extents = match &disk.base {
        Some(base) => {
            let changed = block_status::changed(client, bitmap)?;
            zeroes::unseen(run.catalogue, base, &disk.target, client, changed)?
        }
        None => block_status::allocation(client)?,
    };
    if run.args.no_sparse_detection {
        tracing::debug!("Skipping detection of sparse ranges");
        for extent in extents.iter_mut().filter(|extent| extent.kind == ExtentKind::Zero) {
            extent.kind = ExtentKind::Data;
        }
    }
    // Neighbours that became alike are joined on the way.
    Ok(align_data(&extents, FRAME_ALIGNMENT))
}

fn meta(args: &Backup, plan: &Plan, disk: &PlannedDisk, virtual_size: u64, data_size: u64) -> Meta {
    Meta {
        virtual_size,
        data_size,
        date: plan.started.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string(),
        disk_name: disk.target.clone(),
        disk_format: disk.disk.driver_format.clone().unwrap_or_else(|| "qcow2".to_owned()),
        checkpoint_name: plan.checkpoint.clone(),
        parent_checkpoint: disk.base.as_ref().map(|base| base.checkpoint.clone()).unwrap_or_default(),
        incremental: disk.base.is_some(),
        compression: match args.compress {
            Some(level) => Compression::Lz4 { level },
            None => Compression::None,
        },
        stream_version: 2,
        own: Some(own(plan.run)),
    }
}

fn own(run: Uuid) -> Own {
    Own { format: 1, run, index: true }
}
