//! The configuration beside the restored images, and defining the domain.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::source::Source;
use crate::cli::read::Restore;
use crate::commands::connect;
use crate::error::{Error, Kind};
use crate::libvirt::domain_xml::{Adjustment, NewSource, adjust};
use crate::set::config::ConfigFile;
use crate::set::layout::write_atomically;
use crate::set::manifest::Role;

/// Name of the domain's XML beside the images.
const CONFIG: &str = "vmconfig.xml";

/// Writes the configuration, adjusted where asked, and defines the domain where asked.
pub fn restore(args: &Restore, source: &Source, restored: &BTreeMap<String, NewSource>) -> Result<()> {
    // A device has no place beside it.
    let directory = if args.output.is_dir() { std::path::absolute(&args.output)? } else { return Ok(()) };
    let firmware = copy_firmware(args, source, &directory)?;
    let Some((text, config)) = source.domain()? else {
        return if args.define || args.adjust_config {
            Err(Error::new(Kind::NotFound, "the set has no domain XML to adjust").into())
        } else {
            Ok(())
        };
    };
    if !(args.adjust_config || args.define || args.name.is_some()) {
        let path = directory.join(CONFIG);
        write_config(args, &path, text.as_bytes())?;
        tracing::info!("Domain XML placed in: [{}]", path.display());
        return Ok(());
    }
    // What the host has where the domain expects it stays there; what is missing comes from the set.
    let missing = |original: Option<&PathBuf>, role| {
        original.filter(|path| !path.exists()).and_then(|_| firmware.get(role).cloned())
    };
    let plan = Adjustment {
        name: args.name.clone(),
        drop_uuid: args.name.is_some(),
        drop_mac: args.name.is_some(),
        disks: restored.clone(),
        loader: missing(config.loader.as_ref(), "loader"),
        // The variables belong to the domain: the restored ones, not what lies on the host.
        nvram: config.nvram.as_ref().and_then(|_| firmware.get("nvram").cloned()),
        kernel: missing(config.kernel.as_ref(), "kernel"),
        initrd: missing(config.initrd.as_ref(), "initrd"),
        varstore: config.varstore.as_ref().and_then(|_| firmware.get("nvram").cloned()),
    };
    let adjusted = adjust(&text, &plan)?;
    for target in &adjusted.removed {
        tracing::warn!("disk {target} is not part of this restore and was removed from the configuration");
    }
    for note in &adjusted.notes {
        tracing::info!("{note}");
    }
    let path = directory.join(CONFIG);
    write_config(args, &path, adjusted.xml.as_bytes())?;
    tracing::info!("Adjusted config placed in: [{}]", path.display());
    if args.define {
        define(args, source, &adjusted.xml)?;
    }
    Ok(())
}

fn define(args: &Restore, source: &Source, xml: &str) -> Result<()> {
    let connection = connect::open(&args.hypervisor)?;
    let domain = connection.define(xml).map_err(|error| {
        error.hint("the images and the adjusted XML are restored: correct the XML and `virsh define` it, or choose a free name with -N")
    })?;
    if source.files().iter().any(|file| file.role == Role::Autostart) && args.name.is_none() {
        domain.set_autostart(true)?;
    }
    tracing::info!("domain {} is defined", domain.name());
    Ok(())
}

/// Makes sure that no configuration is overwritten unasked, before the first disk is written.
pub fn refuse_existing(args: &Restore, source: &Source) -> Result<()> {
    if args.force || !args.output.is_dir() {
        return Ok(());
    }
    let xml = source.files().iter().any(|file| file.role == Role::DomainXml).then(|| CONFIG.to_owned());
    let firmware = source.files().iter().filter(|file| firmware_key(file.role).is_some()).map(original_name);
    firmware.chain(xml).try_for_each(|name| refuse(&args.output.join(name)))
}

fn refuse(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    Err(Error::new(Kind::Busy, "exists already")
        .path(path)
        .hint("choose another directory with -o, or overwrite it with --force")
        .into())
}

/// What a file of the firmware is called here; none of other files.
fn firmware_key(role: Role) -> Option<&'static str> {
    match role {
        Role::Nvram => Some("nvram"),
        Role::Loader => Some("loader"),
        Role::Kernel => Some("kernel"),
        Role::Initrd => Some("initrd"),
        _ => None,
    }
}

/// Copies firmware variables, firmware, kernel and initrd into the directory, under their own names.
fn copy_firmware(args: &Restore, source: &Source, directory: &Path) -> Result<BTreeMap<&'static str, PathBuf>> {
    let mut placed = BTreeMap::new();
    for file in source.files() {
        let Some(key) = firmware_key(file.role) else { continue };
        let path = directory.join(original_name(file));
        write_config(args, &path, &file.read()?)?;
        placed.insert(key, path);
    }
    Ok(placed)
}

fn original_name(file: &ConfigFile) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    file.origin.as_ref().and_then(|origin| name(Path::new(origin))).or_else(|| name(&file.path)).unwrap_or_default()
}

fn write_config(args: &Restore, path: &Path, content: &[u8]) -> Result<()> {
    if !args.force {
        refuse(path)?;
    }
    Ok(write_atomically(path, content)?)
}
