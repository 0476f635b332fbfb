//! The images that a restore writes: their names and formats, and writing them.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::Result as AnyResult;

use super::source::Source;
use crate::block::BlockSink;
use crate::block::file::FileSink;
use crate::block::nbd::NbdSink;
use crate::chain_device::ChainDevice;
use crate::cli::read::Restore;
use crate::commands::Session;
use crate::error::{Error, Kind, Result};
use crate::pipeline::restore::copy;
use crate::qemu::img::{self, CreateOptions, Preallocation};
use crate::qemu::nbd::{QemuNbd, ServeOptions};
use crate::set::layout::sync_directory;

/// Threads for one disk, each with a window in memory; with qcow2 a connection to qemu-nbd each.
const THREADS: usize = 4;

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
    fn partial(&self) -> PathBuf {
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
    pub fn publish(&self) -> Result<()> {
        if let Self::Device(_) = self {
            return Ok(());
        }
        std::fs::rename(self.partial(), self.path()).map_err(|error| Error::io("rename", error).path(self.path()))?;
        sync_directory(self.path().parent().unwrap_or(Path::new(".")))
    }
}

/// Decides where every chain goes.
pub fn plan(args: &Restore, source: &Source, chains: &[ChainDevice]) -> AnyResult<Vec<Target>> {
    let is_device = args.output.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
    if is_device {
        if chains.len() != 1 || !args.raw {
            return Err(Error::usage("a block device takes one disk, as raw data")
                .path(&args.output)
                .hint("choose the disk with -d and add --raw")
                .into());
        }
        return Ok(vec![Target::Device(args.output.clone())]);
    }
    let directory =
        std::path::absolute(&args.output).map_err(|error| Error::io("resolve", error).path(&args.output))?;
    let names = names(args, source, chains);
    let mut targets = Vec::new();
    for (chain, name) in chains.iter().zip(names) {
        let path = directory.join(name);
        let newest = chain.layers().first().map(|layer| layer.meta().disk_format.as_str());
        if args.raw || newest == Some("raw") {
            targets.push(Target::Raw(path));
        } else {
            let info = source.image_info(chain.target())?;
            let mut options = info.as_ref().map(CreateOptions::from).unwrap_or_default();
            if args.preallocate {
                options.preallocation = Preallocation::Falloc;
            }
            targets.push(Target::Qcow2(path, Box::new(options)));
        }
    }
    Ok(targets)
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

/// Makes sure that nothing is overwritten unasked, before the first byte is written.
pub fn prepare(args: &Restore, targets: &[Target]) -> Result<()> {
    for target in targets {
        let path = target.path();
        if path.exists() && !args.force {
            return Err(Error::new(Kind::Busy, "exists already")
                .path(path)
                .hint("choose another directory with -o, or overwrite it with --force"));
        }
        if let Target::Device(_) = target {
            continue;
        }
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(|error| {
            Error::io("create directory", error)
                .path(directory)
                .hint("-o takes a directory that can be written to; it is made where it is missing")
        })?;
        match std::fs::remove_file(target.partial()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", error).path(target.partial()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes one disk; the path at which it will be found.
pub fn restore(args: &Restore, session: &Session, chain: &ChainDevice, target: &Target) -> Result<PathBuf> {
    let partial = target.partial();
    let result = match target {
        Target::Raw(_) => raw(args, session, chain, FileSink::create(&partial, chain.size())?),
        Target::Device(path) => raw(args, session, chain, FileSink::open_existing(path, chain.size())?),
        Target::Qcow2(_, options) => qcow2(args, session, chain, &partial, options),
    };
    match result {
        Ok(()) => Ok(target.path().to_owned()),
        // What the user interrupted is of no use to them; what is damaged may be all they have.
        Err(error) if error.kind() == Kind::Cancelled && !matches!(target, Target::Device(_)) => {
            let _ = std::fs::remove_file(&partial);
            Err(error)
        }
        // Refused before the first byte.
        Err(error) if matches!(error.kind(), Kind::Usage | Kind::Busy) => Err(error),
        Err(error) => {
            tracing::error!("{} is incomplete: do not use it", partial.display());
            Err(error)
        }
    }
}

fn raw(args: &Restore, session: &Session, chain: &ChainDevice, sink: FileSink) -> Result<()> {
    if args.preallocate {
        sink.allocate()?;
    }
    let meter = session.display.meter(chain.target(), chain.size());
    copy(chain, &sink, THREADS, &meter, &session.cancel)
}

fn qcow2(args: &Restore, session: &Session, chain: &ChainDevice, path: &Path, options: &CreateOptions) -> Result<()> {
    img::create(path, chain.size(), options)?;
    let serve = ServeOptions { read_only: false, connections: THREADS, bitmap: None, compress: args.compress };
    let server = QemuNbd::serve(path, "qcow2", &serve, &session.cancel)?;
    let mut sink = NbdSink::connect(&server.uri(), THREADS, true, &session.cancel)?;
    if args.compress {
        let info = img::info_as(path, "qcow2")?;
        sink = sink.aligned_to(info.cluster_size.unwrap_or(crate::units::MIB))?;
    }
    let sink = sink;
    let size = sink.size();
    if size != chain.size() {
        return Err(Error::new(Kind::Protocol, format!("the new image has {size} bytes instead of {}", chain.size()))
            .path(path));
    }
    let meter = session.display.meter(chain.target(), chain.size());
    copy(chain, &sink, THREADS, &meter, &session.cancel)?;
    sink.disconnect()?;
    server.finish()?;
    let file = std::fs::File::open(path).map_err(|error| Error::io("open", error).path(path))?;
    file.sync_all().map_err(|error| Error::io("sync", error).path(path))
}
