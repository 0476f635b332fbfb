//! The images that a restore writes: their names and formats, and what may be in their way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::claim::Claim;
use super::device;
use super::output::Output;
use super::phrases;
use super::source::Source;
use super::write::plain_name;
use crate::block::qcow2::Geometry;
use crate::chain_device::ChainDevice;
use crate::cli::read::{Format, Restore};
use crate::error::{Error, Kind, Result};
use crate::host::{FileKind, Host};
use crate::libvirt::domain_xml::NewSource;
use crate::qemu::img::{self, CreateOptions, Preallocation};

/// Ending of an image that is not proven to its end.
const PARTIAL: &str = ".partial";

/// Where one disk goes.
#[derive(Debug)]
pub enum Target {
    /// A raw file.
    Raw(PathBuf),
    /// A qcow2 image.
    Qcow2(PathBuf, Box<CreateOptions>),
    /// A qcow2 image whose data is in a file apart.
    WithDataFile(PathBuf, DataFile, Box<CreateOptions>),
    /// An existing block device.
    Device(PathBuf),
}

/// The data file of an image.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// Its path.
    pub path: PathBuf,
    /// It is a block device.
    pub block: bool,
    /// It is a raw image of the disk.
    pub raw: bool,
}

impl DataFile {
    /// Where it is written until it is proven; a device has no other name.
    pub fn partial(&self) -> PathBuf {
        if self.block { self.path.clone() } else { partial(&self.path) }
    }
}

impl Target {
    /// Its final path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Raw(path) | Self::Qcow2(path, _) | Self::WithDataFile(path, ..) | Self::Device(path) => path,
        }
    }

    /// What the domain's XML says of it.
    pub fn source(&self) -> NewSource {
        NewSource {
            path: self.path().to_owned(),
            format: if matches!(self, Self::Raw(_) | Self::Device(_)) { "raw" } else { "qcow2" }.to_owned(),
            block: matches!(self, Self::Device(_)),
            data_file: match self {
                Self::WithDataFile(_, data, _) => Some((data.path.clone(), data.block)),
                _ => None,
            },
        }
    }

    /// Where it is written until it is proven; a device has no other name.
    pub fn partial(&self) -> PathBuf {
        match self {
            Self::Device(path) => path.clone(),
            _ => partial(self.path()),
        }
    }

    /// Every file that it is made of, those that are no devices.
    fn files(&self) -> Vec<&Path> {
        match self {
            Self::Device(_) => vec![],
            Self::WithDataFile(path, data, _) if !data.block => vec![path, &data.path],
            _ => vec![self.path()],
        }
    }

    /// Their names until they are proven.
    pub fn partial_files(&self) -> Vec<PathBuf> {
        self.files().into_iter().map(partial).collect()
    }

    /// The file that most of it goes into; none for a device.
    pub fn data_path(&self) -> Option<&Path> {
        match self {
            Self::WithDataFile(_, data, _) if !data.block => Some(&data.path),
            _ if self.device().is_some() => None,
            _ => Some(self.path()),
        }
    }

    /// The block device that it goes to, in part or as a whole.
    fn device(&self) -> Option<&Path> {
        match self {
            Self::Device(path) => Some(path),
            Self::WithDataFile(_, data, _) if data.block => Some(&data.path),
            _ => None,
        }
    }

    /// Gives the image its final name.
    pub fn publish(&self, host: &Host) -> Result<()> {
        if let Self::WithDataFile(_, data, _) = self {
            if !data.block {
                // Its name stands in the image, which must be able to open it then and now.
                img::rename_data_file(host, &self.partial(), &data.path)?;
                host.sync(&self.partial())?;
            }
        }
        // The image last: without it nothing uses the data file.
        self.files().into_iter().rev().try_for_each(|path| host.rename(&partial(path), path))
    }
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(PARTIAL);
    path.with_file_name(name)
}

