//! What virtnbdrestore says at each step, for the drop-in command: see [`crate::phrases`].

use std::collections::BTreeMap;
use std::path::Path;

use super::image::Target;
use crate::chain_device::ChainDevice;
use crate::cli::read::Restore;
use crate::libvirt::domain_xml::{DomainConfig, NewSource};
use crate::phrases::{CLASSIC, size};

/// A disk is about to be written.
pub fn writing(args: &Restore, chain: &ChainDevice, target: &Target) {
    let newest = chain.layers().first().map_or("", |layer| layer.meta().checkpoint_name.as_str());
    tracing::info!(
        target: CLASSIC,
        at = "root image - create",
        "Create virtual disk [{}] format: [{}] size: [{}] based on: [{newest}] preallocated: [{}]",
        target.path().display(),
        target.source().format,
        chain.size(),
        if args.preallocate { "True" } else { "False" }
    );
    if args.compress {
        tracing::info!(target: CLASSIC, "Using compression driver during restore");
    }
    for layer in chain.layers().iter().rev() {
        let (from, to) = (layer.path().display(), target.path().display());
        let at = "root data - _write";
        tracing::info!(target: CLASSIC, at, "Applying data from backup file [{from}] to target file [{to}].");
    }
}

/// A disk is written. Its streams were read together, not one after another.
pub fn written(args: &Restore, chain: &ChainDevice) {
    let at = "root data - _write";
    for layer in chain.layers().iter().rev() {
        let (path, bytes) = (layer.path().display(), layer.meta().data_size);
        if bytes == 0 {
            tracing::info!(target: CLASSIC, at, "File [{path}] contains no dirty blocks, skipping.");
        } else {
            tracing::info!(target: CLASSIC, at, "End of stream, [{}] of data processed", size(bytes));
        }
    }
    if let Some(until) = &args.until {
        tracing::info!(target: CLASSIC, at, "Reached checkpoint [{until}], stopping");
    }
}

/// The domain's XML of the point.
pub fn using_config(path: &Path) {
    tracing::info!(target: CLASSIC, "Using config file: [{}]", path.display());
}

/// What changes in the domain's XML; `restored` are the disks that it will have.
pub fn adjusting(args: &Restore, config: &DomainConfig, restored: &BTreeMap<String, NewSource>, removed: &[String]) {
    let at = "root vmconfig - adjust";
    for disk in &config.disks {
        let old = disk.source.path().map(|path| path.display().to_string()).unwrap_or_default();
        if let Some(new) = restored.get(&disk.target) {
            let (target, new) = (&disk.target, new.path.display());
            tracing::info!(target: CLASSIC, at, "Change target file for disk [{target}] from [{old}] to [{new}]");
        }
    }
    for target in removed {
        tracing::info!(target: CLASSIC, at, "Removing device [{target}], from vm config: user requested skipping.");
    }
    if let Some(name) = &args.name {
        let (at, old) = ("root vmconfig - setVMName", &config.name);
        match args.classic.prefix_name {
            true => tracing::info!(target: CLASSIC, at, "Change VM name from [{old}] to [{name}]"),
            false => tracing::info!(target: CLASSIC, at, "Set name from [{old}] to [{name}]"),
        }
        let at = "root vmconfig - removeUuid";
        tracing::info!(target: CLASSIC, at, "Removing uuid setting from vm config.");
        let at = "root vmconfig - removeMacAddress";
        tracing::info!(target: CLASSIC, at, "Removing mac address settings from vm config.");
    }
}

/// An image is there already.
pub fn exists(path: &Path) {
    let at = "root image - create";
    tracing::error!(target: CLASSIC, at, "Target file already exists: [{}], won't overwrite.", path.display());
}

/// The domain's XML is written as it was.
pub fn copied_config(path: &Path) {
    let at = "root vmconfig - restore";
    tracing::info!(target: CLASSIC, at, "Copied original vm config to [{}]", path.display());
    tracing::info!(target: CLASSIC, at, "Note: virtual machine config must be adjusted manually.");
}

/// The domain's XML is written for the restored images.
pub fn adjusted_config(args: &Restore, path: &Path) {
    let at = "root vmconfig - restore";
    tracing::info!(target: CLASSIC, at, "Adjusted config placed in: [{}]", path.display());
    let uri = args.hypervisor.uri.as_deref().unwrap_or_default();
    tracing::info!(target: CLASSIC, at, "Use 'virsh -c {uri} define {}' to define VM", path.display());
}

/// The domain is about to be defined.
pub fn defining() {
    let at = "virt client - defineDomain";
    tracing::info!(target: CLASSIC, at, "Redefining domain based on adjusted config.");
}

/// The domain can't be defined.
pub fn not_defined(error: &str) {
    tracing::error!(target: CLASSIC, at = "virt client - defineDomain", "Failed to define domain: [{error}]");
}

/// The domain is defined.
pub fn defined(name: &str) {
    let at = "virt client - defineDomain";
    tracing::info!(target: CLASSIC, at, "Successfully redefined domain [{name}]");
}
