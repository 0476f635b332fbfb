//! What uses the disks while they are mapped: a command, nbdfuse, nbd-client, or nobody that we know.

use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Result;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::Place;
use super::boot::Guest;
use crate::cancel::Cancel;
use crate::child::end_within;
use crate::cli::map::Map;
use crate::error::{self, Error, Kind};
use crate::exit::Exit;

/// How often a child is looked at.
const TICK: Duration = Duration::from_millis(20);
/// Time for a child to end when asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// Refuses what can't work before anything is opened.
pub fn check(args: &Map) -> error::Result<()> {
    if let Some(directory) = &args.fuse {
        find("nbdfuse", "libnbd-bin; nbdfuse on newer systems")?;
        if !directory.is_dir() {
            return Err(Error::usage("is no directory").path(directory).hint("--fuse takes an existing directory"));
        }
    }
    if let Some(device) = &args.device {
        find("nbd-client", "nbd-client")?;
        if !device.exists() {
            return Err(Error::new(Kind::NotFound, "there is no such device")
                .path(device)
                .hint("`modprobe nbd` makes /dev/nbd0 and more; it needs root"));
        }
    }
    Ok(())
}

/// Fails unless a program is there.
fn find(program: &str, package: &str) -> error::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    if places.iter().any(|place| place.join(program).is_file()) {
        return Ok(());
    }
    Err(Error::new(Kind::NotFound, format!("the program {program} is missing"))
        .hint(format!("install it (Debian: the package {package})")))
}

/// What shows the disks while they are mapped.
pub enum User {
    /// Nobody that we know.
    Nobody,
    /// A command, which is not run yet.
    Command(String),
    /// Files.
    Fuse(Vec<Mount>),
    /// A device of the kernel.
    Device(Attached),
}

impl User {
    /// Shows the disks as the options say; afterwards they can be used.
    pub fn start(args: &Map, uris: &[(String, String)], place: &Place, stop: &Cancel) -> error::Result<Self> {
        if let Some(command) = &args.exec {
            return Ok(Self::Command(command.clone()));
        }
        if let Some(directory) = &args.fuse {
            return Ok(Self::Fuse(mount(args, directory, uris, stop)?));
        }
        if let Some(device) = &args.device {
            return Ok(Self::Device(attach(args, device, uris, place)?));
        }
        Ok(Self::Nobody)
    }

    /// Waits until the disks are not needed any more; the status to end with.
    pub fn wait(
        mut self,
        uris: &[(String, String)],
        place: &Place,
        guest: Option<&mut Guest>,
        stop: &Cancel,
    ) -> Result<Exit> {
        if let Self::Command(command) = &self {
            return exec(command, uris, place, guest.as_deref(), stop);
        }
        if let Some(guest) = guest {
            guest.wait(stop);
            return Ok(Exit::Done);
        }
        while !stop.is_cancelled() {
            if let Self::Fuse(mounts) = &mut self {
                mounts.iter_mut().try_for_each(Mount::look)?;
            }
            std::thread::sleep(TICK);
        }
        if let Self::Device(device) = self {
            device.detach()?;
        }
        Ok(Exit::Done)
    }
}

/// Runs the command of `--exec`.
fn exec(command: &str, uris: &[(String, String)], place: &Place, guest: Option<&Guest>, stop: &Cancel) -> Result<Exit> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command);
    if let Some((name, uri)) = uris.first() {
        shell.env("uri", uri).env("exportname", name);
    }
    for (name, uri) in uris {
        shell.env(format!("uri_{name}"), uri);
    }
    if let Some(path) = place.path() {
        shell.env("unixsocket", path);
    }
    if let Some(guest) = guest {
        shell.envs(guest.environment());
    }
    let mut child = shell.spawn().map_err(|error| Error::io("start sh", error))?;
    let status = watch(&mut child, stop)?;
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Passed(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    })
}

/// Waits for a child's end, which it is asked for once `stop` is set.
fn watch(child: &mut Child, stop: &Cancel) -> error::Result<ExitStatus> {
    let failed = |error| Error::io("wait for a command", error);
    while !stop.is_cancelled() {
        if let Some(status) = end_within(child, TICK).map_err(failed)? {
            return Ok(status);
        }
    }
    end(child, Signal::TERM).map_err(failed)
}

/// Asks a child to end; kills one that does not.
fn end(child: &mut Child, signal: Signal) -> std::io::Result<ExitStatus> {
    if let Some(process) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(process, signal);
    }
    if let Some(status) = end_within(child, PATIENCE)? {
        return Ok(status);
    }
    child.kill()?;
    child.wait()
}

