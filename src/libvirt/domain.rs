//! A domain: what it is, its state, and the few things a backup does to it.

use std::fmt;
use std::path::PathBuf;

use virt_sys as c;

use super::connection::volume_found;
use super::domain_xml::{Disk, Source};
use super::{code, sys, xml};
use crate::error::{Error, Result};
use crate::host::Host;

/// Most disks of one domain whose errors are asked for.
const MAX_DISKS: usize = 256;

/// A domain of a connection, which it keeps open; may be used from several threads at once.
pub struct Domain {
    pub(super) sys: sys::Dom,
    name: String,
    uuid: String,
    host: Host,
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("name", &self.name).field("uuid", &self.uuid).finish_non_exhaustive()
    }
}

/// What a domain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its guest runs.
    Running,
    /// It holds its memory, but the guest does not run.
    Paused(PauseReason),
    /// The guest is on its way down.
    ShuttingDown,
    /// There is no process.
    ShutOff,
    /// It crashed.
    Crashed,
    /// The guest has suspended itself.
    Suspended,
    /// None that this program knows.
    Unknown(i32),
}

/// Why a domain is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseReason {
    /// Somebody asked for it.
    User,
    /// A disk met an error: the scratch file of a backup job out of space, for one.
    IoError,
    /// It shuts down, or has shut down and is kept for a backup job.
    ShuttingDown,
    /// It is being started.
    StartingUp,
    /// Any other: libvirt's `virDomainPausedReason`.
    Other(i32),
}

impl State {
    fn from_libvirt(state: i32, reason: i32) -> Self {
        match u32::try_from(state).unwrap_or(u32::MAX) {
            c::VIR_DOMAIN_RUNNING | c::VIR_DOMAIN_BLOCKED => Self::Running,
            c::VIR_DOMAIN_PAUSED => Self::Paused(match u32::try_from(reason).unwrap_or(u32::MAX) {
                c::VIR_DOMAIN_PAUSED_USER => PauseReason::User,
                c::VIR_DOMAIN_PAUSED_IOERROR => PauseReason::IoError,
                c::VIR_DOMAIN_PAUSED_SHUTTING_DOWN => PauseReason::ShuttingDown,
                c::VIR_DOMAIN_PAUSED_STARTING_UP => PauseReason::StartingUp,
                _ => PauseReason::Other(reason),
            }),
            c::VIR_DOMAIN_SHUTDOWN => Self::ShuttingDown,
            c::VIR_DOMAIN_SHUTOFF => Self::ShutOff,
            c::VIR_DOMAIN_CRASHED => Self::Crashed,
            c::VIR_DOMAIN_PMSUSPENDED => Self::Suspended,
            _ => Self::Unknown(state),
        }
    }
}

/// Why a domain is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// Its guest shut down.
    ShutDown,
    /// It was ended from outside.
    Destroyed,
    /// Its QEMU ended without a word.
    Crashed,
    /// It runs on another host now.
    Migrated,
    /// Its memory was saved.
    Saved,
    /// Any other, and of a domain that is not known any more.
    Other,
}

impl Off {
    fn from_libvirt(reason: i32) -> Self {
        match u32::try_from(reason).unwrap_or(u32::MAX) {
            c::VIR_DOMAIN_SHUTOFF_SHUTDOWN => Self::ShutDown,
            c::VIR_DOMAIN_SHUTOFF_DESTROYED => Self::Destroyed,
            c::VIR_DOMAIN_SHUTOFF_CRASHED => Self::Crashed,
            c::VIR_DOMAIN_SHUTOFF_MIGRATED => Self::Migrated,
            c::VIR_DOMAIN_SHUTOFF_SAVED => Self::Saved,
            _ => Self::Other,
        }
    }
}

/// An error that QEMU met on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskError {
    /// Its file system is full.
    NoSpace,
    /// Any other.
    Unspecified,
}

impl Domain {
    pub(super) fn new(sys: sys::Dom, host: Host) -> Result<Self> {
        let name = sys.name().map_err(|error| error.during("ask for the domain's name"))?;
        let uuid = sys.uuid().map_err(|error| error.during("ask for the domain's UUID"))?;
        Ok(Self { sys, name, uuid, host })
    }

    /// The machine that it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its UUID, in the usual form with lower-case digits.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Says what was tried on which domain.
    pub(super) fn during<T>(&self, operation: &str, result: sys::Result<T>) -> Result<T> {
        result.map_err(|error| error.during(format!("domain {}: {operation}", self.name)))
    }

    /// What it is doing now.
    ///
    /// # Errors
    /// By libvirt's code, as with all that follow: the domain is gone, the connection is lost.
    pub fn state(&self) -> Result<State> {
        let (state, reason) = self.during("ask for the state", self.sys.state())?;
        Ok(State::from_libvirt(state, reason))
    }

    /// Why it is off; none while it has a process. A transient domain that is off is not known any more.
    pub fn why_off(&self) -> Result<Option<Off>> {
        let (state, reason) = match self.sys.state() {
            Err(error) if error.code == code::NO_DOMAIN => return Ok(Some(Off::Other)),
            other => self.during("ask for the state", other)?,
        };
        Ok(match State::from_libvirt(state, reason) {
            State::ShutOff => Some(Off::from_libvirt(reason)),
            State::Crashed => Some(Off::Crashed),
            _ => None,
        })
    }

    /// Its XML: as it runs now, or as it will be started next (`inactive`).
    pub fn xml(&self, inactive: bool) -> Result<String> {
        let flags = if inactive { c::VIR_DOMAIN_XML_INACTIVE } else { 0 };
        self.during("read the XML", self.sys.xml(flags))
    }

