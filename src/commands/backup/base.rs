//! What an increment builds on, disk by disk: the newest committed run whose checkpoint is on the
//! domain, is provably that run's, and has a good bitmap of the disk.

use std::path::{Path, PathBuf};

use anyhow::Result;
use uuid::Uuid;

use super::plan::DESCRIPTION;
use crate::cli::backup::Backup;
use crate::error::{self, Error, Kind};
use crate::libvirt::checkpoint::{self, Checkpoint};
use crate::libvirt::domain::Domain;
use crate::libvirt::probe;
use crate::set::Level;
use crate::set::catalogue::{Catalogue, Run};
use crate::set::chain;

/// What one disk's stream builds on.
#[derive(Debug, Clone)]
pub struct Base {
    /// The checkpoint.
    pub checkpoint: String,
    /// The run that made it; none where virtnbdbackup did.
    pub run: Option<Uuid>,
    /// Size of the disk then.
    pub virtual_size: u64,
}

/// The checkpoints of the domain, sorted out.
#[derive(Debug)]
pub struct Bases {
    /// Checkpoints of this set that libvirt knows, with the targets whose bitmaps are good.
    own: Vec<(Checkpoint, Vec<String>)>,
    /// Checkpoints of an older chain, which a new one ends.
    pub old_chain: Vec<Checkpoint>,
}

impl Bases {
    /// Sorts the checkpoints that libvirt knows; those of this set that it lost are redefined.
    ///
    /// # Errors
    /// [`Kind::Busy`] where another chain has taken over the domain's checkpoints.
    pub fn find(
        args: &Backup,
        domain: &Domain,
        catalogue: &Catalogue,
        level: Level,
        mut known: Vec<Checkpoint>,
    ) -> Result<Self> {
        if !level.needs_base() {
            let old_chain = if level == Level::Full { known } else { Vec::new() };
            return Ok(Self { own: Vec::new(), old_chain });
        }
        let extra = args.places.checkpointdir.as_deref();
        if let Some(other) = known.iter().find(|checkpoint| !is_of_set(catalogue, extra, checkpoint)) {
            return Err(other_chain(domain, catalogue, other).into());
        }
        if redefine_lost(domain, catalogue, extra, &known)? {
            known = checkpoint::list(domain)?;
        }
        let mut own = Vec::new();
        for checkpoint in known {
            let good = probe::valid_targets(domain, &checkpoint)?;
            own.push((checkpoint, good));
        }
        Ok(Self { own, old_chain: Vec::new() })
    }

    /// The base of disk `target`; none, with the reason in the log, where it must be full.
    pub fn of_disk(&self, catalogue: &Catalogue, domain: &Domain, target: &str, image: &Path) -> Result<Option<Base>> {
        let mut reason = format!("{target} is new to the chain");
        let size = domain.disk_size(target)?;
        for run in catalogue.runs.iter().rev().filter(|run| run.is_base()) {
            let (Some(stream), Some(name)) = (run.stream(target), run.checkpoint.as_ref()) else { continue };
            if size != stream.virtual_size {
                reason = format!("its size changed from {} to {size} bytes", stream.virtual_size);
                break;
            }
            // Bitmaps of one name are on every image of the domain: after disks changed places they
            // would be taken for each other's.
            let recorded = run.manifest.as_ref().and_then(|manifest| manifest.disk(target));
            if let Some(disk) = recorded.filter(|disk| Path::new(&disk.image) != image) {
                reason = format!("its image was {} and now is {}", disk.image, image.display());
                break;
            }
            match self.own.iter().find(|(checkpoint, _)| checkpoint.name == *name) {
                None => reason = format!("checkpoint {name} is gone from the domain"),
                Some((_, good)) if good.iter().any(|good| good == target) => {
                    refuse_gap(catalogue, run, target)?;
                    let base = Base { checkpoint: name.clone(), run: run.run_id(), virtual_size: size };
                    return Ok(Some(base));
                }
                Some(_) => reason = format!("its bitmap {name} is missing or broken"),
            }
        }
        tracing::warn!("{target}: full instead of an increment, because {reason}");
        Ok(None)
    }
}