/// Decides where every chain goes.
///
/// # Errors
/// [`Kind::Usage`] where the options don't fit the disks.
pub fn plan(
    args: &Restore,
    host: &Host,
    output: &Output,
    source: &Source,
    chains: &[ChainDevice],
) -> Result<Vec<Target>> {
    let device = |target: &str| args.to_device.iter().find(|(disk, _)| disk == target).map(|(_, path)| path);
    for (disk, _) in args.to_device.iter().chain(&args.relocate_data_file) {
        if chains.iter().all(|chain| chain.target() != disk) {
            return Err(Error::usage("is not among the disks of this restore").disk(disk).hint(
                "it has a place (--to-device, --relocate-data-file), but -d or the restore point leaves it out",
            ));
        }
    }
    let elsewhere: Vec<&str> =
        chains.iter().map(ChainDevice::target).filter(|target| device(target).is_none()).collect();
    output.check_disks(&elsewhere)?;
    let names = names(args, source, chains);
    let mut targets = Vec::new();
    for (chain, name) in chains.iter().zip(names) {
        targets.push(match (device(chain.target()), output) {
            (Some(_), _) if args.format == Some(Format::Qcow2) => {
                return Err(Error::usage("a device takes raw data").disk(chain.target()).hint("leave -t away"));
            }
            (Some(path), _) => {
                Target::Device(std::path::absolute(path).map_err(|error| Error::io("resolve", error).path(path))?)
            }
            (None, Output::File(path)) => Target::Raw(path.clone()),
            (None, Output::Directory(directory)) => in_directory(args, host, source, chain, directory.join(name))?,
            // Checked above.
            (None, Output::Devices) => return Err(Error::usage("no place is given").disk(chain.target())),
        });
        // Where the information can't be read, and is needed, that was an error above.
        if source.image_info(chain.target()).is_ok_and(|info| info.is_some_and(|info| info.encrypted)) {
            tracing::warn!("{}: the original is encrypted, the restored image is not", chain.target());
        }
    }
    refuse_same_place(&targets, chains)?;
    Ok(targets)
}

/// An image at `path`, like the original where nothing else is asked for.
fn in_directory(args: &Restore, host: &Host, source: &Source, chain: &ChainDevice, path: PathBuf) -> Result<Target> {
    if args.wants_raw() {
        return Ok(Target::Raw(path));
    }
    let hint = "-t raw restores the content without the image's options";
    let info = source.image_info(chain.target()).map_err(|error| error.hint(hint))?;
    if args.format.is_none() && is_raw_image(source, chain) {
        if args.compress {
            return Err(Error::usage("the original is raw: raw images can't be compressed")
                .disk(chain.target())
                .hint("-t qcow2 makes qcow2 images of all disks; or choose the other disks with -d"));
        }
        return Ok(Target::Raw(path));
    }
    let mut options = info.as_ref().map(CreateOptions::from).unwrap_or_default();
    // Not when it is this disk's turn, hours later.
    Geometry::new(chain.size(), &options).map_err(|error| error.disk(chain.target()).hint(hint))?;
    if args.preallocate {
        options.preallocation = Preallocation::Falloc;
    }
    let relocated = args.relocate_data_file.iter().find(|(disk, _)| disk == chain.target());
    let original = info.and_then(|info| info.qcow2).and_then(|qcow2| Some((qcow2.data_file?, qcow2.data_file_raw)));
    match original {
        Some((original, raw)) if args.format.is_none() => {
            if args.compress {
                return Err(Error::usage("an image with a data file can't be compressed")
                    .disk(chain.target())
                    .hint("-t qcow2 puts all data into one image; or choose the other disks with -d"));
            }
            let data = data_file(host, &path, &original, relocated.map(|(_, path)| path.as_path()))?;
            let data = DataFile { raw: raw.unwrap_or_default(), ..data };
            options.data_file = Some((data.partial(), data.raw));
            Ok(Target::WithDataFile(path, data, Box::new(options)))
        }
        _ if relocated.is_some() => Err(Error::usage("its image has no data file of its own")
            .disk(chain.target())
            .hint("leave --relocate-data-file away")),
        _ => Ok(Target::Qcow2(path, Box::new(options))),
    }
}

/// The data file of the image at `image`: beside it under its old name, or where it is told to be.
fn data_file(host: &Host, image: &Path, original: &str, relocated: Option<&Path>) -> Result<DataFile> {
    let path = match relocated {
        Some(path) => std::path::absolute(path).map_err(|error| Error::io("resolve", error).path(path))?,
        None => {
            let name = Path::new(original).file_name().unwrap_or_default();
            // Two disks in one directory may have had data files of one name in two.
            let taken = name.is_empty() || Some(name) == image.file_name();
            image.with_file_name(if taken || Path::new(original).starts_with("/dev") {
                let mut name = image.file_stem().unwrap_or_default().to_owned();
                name.push(".data");
                name
            } else {
                name.to_owned()
            })
        }
    };
    let block = host.file(&path).is_ok_and(|facts| facts.kind == FileKind::Block);
    Ok(DataFile { block, path, raw: false })
}