/// A program that must not outlive this one.
fn bound(program: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["bound", &std::process::id().to_string(), program]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Shows each disk as a file.
fn mount(args: &Map, directory: &Path, uris: &[(String, String)], stop: &Cancel) -> error::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for (name, uri) in uris {
        mounts.push(Mount::new(directory, name, uri, args.writable || args.overlay.is_some())?);
    }
    for mount in &mut mounts {
        while !mount.is_seen() {
            stop.check()?;
            mount.look()?;
            std::thread::sleep(TICK);
        }
    }
    Ok(mounts)
}

/// A disk as a file: nbdfuse mounted on an empty file of ours.
pub struct Mount {
    child: Child,
    path: PathBuf,
    /// The empty file was made for it.
    made: bool,
}

impl Mount {
    fn new(directory: &Path, name: &str, uri: &str, writable: bool) -> error::Result<Self> {
        let path = directory.join(name);
        let made = match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => true,
            Err(_) if is_abandoned(&path) => {
                return Err(Error::new(Kind::Busy, "is a mount whose server is gone")
                    .hint(format!("fusermount3 -u {}", path.display()))
                    .path(path));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let is_empty = path.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == 0);
                if !is_empty {
                    return Err(Error::new(Kind::Busy, "exists and is no empty file")
                        .path(path)
                        .hint("--fuse takes an empty directory"));
                }
                false
            }
            Err(error) => return Err(Error::io("create", error).path(path)),
        };
        let mut command = bound("nbdfuse");
        if !writable {
            command.arg("-r");
        }
        let child = command.arg(&path).arg(uri).spawn();
        match child {
            Ok(child) => Ok(Self { child, path, made }),
            Err(error) => {
                if made {
                    let _ = std::fs::remove_file(&path);
                }
                Err(Error::io("start nbdfuse", error))
            }
        }
    }

    /// Whether the disk is there.
    fn is_seen(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|found| found.len() > 0)
    }

    /// Whether something is mounted there: also what nbdfuse left that was killed.
    fn is_mounted(&self) -> bool {
        self.is_seen() || is_abandoned(&self.path)
    }

    /// Fails once nbdfuse has ended.
    fn look(&mut self) -> error::Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Error::new(Kind::Io, format!("nbdfuse ended ({status})"))
                .path(&self.path)
                .hint("its message is above; FUSE needs /dev/fuse and the program fusermount3")),
            Err(error) => Err(Error::io("wait for nbdfuse", error)),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It unmounts by itself; what keeps the file open sees its end.
        let _ = end(&mut self.child, Signal::INT);
        if self.is_mounted() {
            let _ = Command::new("fusermount3").arg("-uz").arg(&self.path).stdin(Stdio::null()).status();
        }
        if self.made {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether a file is a FUSE mount that nobody serves any more.
fn is_abandoned(path: &Path) -> bool {
    std::fs::metadata(path).is_err_and(|error| error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()))
}

/// Attaches the disk to a device of the kernel.
fn attach(args: &Map, device: &Path, uris: &[(String, String)], place: &Place) -> error::Result<Attached> {
    let name = uris.first().map_or("", |(name, _)| name.as_str());
    let mut command = Command::new("nbd-client");
    match place.address() {
        None => command.arg("-unix").arg(place.path().unwrap_or(device)),
        Some(address) => command.arg(address.ip().to_string()).arg(address.port().to_string()),
    };
    command.arg(device).args(["-name", name, "-connections", "4"]);
    if !args.writable && args.overlay.is_none() {
        command.arg("-readonly");
    }
    run(&mut command, "nbd-client")?;
    tracing::info!("{} is disk {name}", device.display());
    Ok(Attached { device: device.to_owned(), is: true })
}

/// A device of the kernel that is the disk, until this is dropped.
pub struct Attached {
    device: PathBuf,
    is: bool,
}

impl Attached {
    /// Lets go of it. The kernel writes what it holds before, so the server must still be there.
    fn detach(mut self) -> error::Result<()> {
        self.is = false;
        run(Command::new("nbd-client").arg("-d").arg(&self.device), "nbd-client -d")
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.is {
            let _ = Command::new("nbd-client").arg("-d").arg(&self.device).stdin(Stdio::null()).status();
        }
    }
}

fn run(command: &mut Command, what: &str) -> error::Result<()> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| Error::io(&format!("start {what}"), error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(Kind::Io, format!("{what} failed: {}", said.trim()))
        .hint("the device needs root and the kernel's nbd module, and must be free"))
}
