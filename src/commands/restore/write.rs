//! Writes one disk to where it goes, under its partial name.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::image::{DataFile, Target};
use super::there;
use crate::block::BlockSink;
use crate::block::file::FileSink;
use crate::block::nbd::NbdSink;
use crate::block::qcow2::{Geometry, Qcow2Sink};
use crate::chain_device::ChainDevice;
use crate::cli::read::Restore;
use crate::commands::Session;
use crate::error::{Error, Kind, Result};
use crate::extent::Extent;
use crate::file_writer::Way;
use crate::host::Host;
use crate::pipeline::restore::copy;
use crate::qemu::img::{self, CreateOptions};
use crate::qemu::nbd::{QemuNbd, ServeOptions};
use crate::ui::log::on_disk;

/// Threads for one disk, each with a window in memory, and a connection where `qemu-nbd` writes.
pub(super) const THREADS: usize = 4;

/// Writes one disk; after an error its files are to be cleared up.
pub fn write(args: &Restore, session: &Session, host: &Host, chain: &ChainDevice, target: &Target) -> Result<()> {
    let _messages = on_disk(chain.target());
    let partial = target.partial();
    let way = Way::asked(args.page_cache);
    match target {
        _ if !host.is_local() => there::write(args, session, host, chain, target),
        Target::Raw(_) => {
            let sink = FileSink::create(&partial, chain.size())?.with_way(way);
            if args.preallocate {
                sink.allocate()?;
            }
            copy_all(session, chain, &sink)
        }
        // All of its space is its own.
        Target::Device(path) => copy_all(session, chain, &FileSink::open_existing(path, chain.size())?.with_way(way)),
        Target::Qcow2(_, options) => qcow2(args, session, chain, &partial, options),
        Target::WithDataFile(_, data, options) => with_data_file(session, chain, &partial, data, options),
    }
}

/// Copies the whole disk, with a progress bar.
pub(super) fn copy_all(session: &Session, chain: &ChainDevice, sink: &dyn BlockSink) -> Result<()> {
    copy_known(session, chain, &chain.extents(0..chain.size()), sink)
}

/// [`copy_all`] where the extents of the disk are known already.
fn copy_known(session: &Session, chain: &ChainDevice, extents: &[Extent], sink: &dyn BlockSink) -> Result<()> {
    let meter = session.display.meter(chain.target(), chain.size());
    copy(chain, extents, sink, THREADS, &meter, &session.cancel)
}

/// Writes a qcow2 image and its data file. What a raw one on a device held before would show where nothing is
/// written.
fn with_data_file(
    session: &Session,
    chain: &ChainDevice,
    path: &Path,
    data: &DataFile,
    options: &CreateOptions,
) -> Result<()> {
    img::create(path, chain.size(), options)?;
    fill(session, chain, path, None, !(data.block && data.raw))?;
    sync(&data.partial())?;
    sync(path)
}

/// Writes a qcow2 image.
fn qcow2(args: &Restore, session: &Session, chain: &ChainDevice, path: &Path, options: &CreateOptions) -> Result<()> {
    match (args.compress, chain.is_plain_image()) {
        (true, _) => compressed(session, chain, path, options),
        (false, false) => laid_out(args, session, chain, path, options),
        // Which clusters it needs is known when all of it was read.
        (false, true) => {
            img::create(path, chain.size(), options)?;
            fill(session, chain, path, None, true)?;
            sync(path)
        }
    }
}

/// Writes a qcow2 image in which everything has its place from the start.
fn laid_out(
    args: &Restore,
    session: &Session,
    chain: &ChainDevice,
    path: &Path,
    options: &CreateOptions,
) -> Result<()> {
    let hint = "-t raw restores the content without the image's options";
    let extents = chain.extents(0..chain.size());
    let geometry = Geometry::new(chain.size(), options)?;
    let sink = Qcow2Sink::create(path, geometry, &extents, args.preallocate, &session.cancel)
        .map_err(|error| if error.kind() == Kind::Unsupported { error.hint(hint) } else { error })?;
    copy_known(session, chain, &extents, &sink.with_way(Way::asked(args.page_cache)))
}

/// Writes a compressed qcow2 image. QEMU can't write a disk so whose size is no multiple of the cluster size: such an
/// image is written plain first, and compressed from there, which takes the space of both for a while.
fn compressed(session: &Session, chain: &ChainDevice, path: &Path, options: &CreateOptions) -> Result<()> {
    img::create(path, chain.size(), options)?;
    let cluster = img::info_as(&Host::Local, path, "qcow2")?.cluster_size.unwrap_or(crate::units::MIB);
    if chain.size() % cluster.max(1) == 0 {
        fill(session, chain, path, Some(cluster), true)?;
        return sync(path);
    }
    fill(session, chain, path, None, true)?;
    let plain = Plain::from(path)?;
    tracing::info!("{}: compressing", chain.target());
    img::compress(&plain.0, path, options, &session.cancel)?;
    sync(path)
}

/// An image on its way to a compressed one; goes when dropped.
struct Plain(PathBuf);

impl Plain {
    /// Takes the image at `path`, and frees that name.
    fn from(path: &Path) -> Result<Self> {
        let plain = plain_name(path);
        std::fs::rename(path, &plain).map_err(|error| Error::io("rename", error).path(path))?;
        Ok(Self(plain))
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // The next restore removes it, too.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Where the uncompressed image lies while `partial` is made of it.
pub fn plain_name(partial: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from("plain.");
    name.push(partial.file_name().unwrap_or_default());
    partial.with_file_name(name)
}

/// Fills a new image, compressed in clusters of `compress` bytes; `zeroed` says that it reads as zeroes.
fn fill(session: &Session, chain: &ChainDevice, path: &Path, compress: Option<u64>, zeroed: bool) -> Result<()> {
    let serve = ServeOptions {
        read_only: false,
        connections: THREADS,
        compress: compress.is_some(),
        // Of an image that is to be thrown away then.
        bound_to: Some(Uuid::new_v4()),
        ..ServeOptions::default()
    };
    let server = QemuNbd::serve(path, "qcow2", &serve, &session.cancel)?;
    let mut sink = NbdSink::connect(&server.uri(), THREADS, zeroed, &session.cancel)?;
    if let Some(cluster) = compress {
        sink = sink.aligned_to(cluster)?;
    }
    let sink = sink;
    let size = sink.size();
    if size != chain.size() {
        return Err(Error::new(Kind::Protocol, format!("the new image has {size} bytes instead of {}", chain.size()))
            .path(path));
    }
    copy_all(session, chain, &sink)?;
    sink.disconnect()?;
    server.finish()
}

/// Makes a file durable.
pub fn sync(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path).map_err(|error| Error::io("open", error).path(path))?;
    file.sync_all().map_err(|error| Error::io("sync", error).path(path))
}
