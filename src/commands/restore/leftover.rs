//! What becomes of partial images when a restore fails.

use super::image::Target;
use crate::chain_device::ChainDevice;
use crate::error::{Error, Kind};
use crate::host::Host;

/// Clears up after `error` at `target`, with the images of `whole` finished before it, and `others` not begun. What is
/// damaged may be all there is: then everything stays, and it is said what each file is, and how the others are
/// restored. Anything else can be done again, and takes space.
pub fn clear(host: &Host, whole: &[Target], target: &Target, others: &[ChainDevice], error: &Error) {
    if !matches!(error.kind(), Kind::Corrupt | Kind::Incomplete) {
        if matches!(target, Target::Device(_)) && !matches!(error.kind(), Kind::Usage | Kind::Busy) {
            incomplete(target);
        }
        // A file that is there already is not ours: there may be no locks where it is.
        let unfinished = Some(target).filter(|_| error.kind() != Kind::Busy);
        for file in whole.iter().chain(unfinished).flat_map(Target::partial_files) {
            let _ = host.remove(&file);
        }
        return;
    }
    incomplete(target);
    for target in whole {
        tracing::warn!(
            "{} is whole and proven: give it its name {:?}, or restore without the damaged disk (-d)",
            target.partial().display(),
            target.path().file_name().unwrap_or_default()
        );
    }
    let disks: Vec<&str> = others.iter().map(ChainDevice::target).collect();
    if !disks.is_empty() {
        tracing::warn!("nothing was restored of {} yet: -d {} does that", disks.join(", "), disks.join(","));
    }
}

fn incomplete(target: &Target) {
    tracing::error!("{} is incomplete: do not use it", target.partial().display());
}
