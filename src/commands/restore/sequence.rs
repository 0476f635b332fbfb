//! Streams named one by one, the full first.

use std::path::PathBuf;

use super::source::watched;
use crate::chain_device::ChainDevice;
use crate::commands::Session;
use crate::error::{self, Error, Result};
use crate::set::files::Files;
use crate::set::layout::{DataName, Layout, index_name};
use crate::set::manifest::{Disk, Manifest};
use crate::stored::StoredFile;
use crate::stream::head;
use crate::stream::raw::RawImage;
use crate::stream::reader::StreamReader;

/// The files that the options name: paths, in the set's directory where there is one; or members of zip files.
///
/// # Errors
/// As for [`Files::open`].
pub fn files(input: &[PathBuf], sequence: &[PathBuf]) -> Result<Vec<StoredFile>> {
    if input.is_empty() {
        return Ok(sequence.iter().map(StoredFile::from).collect());
    }
    let named = |set: &Files| {
        let file = |path: &PathBuf| match set {
            Files::Directory(layout) => Ok(layout.directory().join(path).into()),
            Files::Zips(zips) => Ok(zips.file_called(&path.to_string_lossy())),
        };
        sequence.iter().map(file).collect()
    };
    named(&Files::open(input)?)
}

/// The chain of `files`, each building on the one before.
///
/// # Errors
/// [`Usage`](crate::error::Kind::Usage) where one does not; what is wrong with a stream.
pub fn open(files: &[StoredFile], session: &Session) -> Result<ChainDevice> {
    let mut layers: Vec<StreamReader> = Vec::new();
    for file in files {
        session.cancel.check()?;
        let layer = open_layer(file, session)?;
        if let Some(previous) = layers.last() {
            check_follows(previous, &layer)?;
        }
        layers.push(layer);
    }
    layers.reverse();
    let target = layers.first().map(|layer| layer.meta().disk_name.clone()).unwrap_or_default();
    ChainDevice::new(&target, layers)
}

fn open_layer(file: &StoredFile, session: &Session) -> Result<StreamReader> {
    let index = file.beside(&index_name(file.name()));
    if index.exists() {
        // A raw image has no head: its name tells the disk, its index proves it.
        let target = DataName::parse(file.name()).map(|name| name.target).unwrap_or_default();
        return StreamReader::open_raw(&RawImage { target: &target, file, index: Some(&index) });
    }
    // Without a head there is nothing to tell, and the error comes from below.
    let total = match head::read(file) {
        Ok(meta) if !meta.has_index() => file.size().unwrap_or(0),
        _ => 0,
    };
    let opened =
        watched(session, file.name(), total, |progress| StreamReader::open_watched(file, progress, &session.cancel));
    opened.map_err(|error| match (error.kind(), error.offset()) {
        (error::Kind::Corrupt, Some(0)) => {
            error.hint("if it is a raw image of virtnbdbackup, restore the set instead: nothing but the set tells")
        }
        _ => error,
    })
}

fn check_follows(base: &StreamReader, layer: &StreamReader) -> Result<()> {
    let refused = |message: String| {
        Err(Error::usage(message)
            .path(layer.path())
            .hint("name the full first, then every increment up to the point wanted, without a gap"))
    };
    if base.is_raw() {
        return match is_built_on_raw(base, layer) {
            true => Ok(()),
            false => refused(format!("nothing proves that it continues {}", base.path().display())),
        };
    }
    let (meta, below) = (layer.meta(), base.meta());
    let follows = meta.incremental && meta.parent_checkpoint == below.checkpoint_name;
    if meta.disk_name != below.disk_name || !follows {
        return refused(format!("does not continue {}", base.path().display()));
    }
    // Every chain calls its checkpoints alike: names alone prove little.
    match (recorded(layer).map(|disk| disk.base_run), below.own.map(|own| own.run)) {
        (Some(Some(base)), Some(below)) if base == below => {}
        // Neither wrote down what the other is: virtnbdbackup made the base, or the manifest is not here.
        (Some(None), None) | (None, _) => tracing::warn!(
            "{}: that it continues {} is unproven: only the names of the checkpoints say so",
            layer.path().display(),
            base.path().display()
        ),
        _ => return refused(format!("builds on the run of another stream than {}", base.path().display())),
    }
    Ok(())
}

/// Whether the manifests beside them say so: a raw image does not bear its run.
fn is_built_on_raw(base: &StreamReader, layer: &StreamReader) -> bool {
    let Some(run) = recorded(layer).and_then(|disk| disk.base_run) else { return false };
    let manifest = Manifest::read(layer.stored().beside(&Layout::manifest_name(run)));
    let digest = base.index_digest().map(|digest| blake3::Hash::from(digest).to_hex().to_string());
    let is_base = |disk: &Disk| Some(&disk.index_digest) == digest.as_ref() && disk.target == layer.meta().disk_name;
    manifest.is_ok_and(|manifest| manifest.run == run && manifest.disks.iter().any(is_base))
}

/// What the manifest beside one of our streams has of it; none where there is no such manifest.
fn recorded(layer: &StreamReader) -> Option<Disk> {
    let own = layer.meta().own?;
    let manifest = match Manifest::read(layer.stored().beside(&Layout::manifest_name(own.run))) {
        Ok(manifest) => manifest,
        Err(error) if error.kind() == error::Kind::NotFound => return None,
        Err(error) => {
            tracing::warn!("{}", error::report(&error));
            return None;
        }
    };
    let digest = layer.index_digest().map(|digest| blake3::Hash::from(digest).to_hex().to_string())?;
    manifest.disks.into_iter().find(|disk| manifest.run == own.run && disk.index_digest == digest)
}
