//! The libvirt driver: one connection, its domains, their checkpoints, backup jobs and guest agent,
//! and the domain XML.
//!
//! Every failure carries a [`LibvirtError`] as its cause, so that a caller can decide by code (see
//! [`code_of`] and [`code`]) and never by the text.

pub mod agent;
pub mod backup_job;
pub mod bitmap;
mod block_copy;
pub mod block_nodes;
pub mod capability;
pub mod checkpoint;
pub mod connection;
pub mod domain;
pub mod domain_xml;
pub mod guest_exec;
pub mod images;
pub mod probe;
mod sys;
pub mod xml;

#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::fmt;

pub use connection::{Connection, Credentials};
pub use domain::Domain;

use crate::error::{Error, Kind};

/// The error codes of libvirt (`virErrorNumber`) that decisions are made by.
pub mod code {
    /// Anything that libvirt has no code for; also what old daemons report for agent failures.
    pub const INTERNAL_ERROR: i32 = 1;
    /// The driver doesn't implement the call.
    pub const NO_SUPPORT: i32 = 3;
    /// No driver for the URI, or no connection to the daemon.
    pub const NO_CONNECT: i32 = 5;
    /// An argument that this daemon does not take, an unknown flag for example.
    pub const INVALID_ARG: i32 = 8;
    /// The daemon refused the user.
    pub const OPERATION_DENIED: i32 = 29;
    /// A system call failed; [`LibvirtError::os_error`](super::LibvirtError::os_error) may say which way.
    pub const SYSTEM_ERROR: i32 = 38;
    /// The connection to the daemon is in a bad way.
    pub const RPC: i32 = 39;
    /// No such domain.
    pub const NO_DOMAIN: i32 = 42;
    /// User name or password were wrong.
    pub const AUTH_FAILED: i32 = 45;
    /// No such storage pool.
    pub const NO_STORAGE_POOL: i32 = 49;
    /// No such storage volume.
    pub const NO_STORAGE_VOL: i32 = 50;
    /// Not possible in this state of the domain.
    pub const OPERATION_INVALID: i32 = 55;
    /// The configuration of the domain rules it out.
    pub const CONFIG_UNSUPPORTED: i32 = 67;
    /// Another job held the domain for 30 seconds.
    pub const OPERATION_TIMEOUT: i32 = 68;
    /// An argument that this domain or hypervisor does not take.
    pub const ARGUMENT_UNSUPPORTED: i32 = 74;
    /// Authentication needs something that was not given.
    pub const AUTH_CANCELLED: i32 = 79;
    /// Not possible with this domain or hypervisor.
    pub const OPERATION_UNSUPPORTED: i32 = 84;
    /// The guest agent is not connected or does not answer.
    pub const AGENT_UNRESPONSIVE: i32 = 86;
    /// Access control of the daemon refused the user.
    pub const ACCESS_DENIED: i32 = 88;
    /// No authentication method is available.
    pub const AUTH_UNAVAILABLE: i32 = 94;
    /// No such checkpoint.
    pub const NO_DOMAIN_CHECKPOINT: i32 = 103;
    /// No backup job on this domain.
    pub const NO_DOMAIN_BACKUP: i32 = 104;
    /// The bitmap of a checkpoint is missing or broken.
    pub const CHECKPOINT_INCONSISTENT: i32 = 109;
    /// The guest agent did not answer a command in time.
    pub const AGENT_COMMAND_TIMEOUT: i32 = 112;
}

/// What libvirt said about a failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibvirtError {
    /// What went wrong: a `virErrorNumber`, see [`code`].
    pub code: i32,
    /// Which part of libvirt says so: a `virErrorDomain`.
    pub domain: i32,
    /// libvirt's own text.
    pub message: String,
    /// The errno of a failed system call, if libvirt told it.
    pub os_error: Option<i32>,
}

impl LibvirtError {
    /// The crate's error for it: kind by code, `operation` is what was being done.
    pub(crate) fn during(self, operation: impl Into<String>) -> Error {
        let kind = match self.code {
            code::NO_DOMAIN
            | code::NO_STORAGE_POOL
            | code::NO_STORAGE_VOL
            | code::NO_DOMAIN_CHECKPOINT
            | code::NO_DOMAIN_BACKUP => Kind::NotFound,
            code::OPERATION_TIMEOUT => Kind::Busy,
            code::NO_SUPPORT | code::CONFIG_UNSUPPORTED | code::ARGUMENT_UNSUPPORTED | code::OPERATION_UNSUPPORTED => {
                Kind::Unsupported
            }
            _ => Kind::Io,
        };
        Error::new(kind, operation).caused_by(self)
    }

    /// Whether the daemon does not know one of the flags it was called with: it is older than the flag.
    pub(crate) fn is_unknown_flag(&self) -> bool {
        // There is no code of its own for it; the text is the same in all releases, translated in none
        // of the daemon's usual locales.
        self.code == code::INVALID_ARG && self.message.contains("unsupported flags")
    }
}

impl fmt::Display for LibvirtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (libvirt error {})", self.message.trim_end(), self.code)
    }
}

impl StdError for LibvirtError {}

/// What libvirt said, if `error` or one of its causes came from libvirt.
pub fn cause_of(error: &Error) -> Option<&LibvirtError> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<LibvirtError>() {
            return Some(found);
        }
        next = cause.source();
    }
    None
}

/// libvirt's error code, if `error` or one of its causes came from libvirt.
pub fn code_of(error: &Error) -> Option<i32> {
    cause_of(error).map(|cause| cause.code)
}
