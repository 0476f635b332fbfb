//! Block devices that a restore writes to: what may be in the way is found before the first byte is written.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::units::{MIB, format_bytes};

/// The parts of a device that are looked at, at its begin and at its end: partition tables, volume labels and
/// file systems have their signatures there.
const EDGE: u64 = MIB;

/// How often a device that another process has open is looked at again: udev has it open for a moment whenever it
/// changes.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// What tells a device apart whatever its path.
pub fn identity(path: &Path) -> Result<u64> {
    Ok(path.metadata().map_err(|error| Error::io("open", error).path(path))?.rdev())
}

/// Fails unless a disk of `size` bytes can go onto the device at `path`.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::Usage`] for no block device and one that is too small; [`Kind::Busy`] for one that
/// is in use, and, without `force`, for one that is not empty.
pub fn check(path: &Path, size: u64, force: bool) -> Result<()> {
    let metadata = path.metadata().map_err(|error| Error::io("open", error).path(path))?;
    if !metadata.file_type().is_block_device() {
        return Err(Error::usage("is no block device").path(path).hint("-o takes files and directories"));
    }
    let mut device = open(path)?;
    let room = device.seek(SeekFrom::End(0)).map_err(|error| Error::io("ask for the size", error).path(path))?;
    if room < size {
        return Err(Error::usage(format!("the device has {room} bytes, the disk needs {size}"))
            .path(path)
            .hint("choose a device that is at least as large"));
    }
    refuse_open(path, metadata.rdev())?;
    if !force && !is_empty(&mut device, room).map_err(|error| Error::io("read", error).path(path))? {
        return Err(Error::new(Kind::Busy, "the device is not empty: there is data in its first or last MiB")
            .path(path)
            .hint("look what it is (blkid, lsblk -f); --force overwrites it"));
    }
    if room > size {
        tracing::info!(
            "{}: the device is larger than the disk; its last {} stay as they are",
            path.display(),
            format_bytes(room - size)
        );
    }
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    // On a device this means: not while it is mounted or part of another one.
    let exclusive = rustix::fs::OFlags::EXCL.bits() as i32;
    OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(path).map_err(|error| {
        match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => Error::new(Kind::Busy, "the device is in use: mounted, or part of another device")
                .path(path)
                .hint("unmount it, or choose another one; --force does not change that"),
            Some(Errno::ROFS | Errno::PERM | Errno::ACCESS) => {
                Error::io("open for writing", error).path(path).hint("the device must be writable for this user")
            }
            _ => Error::io("open", error).path(path),
        }
    })
}

fn is_empty(device: &mut File, size: u64) -> std::io::Result<bool> {
    let mut buffer = Vec::new();
    for start in [0, size.saturating_sub(EDGE)] {
        device.seek(SeekFrom::Start(start))?;
        buffer.clear();
        device.by_ref().take(EDGE).read_to_end(&mut buffer)?;
        if buffer.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// QEMU opens devices without claiming them, and under libvirt by nodes of its own, on which its locks can't be
/// seen: a running domain shows only by what its process has open.
fn refuse_open(path: &Path, device: u64) -> Result<()> {
    let mut user = user(device);
    for _ in 0..TRIES {
        if user.is_none() {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
        user = self::user(device);
    }
    match user {
        None => Ok(()),
        Some(user) => Err(Error::new(Kind::Busy, format!("the device is in use by {user}"))
            .path(path)
            .hint("shut the domain down, or end what uses it; --force does not change that")),
    }
}

/// A process that has the device open, as far as this user may know.
fn user(device: u64) -> Option<String> {
    let own = std::process::id().to_string();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let mut files = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let is_it = |path: PathBuf| {
            // Files of a server that does not answer are not to be asked.
            path.read_link().is_ok_and(|link| link.starts_with("/dev"))
                && path.metadata().is_ok_and(|found| found.file_type().is_block_device() && found.rdev() == device)
        };
        if files.any(|file| is_it(file.path())) {
            let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("process {name} ({})", command.trim()));
        }
    }
    None
}
