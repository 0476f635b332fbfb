//! What virtnbdbackup says at each step of a backup, for the drop-in command: see [`crate::phrases`].

use std::path::Path;

use super::Context;
use super::plan::{Plan, PlannedDisk};
use super::way::Way;
use crate::cli::backup::{Backup, LevelArg};
use crate::libvirt::domain_xml::{Device, Disk};
use crate::phrases::{CLASSIC, size};
use crate::set::Level;
use crate::set::layout::{CHKSUM, checkpoint_position};
use crate::set::manifest::{Manifest, Role};

/// The directory does not suit the level.
pub fn level_refused(asked: LevelArg, directory: &Path, holds_data: bool) {
    let directory = directory.display();
    match asked {
        LevelArg::Auto => tracing::error!(
            target: CLASSIC,
            "Can't execute switch to auto incremental backup: specified target folder [{directory}] does not contain full \
             backup."
        ),
        LevelArg::Copy | LevelArg::Full if holds_data => {
            tracing::error!(target: CLASSIC, "Target directory already contains full or copy backup.");
        }
        LevelArg::Copy | LevelArg::Full => {}
        LevelArg::Inc | LevelArg::Diff => {
            let level = if asked == LevelArg::Inc { "inc" } else { "diff" };
            let text = "No full backup found in target directory";
            tracing::error!(target: CLASSIC, "Unable to execute [{level}] backup: {text}: [{directory}]");
        }
    }
}

/// The domain has a checkpoint of another tool.
pub fn foreign_checkpoint(name: &str) {
    let at = "root checkpoint - checkForeign";
    tracing::error!(target: CLASSIC, at, "Foreign checkpoint found: [{name}]");
    tracing::error!(target: CLASSIC, at, "This checkpoint has not been created by this utility.");
    tracing::error!(
        target: CLASSIC,
        at,
        "To ensure backup chain consistency, remove existing checkpoints and start a new backup chain by creating a \
         full backup."
    );
}

/// Nothing is left to back up.
pub fn no_disks() {
    tracing::error!(target: CLASSIC, "Unable to detect disks suitable for backup.");
}

/// The domain has a job.
pub fn busy(domain: &str) {
    tracing::error!(
        target: CLASSIC,
        "Active block job for running domain: Check with [virsh domjobinfo {domain}] or use option -k to kill the \
         active job."
    );
}

/// Something left a partial file.
pub fn partial_found(path: &Path) {
    let at = "root partialfile - exists";
    tracing::error!(target: CLASSIC, at, "Partial backup found in target directory: [{}]", path.display());
}

/// A disk must be full.
pub fn no_base(target: &str, reason: &str, checkpoint: Option<&str>) {
    let at = "root checkpoint - validate";
    tracing::warn!(target: CLASSIC, at, "Failed to validate checkpoint: [disk {target}: {reason}]");
    let (at, name) = ("root checkpoint - create", checkpoint.unwrap_or("none"));
    tracing::warn!(target: CLASSIC, at, "Checkpoint [{name}] is invalid, switching backup to full.");
}

/// A disk is left out as asked. virtnbdbackup warns of what `-x` names, which `--strict` counts.
pub fn not_wanted(args: &Backup, target: &str) {
    let at = "virt client - getDomainDisks";
    if args.exclude.iter().any(|excluded| excluded == target) {
        tracing::warn!(target: CLASSIC, at, "Excluding disk [{target}] from backup as requested");
    } else {
        let wanted = args.include.join(",");
        tracing::info!(target: CLASSIC, at, "Skipping disk: [{target}] as requested: does not match disk [{wanted}]");
    }
}

/// A drive for removable media is left out.
pub fn removable(disk: &Disk) {
    let (at, target) = ("root disktype - Optical", &disk.target);
    let device = if disk.device == Device::Floppy { "floppy" } else { "cdrom" };
    tracing::info!(target: CLASSIC, at, "Skipping attached [{device}] device: [{target}].");
}

/// A disk is left out that can't have a bitmap.
pub fn unsuitable(disk: &Disk, reason: &str, remedy: &str) {
    let (at, target) = ("root disktype - Raw", &disk.target);
    if disk.driver_format.as_deref() == Some("raw") {
        tracing::warn!(target: CLASSIC, at, "Raw disk [{target}] excluded by default, use option --raw to include.");
    } else {
        tracing::warn!(target: CLASSIC, at, "Excluding disk [{target}]: {reason}; {remedy}");
    }
}

