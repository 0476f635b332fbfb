//! The job that a domain has: what it is, whose, and its end.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use virt_sys as c;

use crate::error::{Error, Kind, Result};
use crate::libvirt::sys::Value;
use crate::libvirt::xml::{self, Element};
use crate::libvirt::{Domain, code};
use crate::set::job_files;

/// How long an aborted job may take to go; 10 to 50 ms are usual, a busy host needs more.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to look whether it has gone.
const ABORT_POLL: Duration = Duration::from_millis(10);

/// What keeps a domain busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActiveJob {
    /// Nothing.
    None,
    /// A backup job, with its XML.
    Backup(String),
    /// A job of another kind: a migration, a snapshot.
    Other(&'static str),
    /// libvirt believes in a backup job that QEMU does not have: the daemon died while it began one.
    Zombie,
}

/// Refuses a domain that is busy with a job.
///
/// # Errors
/// [`Kind::Busy`], saying with what and what to do.
pub fn refuse_busy(domain: &Domain) -> Result<()> {
    match busy_error(domain, &active_job(domain)?) {
        Some(busy) => Err(busy),
        None => Ok(()),
    }
}

/// What keeps the domain busy now.
///
/// # Errors
/// By libvirt's code: the domain is gone, the connection is lost. A domain that is off has no job.
pub fn active_job(domain: &Domain) -> Result<ActiveJob> {
    if let Some(xml) = job_xml(domain)? {
        return Ok(ActiveJob::Backup(xml));
    }
    match domain.sys.job_type() {
        Ok(0) => return Ok(ActiveJob::None),
        Err(error) if error.code == code::OPERATION_INVALID => return Ok(ActiveJob::None),
        // No job XML above, and yet: see the hint of `zombie_error`.
        Err(error) if error.code == code::INTERNAL_ERROR && error.message.contains("backup job") => {
            return Ok(ActiveJob::Zombie);
        }
        other => domain.during("ask for its job", other)?,
    };
    let operation = match domain.sys.job_stats() {
        Ok((0, _)) => return Ok(ActiveJob::None),
        Ok((_, stats)) => operation(&stats),
        // It has just ended, or this kind has no statistics: it is a job all the same.
        Err(_) => None,
    };
    if operation == Some(c::VIR_DOMAIN_JOB_OPERATION_BACKUP) {
        // Begun since we looked, or just ended.
        return Ok(job_xml(domain)?.map_or(ActiveJob::None, ActiveJob::Backup));
    }
    Ok(ActiveJob::Other(operation_name(operation)))
}

fn operation(stats: &[(String, Value)]) -> Option<u32> {
    stats.iter().find_map(|(name, value)| match value {
        Value::Int(number) if name == "operation" => u32::try_from(*number).ok(),
        _ => None,
    })
}

fn operation_name(operation: Option<u32>) -> &'static str {
    match operation {
        Some(c::VIR_DOMAIN_JOB_OPERATION_START) => "start",
        Some(c::VIR_DOMAIN_JOB_OPERATION_SAVE) => "save",
        Some(c::VIR_DOMAIN_JOB_OPERATION_RESTORE) => "restore",
        Some(c::VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN) => "incoming migration",
        Some(c::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT) => "outgoing migration",
        Some(c::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT) => "snapshot",
        Some(c::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT) => "snapshot revert",
        Some(c::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE) => "snapshot delete",
        Some(c::VIR_DOMAIN_JOB_OPERATION_DUMP) => "dump",
        _ => "unknown",
    }
}

/// The error for a domain that is busy, if it is.
fn busy_error(domain: &Domain, job: &ActiveJob) -> Option<Error> {
    let name = domain.name();
    let busy = |message: String| Error::new(Kind::Busy, format!("domain {name}: {message}"));
    match job {
        ActiveJob::None => None,
        ActiveJob::Backup(xml) => {
            let whose = match job_files::runs_in(xml).first() {
                Some(run) => format!("a backup job of virtkeep run {run} is running already"),
                None => "a backup job is running already".to_owned(),
            };
            let server = job_server(xml).unwrap_or_else(|| "no server known".to_owned());
            Some(busy(format!("{whose} ({server})")).hint(format!(
                "--wait SECONDS waits for it; if its owner is gone, end it with `virsh domjobabort {name}`"
            )))
        }
        ActiveJob::Other(operation) => Some(
            busy(format!("another job is running: {operation}"))
                .hint(format!("wait for it: `virsh domjobinfo {name}`")),
        ),
        ActiveJob::Zombie => Some(zombie_error(domain)),
    }
}

