//! The disks of a domain that runs from a map, copied to images that it goes on with.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::commands::Session;
use crate::commands::link::Link;
use crate::error::Result;
use crate::pipeline::Progress;

/// How often progress is asked for.
const TICK: Duration = Duration::from_millis(200);
/// A daemon that is restarted gets this long: the copies go on in QEMU.
const PATIENCE: Duration = Duration::from_secs(60);

/// Copies the disks to `images`, all at once. The domain changes to them only when all are complete, so that it
/// never runs for long from disks of both kinds.
///
/// # Errors
/// By libvirt's code; [`Kind::Cancelled`](crate::error::Kind::Cancelled).
pub fn copy(link: &Link, images: &[(String, PathBuf)], session: &Session, stop: &Cancel) -> Result<()> {
    for (target, path) in images {
        link.reach_within(PATIENCE, stop)?.copy_disk(target, path)?;
    }
    watch(link, images, session, stop)?;
    for (target, _) in images {
        link.reach_within(PATIENCE, stop)?.use_copy(target)?;
    }
    Ok(())
}

fn watch(link: &Link, images: &[(String, PathBuf)], session: &Session, stop: &Cancel) -> Result<()> {
    let targets: Vec<&str> = images.iter().map(|(target, _)| target.as_str()).collect();
    let mut meter = None;
    let mut shown = 0;
    loop {
        stop.check()?;
        let copying = link.ask(PATIENCE, stop, |reached| reached.copying(&targets))?;
        let (done, total) = copying.values().fold((0, 0), |sum, disk| (sum.0 + disk.done, sum.1 + disk.total));
        // A job that has not looked at its disk yet knows nothing of its size.
        if total > 0 {
            let meter = meter.get_or_insert_with(|| session.display.meter(&targets.join(", "), total));
            meter.advance(done.saturating_sub(shown));
            shown = done.max(shown);
        }
        if copying.values().all(|disk| disk.ready) {
            return Ok(());
        }
        thread::sleep(TICK);
    }
}
