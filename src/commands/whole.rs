//! Whether a run of virtnbdbackup is all there. It leaves no commit record: the XML of its
//! checkpoint lists the disks that it backed up.

use crate::error::{self, Error};
use crate::libvirt::checkpoint::Checkpoint;
use crate::set::Level;
use crate::set::catalogue::{Catalogue, Run};
use crate::set::config::MAX_SIZE;
use crate::set::layout::{PARTIAL, checkpoint_position, data_name};

/// Disks that `run` should have and has not, each with the name that its data file would bear; of virtkeep's runs the
/// manifest is believed, which lists their streams.
pub fn missing_files(catalogue: &Catalogue, run: &Run) -> Vec<(String, String)> {
    let (None, Some(name)) = (&run.manifest, &run.checkpoint) else { return Vec::new() };
    let Some(checkpoint) = saved_checkpoint(catalogue, name) else { return Vec::new() };
    let level = if run.level.needs_base() { Level::Inc } else { Level::Full };
    let missing = checkpoint.disks.into_iter().filter(|disk| run.stream(&disk.target).is_none());
    missing.map(|disk| (disk.target.clone(), data_name(&disk.target, level, name, 0))).collect()
}

/// Fails with the file that is missing of disk `wanted`, or of any disk without one.
///
/// # Errors
/// [`Kind::Incomplete`](error::Kind::Incomplete).
pub fn check(catalogue: &Catalogue, run: &Run, wanted: &[String]) -> error::Result<()> {
    let missing = missing_files(catalogue, run);
    match missing.into_iter().find(|(disk, _)| wanted.is_empty() || wanted.contains(disk)) {
        None => Ok(()),
        Some((disk, file)) => Err(incomplete(catalogue, run, &disk, &file)),
    }
}

/// The error for one of [`missing_files`].
pub fn incomplete(catalogue: &Catalogue, run: &Run, disk: &str, file: &str) -> Error {
    let partial = catalogue.partial.iter().any(|name| name.strip_suffix(PARTIAL) == Some(file));
    let state = if partial { "was never finished" } else { "is missing or damaged" };
    Error::incomplete(format!("{file} {state}: restore point {} is not whole", run.id))
        .disk(disk)
        .path(catalogue.files.place())
        .hint("restore an earlier point (--until), or with -d the disks that are there")
}

/// Checkpoints whose configuration virtnbdbackup saved and of which no stream is left.
pub fn vanished(catalogue: &Catalogue) -> error::Result<Vec<String>> {
    let names = catalogue.files.names()?;
    let checkpoints = names.iter().filter_map(|name| name.strip_prefix("vmconfig.")?.strip_suffix(".xml"));
    let made = checkpoints.filter(|name| checkpoint_position(name).is_some());
    Ok(made.filter(|name| catalogue.run_of_checkpoint(name).is_none()).map(str::to_owned).collect())
}

/// What the set has of the checkpoint's XML; none where it is kept elsewhere or can't be read.
fn saved_checkpoint(catalogue: &Catalogue, name: &str) -> Option<Checkpoint> {
    checkpoint_position(name)?;
    let file = catalogue.files.checkpoint(name).ok()?;
    Checkpoint::parse(&String::from_utf8(file.read(MAX_SIZE).ok()?).ok()?)
        .inspect_err(|error| tracing::warn!("{}: {}", file.path().display(), error::report(error)))
        .ok()
}
