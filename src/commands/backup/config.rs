//! What is needed to rebuild the domain, beside the data.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::plan::Plan;
use super::{bitlocker, media, tpm};
use crate::cancel::Cancel;
use crate::cli::backup::Guest;
use crate::commands::link::Reached;
use crate::error::{self, Error};
use crate::host::Host;
use crate::libvirt::agent;
use crate::libvirt::checkpoint;
use crate::libvirt::domain::{Domain, State};
use crate::set::Level;
use crate::set::config::MAX_SIZE;
use crate::set::manifest::{FileRecord, Role};

/// An agent that does not answer by then is not worth waiting for.
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);

/// A file to be written into the set.
#[derive(Debug, Clone)]
pub struct Extra {
    /// How the manifest will list it.
    pub record: FileRecord,
    /// Its bytes.
    pub content: Vec<u8>,
}

impl Extra {
    /// A file with `content`.
    pub fn new(name: impl Into<String>, role: Role, content: Vec<u8>) -> Self {
        Self { record: FileRecord::of(name, role, &content), content }
    }
}

/// Gathers the domain's configuration. What can't be read is a warning: the data is worth more.
pub fn gather(reached: &Reached, plan: &Plan, options: &Guest, cancel: &Cancel) -> Result<Vec<Extra>> {
    let (domain, ident) = (&reached.domain, &plan.ident);
    let mut files = Vec::new();
    // First, as it belongs to the moment of the disks.
    files.extend(tpm::state(domain.host(), &plan.intent.uri, &plan.config, ident));
    let xml = domain.xml(domain.is_persistent()?)?;
    files.push(Extra::new(format!("vmconfig.{ident}.xml"), Role::DomainXml, xml.into_bytes()));
    files.extend(image_infos(plan));
    files.extend(firmware(domain.host(), plan));
    if domain.autostart()? {
        files.push(Extra::new(format!("autostart.{ident}"), Role::Autostart, b"True\n".to_vec()));
    }
    if let Some(name) = plan.made_checkpoint() {
        let made = checkpoint::list(domain)?.into_iter().find(|checkpoint| checkpoint.name == name);
        let made =
            made.ok_or_else(|| Error::incomplete(format!("checkpoint {name} of this run is gone from the domain")))?;
        // The old chain's checkpoints go with the commit: naming one as the parent, the XML could not be
        // redefined by virtnbdbackup, which takes it as it is.
        let xml = if plan.level == Level::Full { made.root_xml()? } else { made.xml };
        files.push(Extra::new(format!("checkpoints/{name}.xml"), Role::CheckpointXml, xml.into_bytes()));
    }
    if options.include_cdrom {
        files.extend(media::images(reached, &plan.config, ident));
    }
    let info = guest_info(domain);
    if options.bitlocker_keys {
        let system = info.as_ref().and_then(|info| info.get("os.id")?.as_str());
        files.extend(bitlocker::keys(domain, system, ident, cancel));
    }
    files
        .extend(info.map(|info| Extra::new(format!("osinfo.{ident}"), Role::GuestInfo, info.to_string().into_bytes())));
    Ok(files)
}

fn image_infos(plan: &Plan) -> impl Iterator<Item = Extra> {
    plan.disks.iter().filter_map(|disk| {
        // Of a raw image there is nothing to tell, and virtnbdbackup saves nothing.
        let info = disk.info.as_ref().filter(|_| !disk.raw)?;
        let name = format!("{}.{}.qcow.json", disk.target, plan.ident);
        let mut extra = Extra::new(name, Role::ImageInfo, info.json.clone().into_bytes());
        extra.record = extra.record.of_disk(&disk.target).copied_from(&disk.image.to_string_lossy());
        Some(extra)
    })
}

fn firmware(host: &Host, plan: &Plan) -> Vec<Extra> {
    let config = &plan.config;
    let nvram = config.nvram.as_ref().and_then(|nvram| nvram.path.clone());
    let parts: [(Role, Option<PathBuf>); 5] = [
        (Role::Loader, config.loader.clone()),
        (Role::Nvram, nvram),
        (Role::Nvram, config.varstore.clone()),
        (Role::Kernel, config.kernel.clone()),
        (Role::Initrd, config.initrd.clone()),
    ];
    let mut files: Vec<Extra> = Vec::new();
    for (role, path) in parts {
        let Some(path) = path else { continue };
        match firmware_file(host, plan, role, &path) {
            // Two of the same name would overwrite each other.
            Ok(extra) if files.iter().all(|other| other.record.name != extra.record.name) => files.push(extra),
            Ok(extra) => tracing::warn!("{}: a second file of that name is not saved", extra.record.name),
            Err(error) => {
                tracing::warn!("not saved, the restored domain will need it: {}", error::report(&error))
            }
        }
    }
    files
}

fn firmware_file(host: &Host, plan: &Plan, role: Role, path: &Path) -> error::Result<Extra> {
    let content = host.read(path, MAX_SIZE)?;
    let base = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = if plan.ident == "copy" { base } else { format!("{base}.{}", plan.ident) };
    let mut extra = Extra::new(name, role, content);
    extra.record = extra.record.copied_from(&path.to_string_lossy());
    Ok(extra)
}

fn guest_info(domain: &Domain) -> Option<serde_json::Value> {
    if !matches!(domain.state(), Ok(State::Running)) {
        return None;
    }
    match agent::guest_info(domain, AGENT_TIMEOUT) {
        Ok(info) => Some(info),
        Err(error) => {
            tracing::debug!("no guest information: {}", error::report(&error));
            None
        }
    }
}
