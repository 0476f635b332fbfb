//! A backup job in pull mode: QEMU serves the disks of one moment over NBD until the job is aborted.
//!
//! The job belongs to the domain, not to a connection: it outlives the client and the daemon. It is told
//! from another's by a mark in the names of its scratch files, which the caller makes unique: a socket can be
//! anybody's next. A foreign job is never aborted.

mod active;
mod spec;

use virt_sys as c;

pub use active::{
    ActiveJob, abort, abort_any, active_job, job_is_ours, job_server, job_xml, refuse_busy, zombie_error,
};
pub use spec::{BackupDisk, BackupMode, BackupSpec, Server, bitmap_name};

use super::{Domain, code};
use crate::error::Result;

/// Two nodes for each scratch file, and a daemon that died more than once.
const MAX_LEFTOVER_NODES: usize = 64;
/// The first release of libvirt that can keep a domain that shuts down during the job: 11.10.0.
pub const PRESERVE_SHUTDOWN_VERSION: u64 = 11_010_000;

/// Begins a job, and makes a checkpoint of the same moment if its XML is given. After an error nothing is
/// left behind: no job, no checkpoint, no scratch file.
///
/// With `preserve_on_shutdown` a domain that shuts down is kept, paused, until the job ends; a daemon that
/// can't do that is asked again without (see [`PRESERVE_SHUTDOWN_VERSION`]).
///
/// # Errors
/// [`Busy`](crate::error::Kind::Busy) at once if another job runs: libvirt itself would wait for it for 30 seconds. Else by
/// libvirt's code: [`code::CHECKPOINT_INCONSISTENT`], [`code::NO_DOMAIN_CHECKPOINT`] for a base that is
/// not usable.
pub fn begin(
    domain: &Domain,
    spec: &BackupSpec,
    checkpoint_xml: Option<&str>,
    preserve_on_shutdown: bool,
) -> Result<()> {
    let xml = spec.to_xml()?;
    refuse_busy(domain)?;
    let mut flags = if preserve_on_shutdown { c::VIR_DOMAIN_BACKUP_BEGIN_PRESERVE_SHUTDOWN_DOMAIN } else { 0 };
    let mut result = domain.sys.backup_begin(&xml, checkpoint_xml, flags);
    if flags != 0 && result.as_ref().is_err_and(super::LibvirtError::is_unknown_flag) {
        tracing::debug!(domain = domain.name(), "this libvirt does not keep a domain that shuts down");
        flags = 0;
        result = domain.sys.backup_begin(&xml, checkpoint_xml, flags);
    }
    for _ in 0..MAX_LEFTOVER_NODES {
        if !result.as_ref().is_err_and(is_name_taken_by_leftover) {
            break;
        }
        tracing::debug!(domain = domain.name(), "a dead daemon left a node in QEMU: libvirt takes the next name");
        result = domain.sys.backup_begin(&xml, checkpoint_xml, flags);
    }
    let error = match result {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let hint = begin_hint(error.code, &error.message);
    let error = error.during(format!("domain {}: begin the backup job", domain.name()));
    Err(match hint {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

/// A daemon that died while it began a job left a block node in QEMU, and its successor, which counts from
/// where the last job had ended, gives the same name again. It counts on with every try.
fn is_name_taken_by_leftover(error: &super::LibvirtError) -> bool {
    // QEMU's words, in no language but English; libvirt has no code for them.
    error.code == code::INTERNAL_ERROR && error.message.contains("Duplicate nodes with node-name")
}

/// What to do about a job that would not begin.
fn begin_hint(code: i32, message: &str) -> Option<&'static str> {
    match code {
        code::OPERATION_TIMEOUT => Some("another job took the domain: try again when it is done"),
        code::OPERATION_INVALID => Some("the domain must be running or paused: -S starts it for the backup"),
        code::CHECKPOINT_INCONSISTENT => Some("the bitmap is lost: make a full backup (-l full)"),
        code::SYSTEM_ERROR => Some(
            "QEMU's user must be able to write to the scratch directory: --scratchdir; AppArmor and SELinux, too, must \
             let it",
        ),
        // No codes of their own: the texts are QEMU's.
        _ if message.contains("x509") || message.contains("TLS") || message.contains("tls") => Some(
            "the host needs certificates for backups: ca-cert.pem, server-cert.pem and server-key.pem in the directory \
             backup_tls_x509_cert_dir of its qemu.conf (/etc/pki/libvirt-backup)",
        ),
        // Not the host's: another name, or one behind a router.
        _ if message.contains("Cannot assign requested address") || message.contains("address resolution failed") => {
            Some("QEMU can't listen at this address: -I names one that the host has itself")
        }
        _ if message.contains("Address already in use") => Some("the port is taken on the host: -P names another"),
        _ if message.contains("Failed to bind socket") || message.contains("UNIX socket path") => Some(
            "QEMU's user must be able to make the socket, in at most 107 characters: --socketfile; where AppArmor \
                 confines QEMU it needs a rule, as in examples/apparmor-libvirt-qemu, and where SELinux does a label",
        ),
        _ if message.contains("No space left") => Some("the scratch directory is full: --scratchdir"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