/// An increment on a chain with a missing file could never be restored.
fn refuse_gap(catalogue: &Catalogue, run: &Run, target: &str) -> error::Result<()> {
    let directory = catalogue.layout.directory();
    let remedy = || {
        format!(
            "`virtkeep verify -i {}` lists the damage; start a new chain with -l full in an empty directory",
            directory.display()
        )
    };
    for stream in chain::resolve(catalogue, run, target).map_err(|error| error.hint(remedy()))? {
        let path = catalogue.stream_path(stream)?;
        let size = std::fs::metadata(&path).map(|metadata| metadata.len());
        if !size.as_ref().is_ok_and(|size| *size == stream.stored_size) {
            let what = if size.is_ok() { "is damaged" } else { "is missing" };
            return Err(Error::incomplete(format!("{what}: nothing can build on it")).path(path).hint(remedy()));
        }
    }
    Ok(())
}

/// Whether a checkpoint is provably that of a committed run of the set.
pub fn is_of_set(catalogue: &Catalogue, extra: Option<&Path>, checkpoint: &Checkpoint) -> bool {
    catalogue.run_of_checkpoint(&checkpoint.name).is_some_and(|run| is_of_run(catalogue, extra, run, checkpoint))
}

/// Ours bear the run's UUID; virtnbdbackup's were made at the moment that the saved XML says.
pub fn is_of_run(catalogue: &Catalogue, extra: Option<&Path>, run: &Run, checkpoint: &Checkpoint) -> bool {
    match run.run_id() {
        Some(id) => checkpoint.description.as_ref().is_some_and(|text| text.contains(&id.to_string())),
        None => saved(catalogue, extra, run).is_some_and(|saved| saved.creation_time == checkpoint.creation_time),
    }
}

/// The checkpoint's XML as it was saved when the run was made: in the set, or in the directory `extra`.
pub fn saved(catalogue: &Catalogue, extra: Option<&Path>, run: &Run) -> Option<Checkpoint> {
    let name = format!("{}.xml", run.checkpoint.as_ref()?);
    let places: [Option<PathBuf>; 2] =
        [Some(catalogue.layout.checkpoints().join(&name)), extra.map(|dir| dir.join(&name))];
    places.into_iter().flatten().find_map(|path| {
        let text = std::fs::read_to_string(&path).ok()?;
        Checkpoint::parse(&text)
            .inspect_err(|error| tracing::warn!("{}: {}", path.display(), error::report(error)))
            .ok()
    })
}

/// Tells libvirt again of the set's checkpoints that it forgot, oldest first. Their bitmaps are
/// checked: where one is not good, the checkpoint stays unknown. Returns whether there was any.
///
/// All that is `known` must be of the set ([`is_of_set`]): chains share the names of their bitmaps.
pub fn redefine_lost(
    domain: &Domain,
    catalogue: &Catalogue,
    extra: Option<&Path>,
    known: &[Checkpoint],
) -> Result<bool> {
    let mut redefined = false;
    let mut defined: Vec<String> = known.iter().map(|checkpoint| checkpoint.name.clone()).collect();
    for run in catalogue.runs.iter().filter(|run| run.is_base()) {
        let Some(name) = run.checkpoint.as_ref().filter(|name| !defined.contains(name)) else { continue };
        let Some(mut checkpoint) = saved(catalogue, extra, run) else {
            tracing::info!("checkpoint {name} is unknown to libvirt, and its saved XML is gone or damaged: not used");
            continue;
        };
        checkpoint.parent = checkpoint.parent.take().filter(|parent| defined.contains(parent));
        match checkpoint::redefine(domain, &checkpoint.redefine_xml()?, true) {
            Ok(()) => {
                tracing::info!("Redefine missing checkpoint {name}: the host had lost it");
                defined.push(name.clone());
                redefined = true;
            }
            Err(error) => tracing::info!("checkpoint {name} can't be redefined: {}", error::report(&error)),
        }
    }
    Ok(redefined)
}

fn other_chain(domain: &Domain, catalogue: &Catalogue, other: &Checkpoint) -> Error {
    let whose = match other.description.as_deref() {
        Some(text) if text.starts_with(DESCRIPTION) => format!(" ({text})"),
        _ => String::new(),
    };
    Error::new(
        Kind::Busy,
        format!(
            "checkpoint {} of domain {} belongs to another chain{whose}: this one ended there",
            other.name,
            domain.name()
        ),
    )
    .path(catalogue.layout.directory())
    .hint("continue the chain that owns it, or start a new one with -l full in an empty directory")
}
