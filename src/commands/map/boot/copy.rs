//! The disks of a domain that runs from a map, copied to images that it goes on with.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::commands::link::Link;
use crate::error::{Error, Result, report};

/// How often progress is asked for.
const TICK: Duration = Duration::from_millis(200);
/// A daemon that is restarted gets this long: the copies go on in QEMU.
const PATIENCE: Duration = Duration::from_secs(60);

/// Copies that came to nothing.
#[derive(Debug)]
pub struct Unfinished {
    /// Why.
    pub error: Error,
    /// So many disks, the first ones, had been changed to their copies all the same.
    pub used: usize,
}

/// Copies the disks to `images`, all at once; `tell` hears how many bytes of how many are done, and may end it. The
/// domain changes to them only when all are complete, so that it never runs for long from disks of both kinds.
///
/// # Errors
/// By libvirt's code; [`Kind::Cancelled`](crate::error::Kind::Cancelled). The copying has ended.
pub fn copy(
    link: &Link,
    images: &[(String, PathBuf)],
    stop: &Cancel,
    tell: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<(), Unfinished> {
    let (mut begun, mut used) = (0, 0);
    let mut all = || {
        for (target, path) in images {
            link.reach_within(PATIENCE, stop)?.copy_disk(target, path)?;
            begun += 1;
        }
        watch(link, images, stop, tell)?;
        for (target, _) in images {
            link.reach_within(PATIENCE, stop)?.use_copy(target)?;
            used += 1;
        }
        Ok(())
    };
    let copied = all();
    copied.map_err(|error| {
        for (target, _) in &images[used..begun] {
            // It may have ended by itself, or with the domain.
            if let Err(error) = link.reach().and_then(|reached| reached.drop_copy(target)) {
                tracing::debug!("{}", report(&error));
            }
        }
        Unfinished { error, used }
    })
}

fn watch(
    link: &Link,
    images: &[(String, PathBuf)],
    stop: &Cancel,
    tell: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let targets: Vec<&str> = images.iter().map(|(target, _)| target.as_str()).collect();
    loop {
        stop.check()?;
        let copying = link.ask(PATIENCE, stop, |reached| reached.copying(&targets))?;
        let (done, total) = copying.values().fold((0, 0), |sum, disk| (sum.0 + disk.done, sum.1 + disk.total));
        // A job that has not looked at its disk yet knows nothing of its size.
        if total > 0 {
            tell(done, total)?;
        }
        if copying.values().all(|disk| disk.ready) {
            return Ok(());
        }
        thread::sleep(TICK);
    }
}
