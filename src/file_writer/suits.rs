//! Which storage direct writes are good for.

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::fs::{FileType, Mode, OFlags, fstat, fstatfs, major, minor, open};

use super::Way;
use super::chunk::CHUNK;

/// Local file systems that write whole pages directly (f_type of statfs(2)). Others know the flag and do something else:
/// tmpfs copies all the same, NFS has the server sync each write, btrfs turns to the page cache for its checksums.
const EXT: u32 = 0xEF53;
const XFS: u32 = 0x5846_5342;

/// Opens `file` once more, for direct writes; none where the page cache is the better way, or the only one, or asked
/// for.
pub(super) fn reopen(file: &File, way: Way) -> Option<File> {
    let suits = match way {
        Way::Fastest => suits(file),
        Way::PageCache => false,
        #[cfg(test)]
        Way::Direct => true,
    };
    if !suits {
        return None;
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = open(path, OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty());
    file.inspect_err(|error| tracing::debug!(%error, "no direct writes")).ok().map(File::from)
}

/// Whether direct writes are the faster way.
fn suits(file: &File) -> bool {
    device(file).is_some_and(is_fast)
}

/// The device that holds `file`, or is it, where direct writes to it are what they are called.
fn device(file: &File) -> Option<u64> {
    let stat = fstat(file).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => Some(stat.st_rdev),
        // Of the type of a file system, 32 bits are what all platforms have.
        FileType::RegularFile if [EXT, XFS].contains(&(fstatfs(file).ok()?.f_type as u32)) => Some(stat.st_dev),
        _ => None,
    }
}

/// Whether it is the processor that a copy to the device waits for, and not the device: that is solid-state and takes
/// a chunk as well as more at once. Elsewhere the page cache is no loss, and gathers what is written: the stripes of a
/// RAID 5, of which less than one has the rest read first, and the ways of a disk's heads. A loop device is what its file
/// lies on, and solid-state on NFS, too.
fn is_fast(device: u64) -> bool {
    let limit = |name: &str| -> Option<u64> {
        let device = format!("/sys/dev/block/{}:{}", major(device), minor(device));
        // A partition's are those of what it is a part of.
        let text = ["queue", "../queue"]
            .iter()
            .find_map(|queue| std::fs::read_to_string(format!("{device}/{queue}/{name}")).ok())?;
        text.trim().parse().ok()
    };
    // Zero: nothing is better than anything else.
    let takes_chunks = |best: u64| best == 0 || CHUNK as u64 % best == 0;
    limit("rotational") == Some(0) && limit("optimal_io_size").is_some_and(takes_chunks)
}
