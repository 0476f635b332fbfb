//! Writes one disk on another host: an image made there, served there by `qemu-nbd`, filled through ssh.

use std::ffi::OsString;
use std::path::Path;

use super::image::Target;
use super::write::{THREADS, copy_all};
use crate::block::BlockSink;
use crate::block::nbd::NbdSink;
use crate::chain_device::ChainDevice;
use crate::cli::read::Restore;
use crate::commands::Session;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::host::serve::Served;
use crate::qemu::img::{self, CreateOptions, Preallocation};

/// Writes one disk, under its partial name.
pub fn write(args: &Restore, session: &Session, host: &Host, chain: &ChainDevice, target: &Target) -> Result<()> {
    let partial = target.partial();
    match target {
        Target::Raw(_) => {
            let preallocation = if args.preallocate { Preallocation::Falloc } else { Preallocation::Off };
            img::create_raw_on(host, &partial, chain.size(), preallocation)?;
            fill(session, host, chain, &partial, "raw", None)?;
        }
        Target::Qcow2(_, options) => qcow2(args, session, host, chain, &partial, options)?,
        Target::WithDataFile(_, data, options) if !data.block => {
            img::create_on(host, &partial, chain.size(), options)?;
            fill(session, host, chain, &partial, "qcow2", None)?;
            host.sync(&data.partial())?;
        }
        Target::Device(path) | Target::WithDataFile(path, ..) => {
            return Err(Error::unsupported("a block device of another host can't be written").path(path));
        }
    }
    host.sync(&partial)
}

fn qcow2(
    args: &Restore,
    session: &Session,
    host: &Host,
    chain: &ChainDevice,
    path: &Path,
    options: &CreateOptions,
) -> Result<()> {
    img::create_on(host, path, chain.size(), options)?;
    if !args.compress {
        return fill(session, host, chain, path, "qcow2", None);
    }
    let cluster = img::info_as(host, path, "qcow2")?.cluster_size.unwrap_or(crate::units::MIB).max(1);
    if chain.size() % cluster != 0 {
        // Here such an image is written plain first, and compressed from there.
        let message = "its size is no multiple of the cluster size: it can't be compressed on another host";
        let _ = host.remove(path);
        return Err(Error::usage(message).hint("leave --compress away, or choose the other disks with -d"));
    }
    fill(session, host, chain, path, "qcow2", Some(cluster))
}

/// Fills a new image, compressed in clusters of `compress` bytes.
fn fill(
    session: &Session,
    host: &Host,
    chain: &ChainDevice,
    path: &Path,
    format: &str,
    compress: Option<u64>,
) -> Result<()> {
    let Host::Ssh(ssh) = host else { return Err(Error::unsupported("no way to the other host")) };
    let mut arguments =
        ["--persistent", "--discard=unmap", "--cache=writeback", "--aio=threads"].map(OsString::from).to_vec();
    arguments.push(format!("--shared={THREADS}").into());
    arguments.extend(["--image-opts".into(), "--".into(), img::file_opts(path, format, compress.is_some())]);
    let server = Served::start(ssh, &arguments, &session.cancel).map_err(|error| error.path(path))?;
    let mut sink = NbdSink::connect(&server.uri(), THREADS, true, &session.cancel)?;
    if let Some(cluster) = compress {
        sink = sink.aligned_to(cluster)?;
    }
    let size = sink.size();
    if size != chain.size() {
        let message = format!("the new image has {size} bytes instead of {}", chain.size());
        return Err(Error::new(Kind::Protocol, message).path(path));
    }
    copy_all(session, chain, &sink)?;
    sink.disconnect()?;
    server.finish().map_err(|error| error.path(path))
}
