//! What libvirt is told of a job: its XML.

use std::path::PathBuf;

use crate::error::Result;
use crate::libvirt::xml::{Element, path_text};

/// What a job exports, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSpec {
    /// Where the NBD server listens, on the daemon's host.
    pub server: Server,
    /// The disks to export.
    pub disks: Vec<BackupDisk>,
    /// The targets of all other disks of the domain.
    pub other_disks: Vec<String>,
}

/// Where the NBD server of a job listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// At a Unix socket, unique to the run.
    Unix(PathBuf),
    /// At an address of the host.
    Tcp {
        /// The address, or a name that the host knows.
        address: String,
        /// The port.
        port: u16,
        /// Only with TLS.
        tls: bool,
    },
}

/// A disk that a job exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupDisk {
    /// Target name.
    pub target: String,
    /// Name of the NBD export. Always given: the default is forgotten by a daemon that is restarted.
    pub export_name: String,
    /// The file that takes what the guest overwrites meanwhile; must not exist.
    pub scratch: PathBuf,
    /// What is exported beside the content.
    pub mode: BackupMode,
}

/// Whether the export tells what has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupMode {
    /// Content alone.
    Full,
    /// Content, and what has changed since a checkpoint, as the bitmap [`BackupDisk::bitmap_name`].
    Incremental {
        /// The checkpoint's name.
        from: String,
    },
}

impl BackupDisk {
    /// The name of the exported bitmap, see [`bitmap_name`].
    pub fn bitmap_name(&self) -> String {
        bitmap_name(&self.target)
    }
}

/// The name of a disk's exported bitmap: the meta context is `qemu:dirty-bitmap:` and this.
pub fn bitmap_name(target: &str) -> String {
    format!("backup-{target}")
}

impl BackupSpec {
    /// The job's XML.
    ///
    /// # Errors
    /// [`Usage`](crate::error::Kind::Usage) or [`Unsupported`](crate::error::Kind::Unsupported) for names and paths that libvirt can't be told.
    pub fn to_xml(&self) -> Result<String> {
        let server = self.server.element()?;
        let mut disks = Element::new("disks");
        for disk in &self.disks {
            disks = disks.with_child(disk.element()?);
        }
        for target in &self.other_disks {
            disks = disks.with_child(Element::new("disk").with("name", target)?.with("backup", "no")?);
        }
        Element::new("domainbackup").with("mode", "pull")?.with_child(server).with_child(disks).into_text()
    }
}

impl Server {
    fn element(&self) -> Result<Element<'static>> {
        let server = Element::new("server");
        match self {
            Self::Unix(socket) => server.with("transport", "unix")?.with("socket", path_text(socket)?),
            Self::Tcp { address, port, tls } => {
                let server = server.with("transport", "tcp")?.with("name", address)?.with("port", &port.to_string())?;
                if *tls { server.with("tls", "yes") } else { Ok(server) }
            }
        }
    }
}

impl BackupDisk {
    fn element(&self) -> Result<Element<'static>> {
        let disk = Element::new("disk").with("name", &self.target)?.with("backup", "yes")?.with("type", "file")?;
        let disk = match &self.mode {
            BackupMode::Full => disk.with("backupmode", "full")?,
            BackupMode::Incremental { from } => disk
                .with("backupmode", "incremental")?
                .with("incremental", from)?
                .with("exportbitmap", &self.bitmap_name())?,
        };
        Ok(disk
            .with("exportname", &self.export_name)?
            .with_child(Element::new("driver").with("type", "qcow2")?)
            .with_child(Element::new("scratch").with("file", path_text(&self.scratch)?)?))
    }
}
