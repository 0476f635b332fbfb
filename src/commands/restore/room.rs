//! Whether the images will fit, asked before the first byte: a full file system would be noticed hours later.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    // By file system: what goes there, and a directory of it.
    let mut needs: BTreeMap<u64, (u64, PathBuf)> = BTreeMap::new();
    for (target, chain) in targets.iter().zip(chains) {
        let Some(directory) = target.data_path().and_then(Path::parent) else { continue };
        let device = directory.metadata().map_err(|error| Error::io("open", error).path(directory))?.dev();
        let need = match args.preallocate {
            true => chain.size(),
            // Nobody knows how much of it is zeroes.
            false if chain.is_plain_image() => 0,
            false => data_of(chain),
        };
        needs.entry(device).or_insert_with(|| (0, directory.to_owned())).0 += need;
    }
    for (need, directory) in needs.into_values() {
        let free = host.space(&directory)?.free;
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

fn data_of(chain: &ChainDevice) -> u64 {
    let extents = chain.extents(0..chain.size());
    extents.iter().filter(|extent| extent.kind() == extent::Kind::Data).map(extent::Extent::length).sum()
}
