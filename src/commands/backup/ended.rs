//! Why a disk can't be read any more in the middle of a job: the domain is off, or somebody ended the job. All that the
//! copy meets is a connection that breaks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Context;
use super::plan::Plan;
use crate::error::{Error, Kind, Result};
use crate::libvirt::backup_job::{job_is_ours, job_xml};
use crate::libvirt::domain::{Domain, Off};

/// libvirt may learn later than the copy that QEMU is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(50);
/// Looks that find a running domain without the job before that is believed: libvirt ends the job of a domain first,
/// and then the domain.
const LOOKS: u32 = 10;

/// `error` with what became of the domain or of the job, whose own it is then the cause; as it is where both are still
/// there, or it was not met on the job's disks. `by_us` becomes true before the run itself ends the job.
pub fn explain(run: &Context<'_>, plan: &Plan, by_us: &AtomicBool, error: anyhow::Error) -> anyhow::Error {
    let error = match error.downcast::<Error>() {
        Ok(error) if error.is_of_export() && error.kind() != Kind::Cancelled => error,
        Ok(error) => return error.into(),
        Err(other) => return other,
    };
    let deadline = Instant::now() + PATIENCE;
    let mut without_job = 0;
    loop {
        // The job is looked at before the flag.
        let end = run.link.reach().and_then(|reached| end_of_job(&reached, plan.run, plan.intent.instance.as_deref()));
        match end {
            Ok(Some(_)) if by_us.load(Ordering::SeqCst) => return error.into(),
            Ok(Some(End::Domain(end))) => return end.caused_by(error).into(),
            Ok(Some(End::Job(end))) if without_job >= LOOKS => return end.caused_by(error).into(),
            Ok(Some(End::Job(_))) => {
                without_job += 1;
                thread::sleep(LOOK);
            }
            Ok(None) if Instant::now() < deadline && !run.session.cancel.is_cancelled() => thread::sleep(LOOK),
            _ => return error.into(),
        }
    }
}

/// What ended, with the error for it.
enum End {
    Domain(Error),
    Job(Error),
}

/// What ended, if the job is not there any more.
fn end_of_job(domain: &Domain, run: Uuid, instance: Option<&str>) -> Result<Option<End>> {
    let name = domain.name();
    let gone = |what: &str| {
        let error = Error::new(Kind::Io, format!("domain {name} {what} while its disks were read"));
        End::Domain(
            error.hint("the next run goes on from the last one that was committed, also while the domain is off"),
        )
    };
    if let Some(off) = domain.why_off()? {
        return Ok(Some(match off {
            Off::ShutDown => gone("was shut down"),
            Off::Destroyed => gone("was forced off"),
            Off::Migrated => gone("was migrated to another host"),
            Off::Saved => gone("was saved and stopped"),
            Off::Other => gone("was stopped"),
            Off::Crashed => End::Domain(
                Error::new(Kind::Io, format!("QEMU of domain {name} ended unexpectedly while its disks were read")).hint(
                    "start the domain again: the next run makes full whose bitmaps were lost with it, and goes on elsewhere",
                ),
            ),
        }));
    }
    if job_xml(domain)?.is_some_and(|xml| job_is_ours(&xml, &run.to_string())) {
        return Ok(None);
    }
    match (domain.instance()?, instance) {
        // On its way down.
        (None, _) => return Ok(None),
        (Some(now), Some(then)) if now != then => return Ok(Some(gone("was stopped and started again"))),
        _ => {}
    }
    Ok(Some(End::Job(
        Error::new(Kind::Io, format!("the backup job of domain {name} was aborted by somebody else"))
            .hint("`virsh domjobabort` does that; the next run goes on from the last one that was committed"),
    )))
}