/// Two disks must not overwrite each other.
fn refuse_same_place(targets: &[Target], chains: &[ChainDevice]) -> Result<()> {
    let mut places: Vec<(String, &str)> = Vec::new();
    for (target, chain) in targets.iter().zip(chains) {
        let device = target.device().and_then(|path| device::identity(path).ok()).map(|id| format!("device {id}"));
        let files = target.files().into_iter().map(|path| path.display().to_string());
        for place in files.chain(device) {
            if let Some((_, other)) = places.iter().find(|(known, _)| *known == place) {
                return Err(Error::usage(format!("would go to the same place as {other}"))
                    .disk(chain.target())
                    .hint("--relocate-data-file, --to-device or -d tell them apart"));
            }
            places.push((place, chain.target()));
        }
    }
    Ok(())
}

/// Whether the original is raw: the set has no qcow2 options of it.
fn is_raw_image(source: &Source, chain: &ChainDevice) -> bool {
    let is_raw = chain.layers().first().is_some_and(|layer| layer.meta().disk_format == "raw");
    is_raw && source.image_info(chain.target()).is_ok_and(|info| info.is_none())
}

/// The images keep their names; where two disks have the same one, their targets tell them apart.
fn names(args: &Restore, source: &Source, chains: &[ChainDevice]) -> Vec<String> {
    let originals = source.original_images();
    let name = |chain: &ChainDevice| {
        let original = originals.get(chain.target()).and_then(|path| path.file_name());
        let name = original.map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_else(|| format!("{}.qcow2", chain.target()));
        let raw = args.wants_raw() || args.format.is_none() && is_raw_image(source, chain);
        // The name of a device is no name of an image.
        let from_device = originals.get(chain.target()).is_some_and(|path| path.starts_with("/dev"));
        let with = |ending: &str| Path::new(&name).with_extension(ending).to_string_lossy().into_owned();
        match Path::new(&name).extension().and_then(|ending| ending.to_str()) {
            Some("qcow2") if raw => with("raw"),
            Some("raw" | "img") if args.format == Some(Format::Qcow2) => with("qcow2"),
            _ if raw && from_device => format!("{name}.raw"),
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
/// Nobody else writes these files while what it returns lives.
pub fn prepare(args: &Restore, host: &Host, targets: &[Target], chains: &[ChainDevice]) -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for (target, chain) in targets.iter().zip(chains).filter(|_| !host.is_local()) {
        if let Some(path) = target.device() {
            return Err(Error::usage("a device of another host can't be written")
                .path(path)
                .disk(chain.target())
                .hint("--relocate-data-file names a file; -t qcow2 puts all data into one image"));
        }
    }
    for (target, chain) in targets.iter().zip(chains) {
        if let Some(path) = target.device() {
            device::check(path, chain.size(), args.force)?;
            host.refuse_used(path)?;
        }
        for path in target.files() {
            let there = host.kind(path)?;
            if there == Some(FileKind::Directory) {
                return Err(Error::usage("is a directory").path(path).hint("choose another directory with -o"));
            }
            if (there.is_some() || host.is_link(path)) && !args.force {
                phrases::exists(path);
                return Err(Error::new(Kind::Busy, "exists already")
                    .path(path)
                    .hint("choose another directory with -o, or overwrite it with --force"));
            }
            if there.is_some() {
                host.refuse_used(path)?;
            }
            let directory = path.parent().unwrap_or(Path::new("."));
            host.make_directory(directory).map_err(|error| {
                error.hint("-o takes a directory that can be written to; it is made where it is missing")
            })?;
            if host.is_local() {
                claims.extend(Claim::take(&partial(path))?);
            }
            // What an earlier restore left that did not come to its end.
            host.remove(&partial(path))?;
            host.remove(&plain_name(&partial(path)))?;
        }
    }
    Ok(claims)
}
