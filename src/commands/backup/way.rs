//! How a run reads the disks of its domain.

use anyhow::Result;

use crate::error::Error;
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;

/// Where the disks are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// QEMU, by a backup job.
    Job,
    /// The images themselves: the domain is off.
    Images,
}

impl Way {
    /// The one for the domain as it is now.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) where neither works, with the remedy; by libvirt's
    /// code.
    pub fn of(connection: &Connection, domain: &Domain) -> Result<Self> {
        if domain.is_active()? {
            connection.require_backup(domain)?;
            return Ok(Self::Job);
        }
        // The one place that knows: images are opened on this machine.
        if !domain.host().is_local() {
            let message = format!("domain {} is off, and its images are on another machine", domain.name());
            return Err(Error::unsupported(message)
                .hint("-S starts it, paused, for the backup and ends it afterwards; or run virtkeep there")
                .into());
        }
        Ok(Self::Images)
    }
}