/// The filesystems were not frozen.
pub fn not_frozen(reason: &str) {
    let at = "fs fs - freeze";
    tracing::warn!(target: CLASSIC, at, "argument unsupported: QEMU guest agent is not configured");
    tracing::debug!(target: CLASSIC, at, "filesystems are not frozen: {reason}");
}

/// The plan.
pub fn planned(args: &Backup, plan: &Plan) {
    tracing::info!(target: CLASSIC, "Backup will save [{}] attached disks.", plan.disks.len());
    if let Some(level) = args.compress {
        tracing::info!(target: CLASSIC, "Compression enabled, level [{level}]");
    }
    let base = plan.disks.iter().find_map(|disk| disk.base.as_ref()).map(|base| &base.checkpoint);
    let at = "root checkpoint - create";
    if plan.level == Level::Full {
        let at = "root checkpoint - removeAll";
        tracing::info!(target: CLASSIC, at, "Removing all existent checkpoints before full backup.");
    }
    if plan.level.needs_base() {
        let at = "root checkpoint - redefine";
        let path = plan.directory().join("checkpoints");
        tracing::info!(target: CLASSIC, at, "Loaded checkpoint list from: [{}]", path.display());
    }
    if let (Level::Diff, Some(base)) = (plan.level, base) {
        tracing::info!(target: CLASSIC, at, "Diff backup: saving delta since checkpoint: [{base}].");
    }
    if let Some(name) = plan.made_checkpoint() {
        if let (Level::Inc, Some(position)) = (plan.level, checkpoint_position(name)) {
            tracing::info!(target: CLASSIC, at, "Next checkpoint id: [{position}].");
        }
        if let Some(base) = base {
            tracing::info!(target: CLASSIC, at, "Parent checkpoint name [{base}].");
        }
        tracing::info!(target: CLASSIC, at, "Using checkpoint name: [{name}].");
    }
    if plan.way == Way::Job {
        endpoints(plan);
    }
    tracing::info!(
        target: CLASSIC,
        "Temporary scratch file target directory: [{}]",
        args.places.scratchdir.display()
    );
}

/// Where the disks can be read while the job runs.
pub fn endpoints(plan: &Plan) {
    tracing::info!(target: CLASSIC, "Local NBD Endpoint sockets:");
    for (disk, export) in plan.disks.iter().zip(plan.exports()) {
        tracing::info!(target: CLASSIC, "{}: [{}]", disk.target, export.uri);
    }
}

/// The job runs.
pub fn begun(plan: &Plan) {
    if let Some(name) = plan.made_checkpoint() {
        tracing::info!(target: CLASSIC, "Started backup job with checkpoint, saving information.");
        let path = plan.directory().join("checkpoints").join(format!("{name}.xml"));
        let at = "root checkpoint - backup";
        tracing::info!(target: CLASSIC, at, "Saving checkpoint config to: [{}]", path.display());
    }
}

/// A disk is about to be read.
pub fn connecting(disk: &PlannedDisk, uri: &str) {
    let (disk, at) = (disk.target.as_str(), "nbd client - connect");
    tracing::info!(target: CLASSIC, disk, at, "Waiting until NBD server at [{uri}] is up.");
}

/// A disk can be read.
pub fn connected(args: &Backup, disk: &PlannedDisk) {
    let (disk, at) = (disk.target.as_str(), "root extenthandler - queryBlockStatus");
    tracing::info!(target: CLASSIC, disk, at = "nbd client - connect", "Connection to NBD backend succeeded.");
    tracing::info!(target: CLASSIC, disk, at, "Start receiving backup extents.");
    if args.no_sparse_detection {
        tracing::info!(target: CLASSIC, disk, at, "Skipping detection of sparse/fstrimmed blocks.");
    }
}

