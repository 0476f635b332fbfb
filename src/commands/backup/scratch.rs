//! Room for the job's scratch files: QEMU keeps there what the guest overwrites while the job runs. Where
//! they can't grow, the guest is paused or, with `error_policy='report'`, its writes fail: the run is given
//! up before that.

use std::path::PathBuf;
use std::sync::Arc;

use super::plan::Plan;
use super::share::Share;
use crate::cli::backup::Backup;
use crate::error::{Error, Kind, Result};
use crate::host::{Host, Space};
use crate::units::{GIB, format_bytes};

/// The file system of the scratch files.
#[derive(Debug, Clone)]
pub struct Scratch {
    host: Host,
    directory: PathBuf,
    /// What the run leaves free, in bytes.
    reserve: u64,
    /// What other runs see of this one.
    _share: Option<Arc<Share>>,
}

impl Scratch {
    /// Refuses before anything is done what [`Scratch::check`] would refuse of this run alone.
    ///
    /// # Errors
    /// As for [`Scratch::check`].
    pub fn refuse(host: &Host, args: &Backup, plan: &Plan) -> Result<()> {
        let (scratch, room) = Self::of(host, args)?;
        match room {
            Some(room) if args.places.scratch_required => scratch.refuse_less(room.free, plan.size(), 0),
            _ => Ok(()),
        }
    }

    /// Looks whether there is room for what the guest could overwrite: each whole disk, of an increment,
    /// too.
    ///
    /// # Errors
    /// [`Kind::Io`] where there is so little that the run would be given up at once; with
    /// `--scratch-required` where there is less than the disks' size.
    pub fn check(host: &Host, args: &Backup, plan: &Plan) -> Result<Self> {
        let (mut scratch, room) = Self::of(host, args)?;
        let Some(room) = room else { return Ok(scratch) };
        let own = plan.size();
        let others = match &args.many.shared {
            Some(directory) => {
                let (share, others) = Share::take(directory, plan.run, own)?;
                scratch._share = Some(Arc::new(share));
                others
            }
            None => 0,
        };
        match scratch.refuse_less(room.free, own, others) {
            Err(less) if !args.places.scratch_required => tracing::warn!(
                "{}: the run is given up when only {} are left ({})",
                less.message(),
                format_bytes(scratch.reserve),
                scratch.directory.display()
            ),
            other => other?,
        }
        Ok(scratch)
    }

    /// The file system, and its room where that can be seen.
    fn of(host: &Host, args: &Backup) -> Result<(Self, Option<Space>)> {
        let places = &args.places;
        let directory = places.scratchdir.clone();
        if !host.is_open() {
            // That it can't be watched was said when the host was reached.
            if places.scratch_required {
                return Err(Error::unsupported(
                    "how much room there is can't be seen: the host's files can't be got at",
                )
                .path(directory)
                .hint("let ssh log in, or leave --scratch-required away"));
            }
            return Ok((Self { host: host.clone(), directory, reserve: 0, _share: None }, None));
        }
        let room = host.space(&directory)?;
        let reserve = places.scratch_reserve.unwrap_or_else(|| reserve(room.size));
        let scratch = Self { host: host.clone(), directory, reserve, _share: None };
        scratch.refuse_low(room.free)?;
        Ok((scratch, Some(room)))
    }

    /// Refuses less room than the guest, and those of the runs at the same time, could fill.
    fn refuse_less(&self, free: u64, own: u64, others: u64) -> Result<()> {
        let needed = own.saturating_add(others);
        if free >= needed {
            return Ok(());
        }
        let message = format!(
            "the scratch directory has {} free; the {} could overwrite up to {} during the backup",
            format_bytes(free),
            if others > 0 { "guests that are backed up at this time" } else { "guest" },
            format_bytes(needed)
        );
        Err(Error::new(Kind::Io, message)
            .path(&self.directory)
            .hint("--scratchdir names another directory; without --scratch-required it is only watched"))
    }

    /// Looks whether there is still room.
    ///
    /// # Errors
    /// [`Kind::Io`] where the reserve is touched.
    pub fn look(&self) -> Result<()> {
        match self.host.space(&self.directory) {
            Ok(room) => self.refuse_low(room.free),
            Err(error) if self.host.is_local() => Err(error),
            // The network of a moment is no reason to give a run up: where it matters, the copy fails.
            Err(error) => {
                tracing::debug!("the scratch directory can't be looked at: {}", crate::error::report(&error));
                Ok(())
            }
        }
    }

    /// Whether it is looked at over a network.
    pub fn is_remote(&self) -> bool {
        !self.host.is_local()
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