/// The error for a domain that can't begin any job until its daemon has been helped.
pub fn zombie_error(domain: &Domain) -> Error {
    let name = domain.name();
    Error::new(
        Kind::Busy,
        format!(
            "domain {name}: libvirt waits for a backup job that does not exist (its daemon died while beginning one)"
        ),
    )
    .hint(format!(
        "stop libvirtd, delete the element <job type='none' async='backup' …/> from /run/libvirt/qemu/{name}.xml, \
         start libvirtd; the guest goes on meanwhile"
    ))
}

/// The XML of the backup job that runs, if one does.
///
/// # Errors
/// By libvirt's code.
pub fn job_xml(domain: &Domain) -> Result<Option<String>> {
    match domain.sys.backup_xml() {
        Ok(xml) => Ok(Some(xml)),
        Err(error) if matches!(error.code, code::NO_DOMAIN_BACKUP | code::OPERATION_INVALID | code::NO_SUPPORT) => {
            Ok(None)
        }
        Err(error) => domain.during("ask for its backup job", Err(error)),
    }
}

/// Where a job serves its disks, in words, from its XML.
pub fn job_server(xml: &str) -> Option<String> {
    let document = xml::parse(xml, "domainbackup").ok()?;
    let server = document.root.child("server")?;
    let port = || Some(format!("address {} port {}", server.attribute("name")?, server.attribute("port")?));
    server.attribute("socket").map(|path| format!("socket {path:?}")).or_else(port)
}

/// Whether a scratch file of the job of that XML has `mark` in its name.
pub fn job_is_ours(xml: &str, mark: &str) -> bool {
    let Ok(document) = xml::parse(xml, "domainbackup") else { return false };
    let disks = document.root.child("disks").into_iter().flat_map(Element::children);
    let mut files = disks.filter_map(|disk| disk.child("scratch")?.attribute("file")).map(PathBuf::from);
    files.any(|file| file.file_name().is_some_and(|name| name.to_string_lossy().contains(mark)))
}

/// Ends the backup job that the domain has, whoever began it; returns whether there was one.
///
/// # Errors
/// [`Kind::Busy`] for a job of another kind, which is left alone, or if it did not go within ten seconds; else by
/// libvirt's code.
pub fn abort_any(domain: &Domain) -> Result<bool> {
    match active_job(domain)? {
        ActiveJob::None => return Ok(false),
        ActiveJob::Backup(_) => {}
        other => return Err(busy_error(domain, &other).unwrap_or_else(|| zombie_error(domain))),
    }
    abort_that(domain, |_| true)
}

/// Ends our job, see [`job_is_ours`], and waits until it has gone; returns whether there was one. Another's
/// is left alone.
///
/// # Errors
/// [`Kind::Busy`] if another's job runs, or ours did not go within ten seconds; else by libvirt's code.
pub fn abort(domain: &Domain, mark: &str) -> Result<bool> {
    abort_that(domain, |xml| job_is_ours(xml, mark))
}

fn abort_that(domain: &Domain, is_meant: impl Fn(&str) -> bool) -> Result<bool> {
    let deadline = Instant::now() + ABORT_TIMEOUT;
    let mut sent = false;
    // Most end within milliseconds.
    let mut pause = Duration::from_millis(1);
    while let Some(xml) = job_xml(domain)? {
        if !is_meant(&xml) {
            // Ours has gone, and somebody else was quick.
            let foreign = busy_error(domain, &ActiveJob::Backup(xml));
            return if sent { Ok(true) } else { Err(foreign.unwrap_or_else(|| zombie_error(domain))) };
        }
        if !sent {
            match domain.sys.abort_job() {
                // It has ended since we looked.
                Err(error) if error.code == code::OPERATION_INVALID => {}
                other => domain.during("abort the backup job", other)?,
            }
            sent = true;
        }
        if Instant::now() >= deadline {
            let message = format!("domain {}: the backup job is still there after it was aborted", domain.name());
            return Err(Error::new(Kind::Busy, message).hint(format!("`virsh domjobabort {}`", domain.name())));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(ABORT_POLL);
    }
    Ok(sent)
}