/// What a disk's stream will have: so many extents and bytes of data, of `size_of_disk` bytes. Without a file it
/// goes into a zip archive.
pub fn extents(disk: &PlannedDisk, count: usize, data: u64, size_of_disk: u64, file: Option<&Path>) {
    let (incremental, verbatim) = (disk.base.is_some(), disk.verbatim);
    let (disk, at) = (disk.target.as_str(), "root disk - backup");
    let query = "root extenthandler - queryBlockStatus";
    tracing::info!(target: CLASSIC, disk, at = query, "Finished receiving extents.");
    if incremental && data > 0 {
        let at = "root extenthandler - overlap";
        let text = size(data);
        tracing::info!(target: CLASSIC, disk, at, "Detected {data} bytes [{text}] non-sparse blocks for current bitmap.");
    }
    tracing::info!(target: CLASSIC, disk, at, "Got {count} extents to backup.");
    tracing::info!(target: CLASSIC, disk, at, "{size_of_disk} bytes [{}] virtual disk size", size(size_of_disk));
    tracing::info!(target: CLASSIC, disk, at, "{data} bytes [{}] of data extents to backup", size(data));
    if incremental && data == 0 {
        tracing::info!(target: CLASSIC, disk, at, "No dirty blocks found");
    }
    let target_at = "root target - get";
    match file {
        Some(file) => {
            let file = file.display();
            tracing::info!(target: CLASSIC, disk, at = target_at, "Write data to target file: [{file}].");
        }
        None => tracing::info!(target: CLASSIC, disk, at = target_at, "Writing data to zip archive."),
    }
    let image = if verbatim { "full provisioned raw" } else { "thin provisioned stream" };
    tracing::info!(target: CLASSIC, disk, at, "Creating {image} backup image");
}

/// The log goes into the zip archive.
pub fn log_to_zip(name: &str) {
    tracing::info!(target: CLASSIC, at = "root metadata - addFiles", "Adding backup log [{name}] to zipfile");
}

/// All disks are read, the job is to end.
pub fn copied() {
    tracing::info!(target: CLASSIC, "Backup jobs finished, stopping backup task.");
}

/// The run is committed: its files have their names.
pub fn committed(run: &Context<'_>, manifest: &Manifest) {
    let layout = run.layout;
    // A member of a zip archive has no path.
    let path = |name: &str| match run.zip {
        Some(_) => format!("./{name}"),
        None => layout.directory().join(name).display().to_string(),
    };
    for disk in &manifest.disks {
        let (target, file) = (disk.target.as_str(), path(&disk.file));
        let at = "root disk - backup";
        tracing::info!(target: CLASSIC, disk = target, at, "Backup of disk [{target}] finished, file: [{file}]");
        if disk.raw {
            continue;
        }
        let at = "root metadata - backupChecksum";
        tracing::info!(target: CLASSIC, disk = target, at, "Checksum for file: [{file}]:[{}]", disk.adler32);
        tracing::info!(target: CLASSIC, disk = target, at, "Saving checksum to: [{file}{CHKSUM}]");
    }
    for file in &manifest.files {
        let path = path(&file.name);
        let boot = "root metadata - backupBootConfig";
        let boot_file = |what: &str| {
            tracing::info!(target: CLASSIC, at = boot, "Save additional boot config [{what}] to: [{path}]");
        };
        match file.role {
            Role::DomainXml => {
                let at = "root metadata - backupConfig";
                tracing::info!(target: CLASSIC, at, "Saving VM config to: [{path}]");
            }
            Role::ImageInfo => {
                let at = "root metadata - backupDiskInfo";
                tracing::info!(target: CLASSIC, at, "Saved qcow image config to: [{path}]");
            }
            Role::GuestInfo => {
                let at = "root metadata - backupGuestInfo";
                tracing::info!(target: CLASSIC, at, "Saved guest related osinfo to [{path}]");
            }
            Role::Loader => boot_file("loader"),
            Role::Nvram => boot_file("nvram"),
            Role::Kernel => boot_file("kernel"),
            Role::Initrd => boot_file("initrd"),
            _ => {}
        }
    }
    let total = manifest.disks.iter().map(|disk| disk.data_size).fold(0, u64::saturating_add);
    tracing::info!(target: CLASSIC, "Total saved disk data: [{}]", size(total));
    // With --strict a warning is the end of it.
    if !run.args.strict || run.session.log.warnings().is_empty() {
        tracing::info!(target: CLASSIC, "Finished successfully");
    }
}
