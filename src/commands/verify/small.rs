//! The small files of a set: configuration, sums, logs, and the list of checkpoints.

use anyhow::Result;

use super::verdict::Verdict;
use crate::error::{self, Error, Kind};
use crate::set::catalogue::Catalogue;
use crate::set::cpt;
use crate::set::intent::Intent;
use crate::set::layout::{checkpoint_name, checkpoint_position};
use crate::set::manifest::{FileRecord, Manifest};

/// Checks them all.
pub fn check(catalogue: &Catalogue, verdict: &mut Verdict) -> Result<()> {
    for manifest in catalogue.runs.iter().filter_map(|run| run.manifest.as_ref()) {
        for record in &manifest.files {
            if catalogue.files.file(&record.name).is_ok_and(|file| file.exists()) {
                verdict.files += 1;
                verdict.bytes = verdict.bytes.saturating_add(record.size);
            }
            if let Err(error) = check_file(catalogue, record) {
                verdict.damage(error);
            }
        }
    }
    if let Some(Err(error)) = newest_owner(catalogue).map(|manifest| check_cpt(catalogue, manifest)) {
        verdict.damage(error);
    }
    Ok(())
}

fn check_file(catalogue: &Catalogue, record: &FileRecord) -> error::Result<()> {
    let file = catalogue.files.file(&record.name)?;
    let wrong_size = || Error::corrupt(format!("is no file of {} bytes", record.size)).path(file.path());
    let bad = |error: Error| match error.kind() {
        // A name can lead to a pipe or device that never ends.
        Kind::Usage => wrong_size(),
        _ => missing(error).path(file.path()),
    };
    if file.size().map_err(bad)? != record.size {
        return Err(wrong_size());
    }
    let mut hasher = blake3::Hasher::new();
    file.feed(record.size, &mut |part| _ = hasher.update(part)).map_err(bad)?;
    if hasher.finalize().to_hex().as_str() == record.blake3 {
        Ok(())
    } else {
        Err(Error::corrupt("is not what was backed up").path(file.path()))
    }
}

pub fn missing(error: Error) -> Error {
    match error.kind() {
        Kind::NotFound => Error::incomplete("is missing from the set"),
        _ => error,
    }
}

/// The manifest of the newest run with a checkpoint, where virtkeep made it: it wrote the list.
fn newest_owner(catalogue: &Catalogue) -> Option<&Manifest> {
    catalogue.newest_base()?.manifest.as_ref()
}

fn check_cpt(catalogue: &Catalogue, manifest: &Manifest) -> error::Result<()> {
    let Some(position) = manifest.checkpoint.as_deref().and_then(checkpoint_position) else { return Ok(()) };
    // Between the commit and the end of its run the list is a step behind.
    let unfinished = catalogue.files.layout().map_or_else(|| Ok(Vec::new()), Intent::left_behind)?;
    if unfinished.iter().any(|intent| intent.run == manifest.run) {
        return Ok(());
    }
    let file = cpt::file(&catalogue.files, &manifest.domain)?;
    let names = cpt::decode(&file.read(cpt::MAX_SIZE).map_err(|error| missing(error).path(file.path()))?);
    // virtnbdbackup also lists runs that it began on this chain and did not finish.
    let expected = (0..=position).map(checkpoint_name);
    if names.is_some_and(|names| names.iter().take(position as usize + 1).cloned().eq(expected)) {
        Ok(())
    } else {
        Err(Error::corrupt("is not the list of the chain's checkpoints").path(file.path()))
    }
}
