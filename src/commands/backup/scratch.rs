//! Room for the job's scratch files: QEMU keeps there what the guest overwrites while the job runs. Where
//! they can't grow, the guest is paused or, with `error_policy='report'`, its writes fail: the run is given
//! up before that.

use std::path::PathBuf;

use super::plan::Plan;
use crate::cli::backup::Places;
use crate::error::{Error, Kind, Result};
use crate::units::{GIB, format_bytes};

/// The file system of the scratch files.
#[derive(Debug, Clone)]
pub struct Scratch {
    directory: PathBuf,
    /// What the run leaves free, in bytes.
    reserve: u64,
}

/// Bytes of a file system: all, and those that a user may still write.
#[derive(Debug, Clone, Copy)]
struct Room {
    size: u64,
    free: u64,
}

impl Scratch {
    /// Looks whether there is room for what the guest could overwrite: each whole disk, of an increment,
    /// too.
    ///
    /// # Errors
    /// [`Kind::Io`] where there is so little that the run would be given up at once; with
    /// `--scratch-required` where there is less than the disks' size.
    pub fn check(places: &Places, plan: &Plan) -> Result<Self> {
        let directory = places.scratchdir.clone();
        let room = room(&directory)?;
        let scratch = Self { directory, reserve: places.scratch_reserve.unwrap_or_else(|| reserve(room.size)) };
        scratch.refuse_low(room.free)?;
        let needed: u64 = plan.disks.iter().map(|disk| disk.virtual_size).sum();
        if room.free < needed {
            let message = format!(
                "the scratch directory has {} free; the guest could overwrite up to {} during the backup",
                format_bytes(room.free),
                format_bytes(needed)
            );
            if places.scratch_required {
                return Err(Error::new(Kind::Io, message)
                    .path(&scratch.directory)
                    .hint("--scratchdir names another directory; without --scratch-required it is only watched"));
            }
            tracing::warn!(
                "{message}: the run is given up when only {} are left ({})",
                format_bytes(scratch.reserve),
                scratch.directory.display()
            );
        }
        Ok(scratch)
    }

    /// Looks whether there is still room.
    ///
    /// # Errors
    /// [`Kind::Io`] where the reserve is touched.
    pub fn look(&self) -> Result<()> {
        self.refuse_low(room(&self.directory)?.free)
    }

    fn refuse_low(&self, free: u64) -> Result<()> {
        if free >= self.reserve {
            return Ok(());
        }
        let message = format!(
            "the scratch directory has only {} left, {} must stay free for the guest's sake",
            format_bytes(free),
            format_bytes(self.reserve)
        );
        Err(Error::new(Kind::Io, message)
            .path(&self.directory)
            .hint("free some space there, name another directory with --scratchdir, or lower --scratch-reserve"))
    }
}

/// The larger of 1 GiB and 5 %, but no more than a quarter of a small file system.
fn reserve(size: u64) -> u64 {
    GIB.max(size / 20).min(size / 4)
}

fn room(directory: &PathBuf) -> Result<Room> {
    let stat = rustix::fs::statvfs(directory)
        .map_err(|error| Error::io("look at the free space", std::io::Error::from(error)).path(directory))?;
    // QEMU does not run as root: what is kept for root is not free.
    Ok(Room { size: stat.f_blocks.saturating_mul(stat.f_frsize), free: stat.f_bavail.saturating_mul(stat.f_frsize) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{MIB, TIB};

    #[test]
    fn reserves_suit_the_file_system() {
        assert_eq!(reserve(TIB), TIB / 20);
        assert_eq!(reserve(10 * GIB), GIB);
        assert_eq!(reserve(64 * MIB), 16 * MIB);
    }
}
