//! The backup job: prepared, begun at a quiet moment, read from, ended.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use uuid::Uuid;

use super::guest::{self, Hold, Quiet};
use super::plan::{Export, Plan};
use super::scratch::Scratch;
use super::watch::Watch;
use super::{Context, base, ended, marker, old_chain, phrases, undo};
use crate::cancel::Cancel;
use crate::commands::link::{Link, bounded};
use crate::error::{self, Error, Kind};
use crate::fault;
use crate::libvirt::backup_job::{self, PRESERVE_SHUTDOWN_VERSION};
use crate::libvirt::{code, code_of};
use crate::lock::Patience;
use crate::phrases::CLASSIC;
use crate::set::intent::Held;
use crate::set::moment;

/// A daemon that is being restarted gets this long to come back before a whole copy is thrown away.
pub const DAEMON_PATIENCE: Duration = Duration::from_secs(60);
/// A QEMU that hangs gets this long to end the job.
const END_LIMIT: Duration = Duration::from_secs(60);

/// What is done while the disks can be read, with where each of them is: a copy, or another look at them.
pub type Work<'w, T> = dyn Fn(&Plan, &[Export], &Cancel) -> Result<T> + 'w;

/// What came of it.
#[derive(Debug)]
pub struct Done<T> {
    /// What the work gave.
    pub value: T,
    /// The moment whose content was read.
    pub point_in_time: jiff::Zoned,
    /// How the freeze went.
    pub quiet: Quiet,
}

/// Runs the job: begins it at a quiet moment, has the `work` done, ends it.
pub fn run<T>(run: &Context<'_>, plan: &mut Plan, hold: &mut Hold<'_>, work: &Work<'_, T>) -> Result<Done<T>> {
    run.session.cancel.check()?;
    backup_job::refuse_busy(&*run.link.reach()?)?;
    let scratch = Scratch::check(run.link.host(), run.args, plan)?;
    let was_paused = guest::is_paused_by_full_disk(&*run.link.reach()?);
    let result = job(run, plan, hold, scratch, was_paused, work);
    if !was_paused {
        match run.link.reach() {
            Ok(reached) => guest::resume_after_full_scratch(&reached),
            Err(error) => tracing::debug!("the guest's state can't be looked at: {}", error::report(&error)),
        }
    }
    result.map(|mut done| {
        hold.retry_thaw(&mut done.quiet);
        done
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
            phrases::busy(&link.domain());
            return Err(busy.into());
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!("waiting: {busy}");
        }
    }
    Ok(())
}

fn job<T>(
    run: &Context<'_>,
    plan: &mut Plan,
    hold: &mut Hold<'_>,
    scratch: Scratch,
    was_paused: bool,
    work: &Work<'_, T>,
) -> Result<Done<T>> {
    // Armed before it begins: a call that fails may have begun it all the same.
    let job = JobGuard { link: run.link, run: plan.run };
    prepare(run, plan)?;
    // Not before: a guest that its owner pauses after a run that died is his.
    let planned = hold.planned()?;
    if planned != plan.intent.held {
        plan.intent.held = planned;
        plan.intent.write(run.layout)?;
    }
    tracing::info!(target: CLASSIC, at = "root job - start", "Starting backup job.");
    let (point_in_time, quiet) = hold.at_quiet_moment(|| begin(run, plan))?;
    let cancel = &run.session.cancel;
    run.link.ask(DAEMON_PATIENCE, cancel, |reached| base::refuse_replaced(reached, &plan.disks))?;
    let held = Held { frozen: hold.held().frozen || quiet.maybe_frozen, ..hold.held() };
    if held != plan.intent.held {
        plan.intent.held = held;
        plan.intent.write(run.layout)?;
    }
    fault::point("job-begun")?;
    let cancel = cancel.child();
    let watch = Watch::begin(run.link, plan.run, scratch, was_paused, &cancel)?;
    let by_us = watch.ends_job();
    let value = work(plan, &plan.exports(), &cancel);
    if let Some(reason) = watch.end() {
        return Err(reason.into());
    }
    let explained = |error| ended::explain(run, plan, &by_us, error);
    let value = value.map_err(explained)?;
    fault::point("copied")?;
    phrases::copied();
    job.end(&run.session.cancel).map_err(explained)?;
    fault::point("job-ended")?;
    Ok(Done { value, point_in_time, quiet })
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
    tracing::debug!("backup job begun");
    phrases::begun(plan);
    fault::point("begun-unthawed")?;
    Ok(moment::now())
}

fn is_base_refused(error: &Error) -> bool {
    matches!(code_of(error), Some(code::CHECKPOINT_INCONSISTENT | code::NO_DOMAIN_CHECKPOINT))
}

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
        let ended = || Error::new(Kind::Io, "the backup job ended before the copy did").of_export();
        if lasted { Ok(()) } else { Err(ended().into()) }
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
