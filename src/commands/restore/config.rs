//! The configuration beside the restored images: what it will be is settled before the first disk is
//! written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::phrases;
use super::source::Source;
use crate::cli::read::Restore;
use crate::error::{Error, Kind, Result};
use crate::libvirt::domain_xml::{Adjustment, DomainConfig, NewSource, adjust};
use crate::phrases::OWN;
use crate::set::config::ConfigFile;
use crate::set::layout::write_atomically;
use crate::set::manifest::Role;

/// Name of the domain's XML beside the images.
const CONFIG: &str = "vmconfig.xml";

/// Whether the options ask for more than a copy of the domain's XML.
pub fn is_adjusted(args: &Restore) -> bool {
    args.adjust_config || args.define || args.name.is_some()
}

/// The files to write into a directory.
#[derive(Debug, Default)]
pub struct Plan {
    files: Vec<(PathBuf, Vec<u8>)>,
    /// The domain's XML among them.
    xml: Option<PathBuf>,
    /// That one may be overwritten.
    replace_xml: bool,
    adjusted: Option<String>,
}

impl Plan {
    /// Reads the configuration of `source` and adjusts it, where asked, to the images in `restored`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where there is no XML to adjust; what is wrong with the set's files.
    pub fn new(
        args: &Restore,
        source: &Source,
        directory: &Path,
        restored: &BTreeMap<String, NewSource>,
    ) -> Result<Self> {
        let mut plan = Self::default();
        let firmware = plan.add_firmware(source, directory)?;
        let Some((text, config)) = source.domain()? else {
            return if is_adjusted(args) { Err(no_xml()) } else { Ok(plan) };
        };
        let xml = if is_adjusted(args) {
            let adjusted = adjust(&text, &adjustment(args, &config, &firmware, restored))?;
            phrases::adjusting(args, &config, restored, &adjusted.removed);
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
        plan.files.push((path.clone(), xml.into_bytes()));
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
            self.files.push((path.clone(), file.read()?));
            placed.insert(key, path);
        }
        Ok(placed)
    }

    /// The adjusted XML.
    pub fn adjusted(&self) -> Option<&str> {
        self.adjusted.as_deref()
    }

    /// Makes sure that no other configuration is overwritten unasked.
    ///
    /// # Errors
    /// [`Kind::Busy`].
    pub fn check(&self, force: bool) -> Result<()> {
        let mut kept = self.files.iter().filter(|(path, _)| !force && !self.may_replace(path));
        kept.try_for_each(|(path, content)| is_there(path, content).map(drop))
    }

    /// Writes the files; those that are there already stay.
    ///
    /// # Errors
    /// [`Kind::Busy`], [`Kind::Io`].
    pub fn write(&self, args: &Restore) -> Result<()> {
        let force = args.force;
        for (path, content) in &self.files {
            if force || self.may_replace(path) || !is_there(path, content)? {
                write_atomically(path, content)?;
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
    config: &DomainConfig,
    firmware: &BTreeMap<&'static str, PathBuf>,
    restored: &BTreeMap<String, NewSource>,
) -> Adjustment {
    // What the host has where the domain expects it stays there; what is missing comes from the set.
    let missing = |original: Option<&PathBuf>, role| {
        original.filter(|path| !path.exists()).and_then(|_| firmware.get(role).cloned())
    };
    Adjustment {
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

/// Whether `path` has exactly this content: then a restore of another disk wrote it.
///
/// # Errors
/// [`Kind::Busy`] where it has another one.
fn is_there(path: &Path, content: &[u8]) -> Result<bool> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(false) };
    let same = metadata.is_file()
        && metadata.len() == content.len() as u64
        && std::fs::read(path).is_ok_and(|there| there == content);
    if same {
        return Ok(true);
    }
    Err(Error::new(Kind::Busy, "exists already, with other content")
        .path(path)
        .hint("choose another directory with -o, or overwrite it with --force"))
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

fn original_name(file: &ConfigFile) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    file.origin.as_ref().and_then(|origin| name(Path::new(origin))).unwrap_or_else(|| file.file.name().to_owned())
}
