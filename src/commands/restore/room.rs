//! Whether the images will fit, asked before the first byte: a full file system would be noticed hours later.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::image::Target;
use crate::chain_device::ChainDevice;
use crate::cli::read::Restore;
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::host::Host;
use crate::units::format_bytes;

/// Refuses to set aside space that is not there; warns where data may not fit: a file system that compresses may have
/// room all the same.
///
/// # Errors
/// [`Kind::Io`] where `--preallocate` can't succeed.
pub fn check(args: &Restore, host: &Host, targets: &[Target], chains: &[ChainDevice]) -> Result<()> {
    if !host.is_local() || args.compress {
        return Ok(());
    }
    // By file system: a directory of it, and what goes there.
    let mut places: BTreeMap<u64, (&Path, Vec<&ChainDevice>)> = BTreeMap::new();
    for (target, chain) in targets.iter().zip(chains) {
        let Some(directory) = target.data_path().and_then(Path::parent) else { continue };
        let device = directory.metadata().map_err(|error| Error::io("open", error).path(directory))?.dev();
        places.entry(device).or_insert_with(|| (directory, Vec::new())).1.push(chain);
    }
    for (directory, chains) in places.into_values() {
        let free = host.space(directory)?.free;
        let sum = |of: fn(&ChainDevice) -> u64| chains.iter().map(|chain| of(chain)).sum::<u64>();
        // Mostly there is room for all that was ever backed up; what is in force of it takes time to find out.
        let need = match args.preallocate {
            true => sum(ChainDevice::size),
            false if sum(at_most) <= free => continue,
            false => sum(data_of),
        };
        if need <= free {
            continue;
        }
        let message = format!("the disks need {}, {} are free", format_bytes(need), format_bytes(free));
        if args.preallocate {
            return Err(Error::new(Kind::Io, message)
                .path(directory)
                .hint("leave --preallocate away, free some space there, or choose another directory with -o"));
        }
        tracing::warn!("{}: {message}: it may become full", directory.display());
    }
    Ok(())
}

/// What is in the streams, overwritten or not; nothing where nobody knows how much of an image is zeroes.
fn at_most(chain: &ChainDevice) -> u64 {
    if chain.is_plain_image() { 0 } else { chain.layers().iter().map(|layer| layer.meta().data_size).sum() }
}

fn data_of(chain: &ChainDevice) -> u64 {
    if chain.is_plain_image() {
        return 0;
    }
    let extents = chain.extents(0..chain.size());
    extents.iter().filter(|extent| extent.kind() == extent::Kind::Data).map(extent::Extent::length).sum()
}
