//! The images that a restore writes: their names and formats, and what may be in their way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::output::Output;
use super::phrases;
use super::source::Source;
use super::write::plain_name;
use crate::chain_device::ChainDevice;
use crate::cli::read::Restore;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::qemu::img::{CreateOptions, Preallocation};

/// Ending of an image that is not proven to its end.
const PARTIAL: &str = ".partial";

/// Where one disk goes.
#[derive(Debug)]
pub enum Target {
    /// A raw file.
    Raw(PathBuf),
    /// A qcow2 image.
    Qcow2(PathBuf, Box<CreateOptions>),
    /// An existing block device.
    Device(PathBuf),
}

impl Target {
    /// Its final path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Raw(path) | Self::Qcow2(path, _) | Self::Device(path) => path,
        }
    }

    /// Its format, as libvirt names it.
    pub fn format(&self) -> &'static str {
        match self {
            Self::Qcow2(..) => "qcow2",
            Self::Raw(_) | Self::Device(_) => "raw",
        }
    }

    /// Where it is written until it is proven; a device has no other name.
    pub fn partial(&self) -> PathBuf {
        match self {
            Self::Device(path) => path.clone(),
            Self::Raw(path) | Self::Qcow2(path, _) => {
                let mut name = path.file_name().unwrap_or_default().to_owned();
                name.push(PARTIAL);
                path.with_file_name(name)
            }
        }
    }

    /// Gives the image its final name.
    pub fn publish(&self, host: &Host) -> Result<()> {
        if let Self::Device(_) = self {
            return Ok(());
        }
        host.rename(&self.partial(), self.path())
    }
}

/// Decides where every chain goes.
///
/// # Errors
/// [`Kind::Usage`] where the options don't fit the disks.
pub fn plan(args: &Restore, output: &Output, source: &Source, chains: &[ChainDevice]) -> Result<Vec<Target>> {
    output.check_disks(chains.len())?;
    let names = names(args, source, chains);
    let mut targets = Vec::new();
    for (chain, name) in chains.iter().zip(names) {
        targets.push(match output {
            Output::File(path) => Target::Raw(path.clone()),
            Output::Device(path) => Target::Device(path.clone()),
            Output::Directory(directory) => in_directory(args, source, chain, directory.join(name))?,
        });
        // Where the information can't be read, and is needed, that was an error above.
        if source.image_info(chain.target()).is_ok_and(|info| info.is_some_and(|info| info.encrypted)) {
            tracing::warn!("{}: the original is encrypted, the restored image is not", chain.target());
        }
    }
    Ok(targets)
}

/// An image at `path`, like the original where nothing else is asked for.
fn in_directory(args: &Restore, source: &Source, chain: &ChainDevice, path: PathBuf) -> Result<Target> {
    let newest = chain.layers().first().map(|layer| layer.meta().disk_format.as_str());
    if args.raw || newest == Some("raw") {
        if args.compress {
            return Err(Error::usage("the original is raw: raw images can't be compressed")
                .disk(chain.target())
                .hint("leave --compress away, or choose the other disks with -d"));
        }
        return Ok(Target::Raw(path));
    }
    let info = source
        .image_info(chain.target())
        .map_err(|error| error.hint("--raw restores the content without the image's options"))?;
    let mut options = info.as_ref().map(CreateOptions::from).unwrap_or_default();
    if args.preallocate {
        options.preallocation = Preallocation::Falloc;
    }
    Ok(Target::Qcow2(path, Box::new(options)))
}

/// The images keep their names; where two disks have the same one, their targets tell them apart.
fn names(args: &Restore, source: &Source, chains: &[ChainDevice]) -> Vec<String> {
    let originals = source.original_images();
    let name = |chain: &ChainDevice| {
        let original = originals.get(chain.target()).and_then(|path| path.file_name());
        let name = original.map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_else(|| format!("{}.qcow2", chain.target()));
        match name.strip_suffix(".qcow2") {
            Some(stem) if args.raw => format!("{stem}.raw"),
            _ => name,
        }
    };
    let names: Vec<String> = chains.iter().map(name).collect();
    let twice: BTreeSet<&String> =
        names.iter().filter(|name| names.iter().filter(|other| other == name).count() > 1).collect();
    let prefixed = chains.iter().zip(&names);
    prefixed
        .map(|(chain, name)| if twice.contains(name) { format!("{}-{name}", chain.target()) } else { name.clone() })
        .collect()
}

/// Makes sure that nothing is overwritten unasked, and nothing at all that is in use, before the first byte is written.
pub fn prepare(args: &Restore, host: &Host, targets: &[Target]) -> Result<()> {
    for target in targets {
        let path = target.path();
        let exists = host.exists(path)?;
        if exists && !args.force {
            phrases::exists(path);
            return Err(Error::new(Kind::Busy, "exists already")
                .path(path)
                .hint("choose another directory with -o, or overwrite it with --force"));
        }
        if exists {
            host.refuse_used(path)?;
        }
        if let Target::Device(_) = target {
            continue;
        }
        let directory = path.parent().unwrap_or(Path::new("."));
        host.make_directory(directory).map_err(|error| {
            error.hint("-o takes a directory that can be written to; it is made where it is missing")
        })?;
        // What an earlier restore left that did not come to its end.
        host.remove(&target.partial())?;
        host.remove(&plain_name(&target.partial()))?;
    }
    Ok(())
}
