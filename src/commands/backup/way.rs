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
        // They are opened on the domain's machine, and read through ssh.
        if !domain.host().is_open() {
            let message = format!("domain {} is off, and its images can't be got at", domain.name());
            return Err(Error::unsupported(message)
                .hint("let ssh log in there, see the warning above; or -S starts it, paused, for the backup")
                .into());
        }
        Ok(Self::Images)
    }
}
