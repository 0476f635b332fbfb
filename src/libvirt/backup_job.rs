//! A backup job in pull mode: QEMU serves the disks of one moment over NBD until the job is aborted.
//!
//! The job belongs to the domain, not to a connection: it outlives the client and the daemon. It is told
//! from another's by a mark in the names of its scratch files, which the caller makes unique: a socket can be
//! anybody's next. A foreign job is never aborted.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use virt_sys as c;

use super::sys::Value;
use super::xml::{self, Element, path_text};
use super::{Domain, code};
use crate::error::{Error, Kind, Result};
use crate::set::job_files;

/// How long an aborted job may take to go; 10 to 50 ms are usual, a busy host needs more.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to look whether it has gone.
const ABORT_POLL: Duration = Duration::from_millis(10);
/// Two nodes for each scratch file, and a daemon that died more than once.
const MAX_LEFTOVER_NODES: usize = 64;
/// The first release of libvirt that can keep a domain that shuts down during the job: 11.10.0.
pub const PRESERVE_SHUTDOWN_VERSION: u64 = 11_010_000;

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

impl BackupSpec {
    /// The job's XML.
    ///
    /// # Errors
    /// [`Kind::Usage`] or [`Kind::Unsupported`] for names and paths that libvirt can't be told.
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

/// Begins a job, and makes a checkpoint of the same moment if its XML is given. After an error nothing is
/// left behind: no job, no checkpoint, no scratch file.
///
/// With `preserve_on_shutdown` a domain that shuts down is kept, paused, until the job ends; a daemon that
/// can't do that is asked again without (see [`PRESERVE_SHUTDOWN_VERSION`]).
///
/// # Errors
/// [`Kind::Busy`] at once if another job runs: libvirt itself would wait for it for 30 seconds. Else by
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
        thread::sleep(ABORT_POLL);
    }
    Ok(sent)
}

#[cfg(test)]
mod unit {
    use super::*;

    fn spec() -> BackupSpec {
        let disk = |target: &str, mode| BackupDisk {
            target: target.into(),
            export_name: target.into(),
            scratch: format!("/abs/{target}.scratch").into(),
            mode,
        };
        BackupSpec {
            server: Server::Unix("/abs/x'&.sock".into()),
            disks: vec![disk("vda", BackupMode::Incremental { from: "cp1".into() }), disk("vdc", BackupMode::Full)],
            other_disks: vec!["hdx".into()],
        }
    }

    #[test]
    fn the_xml_names_every_disk() {
        let expected = "<domainbackup mode=\"pull\"><server transport=\"unix\" socket=\"/abs/x&apos;&amp;.sock\"/><disks>\
            <disk name=\"vda\" backup=\"yes\" type=\"file\" backupmode=\"incremental\" incremental=\"cp1\" \
            exportbitmap=\"backup-vda\" exportname=\"vda\"><driver type=\"qcow2\"/><scratch file=\"/abs/vda.scratch\"/></disk>\
            <disk name=\"vdc\" backup=\"yes\" type=\"file\" backupmode=\"full\" exportname=\"vdc\">\
            <driver type=\"qcow2\"/><scratch file=\"/abs/vdc.scratch\"/></disk>\
            <disk name=\"hdx\" backup=\"no\"/></disks></domainbackup>";
        assert_eq!(spec().to_xml().unwrap(), expected);
    }

    #[test]
    fn a_server_of_tcp_is_said_with_tls_or_without() {
        for (tls, attribute) in [(false, ""), (true, " tls=\"yes\"")] {
            let xml =
                BackupSpec { server: Server::Tcp { address: "::1".into(), port: 1, tls }, ..spec() }.to_xml().unwrap();
            let server = format!("<server transport=\"tcp\" name=\"::1\" port=\"1\"{attribute}/>");
            assert!(xml.contains(&server), "{xml}");
            assert_eq!(job_server(&xml).unwrap(), "address ::1 port 1");
        }
    }

    #[test]
    fn a_job_is_told_by_its_scratch_files() {
        let xml = spec().to_xml().unwrap();
        assert_eq!(job_server(&xml).unwrap(), "socket \"/abs/x'&.sock\"");
        assert!(job_is_ours(&xml, "vdc."));
        // A directory's name and the socket's are no mark.
        for (xml, mark) in [(xml.as_str(), "abs"), (&xml, "sock"), ("", "vda"), ("<domainbackup/>", ""), ("<x/>", "")] {
            assert!(!job_is_ours(xml, mark), "{xml} {mark}");
        }
    }
}
