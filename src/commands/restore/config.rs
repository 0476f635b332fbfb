//! The configuration beside the restored images: what it will be is settled before the first disk is
//! written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::phrases;
use super::source::Source;
use super::tpm;
use crate::cli::read::Restore;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::libvirt::domain_xml::{Adjustment, Device, DomainConfig, NewSource, adjust};
use crate::phrases::OWN;
use crate::set::config::ConfigFile;
use crate::set::manifest::Role;

/// Permissions of what QEMU only reads, which libvirt does not make its own.
const READABLE: u32 = 0o644;

/// Name of the domain's XML beside the images.
const CONFIG: &str = "vmconfig.xml";

/// Whether the options ask for more than a copy of the domain's XML.
pub fn is_adjusted(args: &Restore) -> bool {
    args.adjust_config || args.define || args.name.is_some()
}

/// The files to write into a directory.
#[derive(Debug, Default)]
pub struct Plan {
    files: Vec<File>,
    /// The domain's XML among them.
    xml: Option<PathBuf>,
    /// That one may be overwritten.
    replace_xml: bool,
    adjusted: Option<String>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    content: Vec<u8>,
    mode: u32,
}

impl File {
    fn private(path: PathBuf, content: Vec<u8>) -> Self {
        Self { path, content, mode: 0o600 }
    }
}

impl Plan {
    /// Reads the configuration of `source` and adjusts it, where asked, to the images in `restored`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where there is no XML to adjust; what is wrong with the set's files.
    pub fn new(
        args: &Restore,
        host: &Host,
        source: &Source,
        directory: &Path,
        restored: &BTreeMap<String, NewSource>,
    ) -> Result<Self> {
        let mut plan = Self::default();
        let firmware = plan.add_firmware(source, directory)?;
        let mut restored = restored.clone();
        if args.disk.is_empty() {
            plan.add_media(source, directory, &mut restored)?;
        }
        if !args.define {
            plan.add_tpm(source, directory)?;
        }
        for keys in source.files().iter().filter(|file| file.role == Role::RecoveryKeys) {
            tracing::info!("the guest's BitLocker recovery keys are in {}", keys.file.path().display());
        }
        let Some((text, config)) = source.domain()? else {
            return if is_adjusted(args) { Err(no_xml()) } else { Ok(plan) };
        };
        let xml = if is_adjusted(args) {
            let adjusted = adjust(&text, &adjustment(args, host, &config, &firmware, &restored))?;
            phrases::adjusting(args, &config, &restored, &adjusted.removed);
            for target in &adjusted.removed {
                tracing::warn!("disk {target} is not part of this restore and was removed from the configuration");
            }
            for note in &adjusted.notes {
                tracing::info!("{note}");
            }
            plan.adjusted = Some(adjusted.xml.clone());
            adjusted.xml
        } else {
            text
        };
        let path = directory.join(args.classic.config_name.as_deref().unwrap_or(Path::new(CONFIG)));
        plan.files.push(File::private(path.clone(), xml.into_bytes()));
        plan.xml = Some(path);
        plan.replace_xml = args.classic.replace_config;
        Ok(plan)
    }