    /// Whether it has a process, its guest running or paused.
    pub fn is_active(&self) -> Result<bool> {
        self.during("ask whether it runs", self.sys.is_active())
    }

    /// libvirt's number for this start of the domain; none while it is off. The same one may come again only
    /// after the daemon was restarted.
    ///
    /// # Errors
    /// By libvirt's code.
    pub fn instance(&self) -> Result<Option<String>> {
        // The library's own look-up answers from memory.
        Ok(xml::parse(&self.xml(false)?, "domain")?.root.attribute("id"))
    }

    /// Whether it is still known after it stops.
    pub fn is_persistent(&self) -> Result<bool> {
        self.during("ask whether it is persistent", self.sys.is_persistent())
    }

    /// Whether the guest's memory was saved when it was stopped: the next start goes on from there, with
    /// filesystems that are open.
    pub fn has_managed_save(&self) -> Result<bool> {
        self.during("ask for a saved state", self.sys.has_managed_save())
    }

    /// Where the image of one of its disks is on its host; a volume is looked up in its pool.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) for a disk that has none,
    /// [`Kind::NotFound`](crate::error::Kind::NotFound) for a volume that is not there.
    pub fn image(&self, disk: &Disk) -> Result<PathBuf> {
        match &disk.source {
            Source::File(path) | Source::Block(path) => Ok(path.clone()),
            Source::Volume { pool, volume } => {
                volume_found(pool, volume, self.sys.volume_path(pool, volume)).map_err(|error| error.disk(&disk.target))
            }
            _ => Err(Error::unsupported("has no local image").disk(&disk.target)),
        }
    }

    /// Whether it is started with the host.
    pub fn autostart(&self) -> Result<bool> {
        self.during("ask whether it is started with the host", self.sys.autostart())
    }

    /// Says whether it is started with the host.
    pub fn set_autostart(&self, autostart: bool) -> Result<()> {
        self.during("set autostart", self.sys.set_autostart(autostart))
    }

    /// Starts it without letting the guest run. With `autodestroy` it ends with the connection, should
    /// this process die.
    pub fn start_paused(&self, autodestroy: bool) -> Result<()> {
        let autodestroy = if autodestroy { c::VIR_DOMAIN_START_AUTODESTROY } else { 0 };
        self.during("start paused", self.sys.create(c::VIR_DOMAIN_START_PAUSED | autodestroy))
    }

    /// Lets the guest run again.
    pub fn resume(&self) -> Result<()> {
        self.during("resume", self.sys.resume())
    }

    /// Stops the guest's processors.
    pub fn suspend(&self) -> Result<()> {
        self.during("suspend", self.sys.suspend())
    }

    /// Ends it at once, as if its plug were pulled.
    pub fn destroy(&self) -> Result<()> {
        self.during("destroy", self.sys.destroy())
    }

    /// Forgets its definition with what belongs to it (checkpoints, managed save); NVRAM is kept.
    pub fn undefine(&self) -> Result<()> {
        let flags = c::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | c::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | c::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM;
        self.during("undefine", self.sys.undefine(flags))
    }

    /// The disks on which QEMU has met an error, by target. Without any, and for a domain that is off,
    /// the list is empty.
    pub fn disk_errors(&self) -> Result<Vec<(String, DiskError)>> {
        let errors = match self.sys.disk_errors(MAX_DISKS) {
            Err(error) if error.code == code::OPERATION_INVALID => Vec::new(),
            other => self.during("ask for disk errors", other)?,
        };
        let name = |error| if error == 2 { DiskError::NoSpace } else { DiskError::Unspecified };
        Ok(errors.into_iter().map(|(target, error)| (target, name(error))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::libvirt::{Connection, code_of};

    #[test]
    fn states_are_named() {
        for (numbers, state) in [
            ((1, 5), State::Running),
            ((3, 5), State::Paused(PauseReason::IoError)),
            ((3, 8), State::Paused(PauseReason::ShuttingDown)),
            ((3, 99), State::Paused(PauseReason::Other(99))),
            ((5, 1), State::ShutOff),
            ((-1, 0), State::Unknown(-1)),
        ] {
            assert_eq!(State::from_libvirt(numbers.0, numbers.1), state);
        }
        for (reason, off) in
            [(1, Off::ShutDown), (2, Off::Destroyed), (3, Off::Crashed), (7, Off::Other), (-1, Off::Other)]
        {
            assert_eq!(Off::from_libvirt(reason), off);
        }
    }

    #[test]
    fn the_test_domain_is_suspended_and_resumed() {
        let connection = Connection::open("test:///default", None).unwrap();
        let domain = connection.domain("test").unwrap();
        drop(connection);
        assert_eq!(domain.state().unwrap(), State::Running);
        domain.suspend().unwrap();
        assert_eq!(domain.state().unwrap(), State::Paused(PauseReason::User));
        domain.resume().unwrap();
        assert!(domain.is_persistent().unwrap() && !domain.autostart().unwrap());
        assert!(domain.xml(true).unwrap().contains("<name>test</name>"));
    }

    #[test]
    fn a_call_that_the_driver_lacks_is_unsupported() {
        let domain = Connection::open("test:///default", None).unwrap().domain("test").unwrap();
        let error = domain.during("abort", domain.sys.abort_job()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert_eq!(code_of(&error), Some(code::NO_SUPPORT));
    }
}
