//! Where QEMU serves the disks of a job: in the domain's own directory, which the stock policies of AppArmor and SELinux
//! let it use, else in the scratch directory.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::process::geteuid;
use uuid::Uuid;

use crate::cli::backup::Backup;
use crate::commands::confined::Confined;
use crate::error::{Error, Kind};
use crate::host::ssh::can_forward;
use crate::host::{FileKind, Host};
use crate::libvirt::domain::Domain;
use crate::nbd::uri::MAX_SOCKET_PATH;
use crate::set::job_files;

/// The path of the job's socket, in a place that can have one. Warns where QEMU may not be allowed to make it there.
///
/// # Errors
/// [`Kind::Usage`] for a path that can't be, [`Kind::Busy`] for one that is taken.
pub fn path(domain: &Domain, args: &Backup, run: Uuid) -> Result<PathBuf> {
    let host = domain.host();
    let confined = Confined::of(&domain.xml(false)?)?;
    let socket = match &args.places.socketfile {
        // What is relative to a directory of this machine is nowhere on another.
        Some(path) if !host.is_local() && !path.is_absolute() => {
            return Err(Error::usage("the socket's path must be absolute: it is one of the host").path(path).into());
        }
        Some(path) => std::path::absolute(path)?,
        None => default_path(host, &args.places.scratchdir, &confined, run),
    };
    check_scratch(host, args)?;
    if socket.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(Error::usage(format!("the socket's path is longer than {MAX_SOCKET_PATH} bytes"))
            .path(socket)
            .hint("-f gives a shorter one")
            .into());
    }
    refuse_taken(host, &socket)?;
    if let Some((message, hint)) = confined.doubt(host, &socket) {
        tracing::warn!("{message}: {hint}");
    }
    Ok(socket)
}

/// Where the socket is without `-f`.
pub fn default_path(host: &Host, scratchdir: &Path, confined: &Confined, run: Uuid) -> PathBuf {
    let own = confined.own_directory(host).map(|directory| directory.join(job_files::socket_name(run)));
    // The domain's name is in it, whatever that is.
    own.filter(|path| path.as_os_str().len() <= MAX_SOCKET_PATH && (host.is_local() || can_forward(path)))
        .unwrap_or_else(|| scratchdir.join(job_files::socket_name(run)))
}

/// Makes sure that there is a scratch directory, as far as that can be seen.
///
/// # Errors
/// [`Kind::Usage`], [`Kind::NotFound`].
pub fn check_scratch(host: &Host, args: &Backup) -> Result<()> {
    if !args.places.scratchdir.is_absolute() {
        return Err(Error::usage("the scratch directory must be an absolute path: QEMU opens it")
            .path(&args.places.scratchdir)
            .into());
    }
    if host.is_open() && !host.file(&args.places.scratchdir).is_ok_and(|facts| facts.kind == FileKind::Directory) {
        return Err(Error::new(Kind::NotFound, "the scratch directory is not there")
            .path(&args.places.scratchdir)
            .hint("--scratchdir names another; QEMU's user must be able to write to it")
            .into());
    }
    Ok(())
}

/// Fails where the domain's QEMU runs as somebody else: its socket is that user's and root's. One that can't be seen
/// is nobody's.
///
/// # Errors
/// [`Kind::Unsupported`].
pub fn refuse_other_user(domain: Uuid) -> Result<()> {
    let user = geteuid();
    if user.is_root() {
        return Ok(());
    }
    match user_of(domain) {
        Some(other) if other != user.as_raw() => Err(Error::unsupported(format!(
            "the domain's QEMU runs as another user (uid {other}): its socket can't be opened"
        ))
        .hint("run the backup as root, or as that user")
        .into()),
        _ => Ok(()),
    }
}

/// Whose process the domain's QEMU is: libvirt starts it with `-uuid UUID`.
fn user_of(domain: Uuid) -> Option<u32> {
    let domain = domain.to_string();
    let is_its = |line: &[u8]| {
        let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        words.windows(2).any(|pair| pair[0] == b"-uuid" && pair[1].eq_ignore_ascii_case(domain.as_bytes()))
    };
    let mut processes = std::fs::read_dir("/proc").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let process = processes.find(|path| std::fs::read(path.join("cmdline")).is_ok_and(|line| is_its(&line)))?;
    Some(process.metadata().ok()?.uid())
}

/// QEMU removes whatever lies at the path of its socket: only one that nobody listens at may go.
fn refuse_taken(host: &Host, socket: &Path) -> Result<()> {
    let Ok(facts) = host.file(socket) else { return Ok(()) };
    let what = if facts.kind != FileKind::Socket {
        "exists and is not a socket"
    } else if host.listens(socket) {
        "somebody listens at this socket already: another backup, perhaps"
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Busy, what).path(socket).hint("choose another path with -f, or leave -f out").into())
}