    /// Copies of firmware variables, firmware, kernel and initrd, under their own names.
    fn add_firmware(&mut self, source: &Source, directory: &Path) -> Result<BTreeMap<&'static str, PathBuf>> {
        let mut placed = BTreeMap::new();
        for file in source.files() {
            let Some(key) = firmware_key(file.role) else { continue };
            let path = directory.join(original_name(file));
            let mode = if file.role == Role::Loader { READABLE } else { 0o600 };
            self.files.push(File { path: path.clone(), content: file.read()?, mode });
            placed.insert(key, path);
        }
        Ok(placed)
    }

    /// Copies of the media that were in removable drives, under their own names where nothing else has them.
    fn add_media(
        &mut self,
        source: &Source,
        directory: &Path,
        restored: &mut BTreeMap<String, NewSource>,
    ) -> Result<()> {
        for file in source.files().iter().filter(|file| file.role == Role::Medium) {
            let Some(target) = &file.disk else { continue };
            let own = directory.join(original_name(file));
            let taken = self.files.iter().any(|other| other.path == own)
                || restored.values().any(|other| other.is_at(&own))
                || own == directory.join(CONFIG);
            let path = if taken { directory.join(format!("{target}-{}", original_name(file))) } else { own };
            self.files.push(File::private(path.clone(), file.read()?));
            restored.insert(target.clone(), NewSource::file(path, "raw"));
        }
        Ok(())
    }

    /// The TPM's state, for whoever defines the domain by hand.
    fn add_tpm(&mut self, source: &Source, directory: &Path) -> Result<()> {
        for file in source.files().iter().filter(|file| file.role == Role::TpmState) {
            let origin = file.origin.as_deref().unwrap_or("libvirt's directory swtpm/UUID");
            tracing::info!("{}: unpack it in {origin} before the domain starts; -D does it", tpm::FILE);
            self.files.push(File::private(directory.join(tpm::FILE), file.read()?));
        }
        Ok(())
    }

    /// The adjusted XML.
    pub fn adjusted(&self) -> Option<&str> {
        self.adjusted.as_deref()
    }

    /// Makes sure that no other configuration is overwritten unasked.
    ///
    /// # Errors
    /// [`Kind::Busy`].
    pub fn check(&self, host: &Host, force: bool) -> Result<()> {
        let mut kept = self.files.iter().filter(|file| !force && !self.may_replace(&file.path));
        kept.try_for_each(|file| is_there(host, &file.path, &file.content).map(drop))
    }

    /// Writes the files; those that are there already stay.
    ///
    /// # Errors
    /// [`Kind::Busy`], [`Kind::Io`].
    pub fn write(&self, args: &Restore, host: &Host) -> Result<()> {
        for File { path, content, mode } in &self.files {
            if args.force || self.may_replace(path) || !is_there(host, path, content)? {
                host.write(path, content, *mode)?;
            }
            if self.xml.as_ref() == Some(path) {
                let what = if self.adjusted.is_some() { "Adjusted config" } else { "Domain XML" };
                tracing::info!(target: OWN, "{what} placed in: [{}]", path.display());
                match self.adjusted.is_some() {
                    true => phrases::adjusted_config(args, path),
                    false => phrases::copied_config(path),
                }
            }
        }
        Ok(())
    }

    fn may_replace(&self, path: &Path) -> bool {
        self.replace_xml && self.xml.as_deref() == Some(path)
    }
}

/// The error of a set without a domain XML, where one is needed.
pub fn no_xml() -> Error {
    Error::new(Kind::NotFound, "the set has no domain XML to adjust")
}

/// What changes in the domain's XML.
fn adjustment(
    args: &Restore,
    host: &Host,
    config: &DomainConfig,
    firmware: &BTreeMap<&'static str, PathBuf>,
    restored: &BTreeMap<String, NewSource>,
) -> Adjustment {
    // What the host has where the domain expects it stays there; what is missing comes from the set.
    let missing = |original: Option<&PathBuf>, role| {
        original.filter(|path| !host.exists(path).unwrap_or(true)).and_then(|_| firmware.get(role).cloned())
    };
    Adjustment {
        eject: missing_media(host, config, restored),
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
    }
}

/// The drives whose media are neither restored nor on the host.
fn missing_media(host: &Host, config: &DomainConfig, restored: &BTreeMap<String, NewSource>) -> BTreeSet<String> {
    let drives = config.disks.iter().filter(|disk| matches!(disk.device, Device::Cdrom | Device::Floppy));
    let is_missing = |path: &PathBuf| matches!(host.exists(path), Ok(false));
    drives
        .filter(|disk| !restored.contains_key(&disk.target) && disk.source.path().is_some_and(is_missing))
        .map(|disk| disk.target.clone())
        .collect()
}

/// Whether `path` has exactly this content: then a restore of another disk wrote it.
///
/// # Errors
/// [`Kind::Busy`] where it has another one.
fn is_there(host: &Host, path: &Path, content: &[u8]) -> Result<bool> {
    // A link that leads nowhere is in the way, too.
    let is_free = match host.is_local() {
        true => path.symlink_metadata().is_err(),
        false => !host.exists(path)?,
    };
    if is_free {
        return Ok(false);
    }
    if host.read(path, content.len() as u64).is_ok_and(|there| there == content) {
        return Ok(true);
    }
    Err(Error::new(Kind::Busy, "exists already, with other content")
        .path(path)
        .hint("choose another directory with -o, or overwrite it with --force"))
}

/// What a file of the firmware is called here; none of other files.
pub fn firmware_key(role: Role) -> Option<&'static str> {
    match role {
        Role::Nvram => Some("nvram"),
        Role::Loader => Some("loader"),
        Role::Kernel => Some("kernel"),
        Role::Initrd => Some("initrd"),
        _ => None,
    }
}

/// The name that the file had on the domain's host.
pub fn original_name(file: &ConfigFile) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    file.origin.as_ref().and_then(|origin| name(Path::new(origin))).unwrap_or_else(|| file.file.name().to_owned())
}
