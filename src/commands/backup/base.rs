//! What an increment builds on, disk by disk: the newest committed run whose checkpoint is on the
//! domain, is provably that run's, and has a good bitmap of the disk.

use std::path::Path;

use anyhow::Result;
use uuid::Uuid;

use super::outlived::{self, Outlived};
use super::plan::{DESCRIPTION, PlannedDisk};
use super::{marker, phrases};
use crate::cli::backup::Backup;
use crate::error::{self, Error, Kind};
use crate::libvirt::checkpoint::{self, Checkpoint, CheckpointDisk};
use crate::libvirt::domain::Domain;
use crate::libvirt::probe::Probe;
use crate::phrases::{CLASSIC, OWN};
use crate::set::catalogue::{Catalogue, Run};
use crate::set::config::MAX_SIZE;
use crate::set::layout::checkpoint_position;
use crate::set::{Level, chain, dropped};
use crate::stored::StoredFile;
use crate::ui::log::on_disk;

/// What one disk's stream builds on.
#[derive(Debug, Clone)]
pub struct Base {
    /// The checkpoint.
    pub checkpoint: String,
    /// The run that made it; none where virtnbdbackup did.
    pub run: Option<Uuid>,
    /// Size of the disk then.
    pub virtual_size: u64,
    /// What proves that it is that checkpoint: all chains have the same names.
    description: Option<String>,
    creation_time: u64,
}

impl Base {
    fn is(&self, checkpoint: &Checkpoint) -> bool {
        let Checkpoint { name, description, creation_time, .. } = checkpoint;
        (name, description, creation_time) == (&self.checkpoint, &self.description, &self.creation_time)
    }
}

/// Refuses to go on where a base is not the checkpoint that it was when the run was planned: another user of
/// the daemon or another tool took the domain over, whom no lock of ours keeps out. To be asked once the job
/// runs: what is there then was there when it began.
///
/// # Errors
/// [`Kind::Busy`]; by libvirt's code.
pub fn refuse_replaced(domain: &Domain, disks: &[PlannedDisk]) -> error::Result<()> {
    let mut bases = disks.iter().filter_map(|disk| disk.base.as_ref()).peekable();
    if bases.peek().is_none() {
        return Ok(());
    }
    let known = checkpoint::list(domain)?;
    match bases.find(|base| !known.iter().any(|checkpoint| base.is(checkpoint))) {
        None => Ok(()),
        Some(base) => Err(Error::new(
            Kind::Busy,
            format!(
                "another backup of domain {} has removed or replaced checkpoint {} since the run was planned",
                domain.name(),
                base.checkpoint
            ),
        )
        .hint("one chain per domain: find out who else backs it up; the next run tells what is left to build on")),
    }
}

/// The checkpoints of the domain, sorted out.
#[derive(Debug)]
pub struct Bases {
    /// Checkpoints of this set that libvirt knows, with the targets whose bitmaps are good.
    own: Vec<(Checkpoint, Vec<String>)>,
    /// Checkpoints of an older chain, which a new one ends.
    pub old_chain: Vec<Checkpoint>,
    /// The run that is built on instead of the newest.
    from: Option<String>,
    /// Checkpoints of earlier chains, where the backup goes to standard output.
    pub outlived: Option<Outlived>,
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
        let from = args.base.as_deref().map(|name| from(catalogue, name)).transpose()?;
        let mut old_chain = outlived::take_replaced(catalogue, &mut known);
        if !level.needs_base() {
            let mut bases = Self { own: Vec::new(), old_chain, from, outlived: None };
            match level {
                Level::Full if catalogue.is_of_stdout => bases.outlived = Some(Outlived::of_full(catalogue, known)),
                Level::Full => bases.old_chain.extend(known),
                _ => bases.old_chain.clear(),
            }
            return Ok(bases);
        }
        let extra = args.places.checkpointdir.as_deref();
        if let Some(other) = known.iter().find(|checkpoint| !is_of_set(catalogue, extra, checkpoint)) {
            return Err(other_chain(domain, catalogue, other).into());
        }
        if redefine_lost(domain, catalogue, extra, &known)? {
            known = checkpoint::list(domain)?;
            outlived::take_replaced(catalogue, &mut known);
        }
        let probe = Probe::of(domain)?;
        let mut own = Vec::new();
        for checkpoint in known {
            let checkpoint = completed(domain, catalogue, checkpoint)?;
            let good = probe.valid_targets(&checkpoint)?;
            own.push((checkpoint, good));
        }
        if level == Level::Diff {
            // It makes nothing that could be built on.
            old_chain.clear();
        }
        let outlived = catalogue.is_of_stdout.then(|| Outlived::of_increment(own.iter().map(|(known, _)| known)));
        Ok(Self { own, old_chain, from, outlived })
    }

    /// The checkpoints of this set that nothing needs once the run is committed, each with the id of the
    /// run that made it: those without a good bitmap on any of the domain's `disks`, and the oldest of more than `keep`.
    pub fn spare(&self, catalogue: &Catalogue, disks: &[String], keep: Option<u64>) -> Vec<(Checkpoint, String)> {
        let is_useless = |good: &[String]| !disks.iter().any(|disk| good.contains(disk));
        let mut useful: Vec<&Checkpoint> =
            self.own.iter().filter(|(_, good)| !is_useless(good)).map(|(checkpoint, _)| checkpoint).collect();
        useful.sort_by_key(|checkpoint| checkpoint_position(&checkpoint.name));
        // One of those that are kept is the run's own.
        let kept = keep.map_or(useful.len(), |keep| usize::try_from(keep).unwrap_or(usize::MAX).saturating_sub(1));
        let too_many = &useful[..useful.len().saturating_sub(kept)];
        let useless = self.own.iter().filter(|(_, good)| is_useless(good)).map(|(checkpoint, _)| checkpoint);
        let spare = useless.chain(too_many.iter().copied());
        spare
            .filter_map(|checkpoint| {
                Some((checkpoint.clone(), catalogue.run_of_checkpoint(&checkpoint.name)?.id.clone()))
            })
            .collect()
    }

    /// The base of disk `target`, which now has `size` bytes in `image`; none, with the reason in the log, where it must be full.
    ///
    /// # Errors
    /// Of the chain where it has a gap; by libvirt's code.
    pub fn of_disk(
        &self,
        catalogue: &Catalogue,
        domain: &Domain,
        target: &str,
        image: &Path,
        size: u64,
    ) -> Result<Option<Base>> {
        let _messages = on_disk(target);
        let mut reason = None;
        let is_after = |run: &&Run| self.from.as_ref().is_some_and(|from| run.id != *from);
        for run in catalogue.runs.iter().rev().skip_while(is_after).filter(|run| run.is_base()) {
            let (Some(stream), Some(name)) = (run.stream(target), run.checkpoint.as_ref()) else { continue };
            if size != stream.virtual_size {
                let changed = format!("its size changed from {} to {size} bytes", stream.virtual_size);
                reason.get_or_insert(changed);
                break;
            }
            // Bitmaps of one name are on every image of the domain: after disks changed places they
            // would be taken for each other's.
            let recorded = run.manifest.as_ref().and_then(|manifest| manifest.disk(target));
            if let Some(disk) = recorded.filter(|disk| Path::new(&disk.image) != image) {
                reason.get_or_insert(format!("its image was {} and now is {}", disk.image, image.display()));
                break;
            }
            // The reason is the newest base's; an older one will do, where there is one.
            let missing = match self.own.iter().find(|(checkpoint, _)| checkpoint.name == *name) {
                None => format!("checkpoint {name} is gone from the domain"),
                Some((known, good)) if good.iter().any(|good| good == target) => {
                    refuse_gap(catalogue, run, target)?;
                    if is_marked(domain, catalogue, run, target)? {
                        if let (Some(_), Some(reason)) = (&self.from, &reason) {
                            tracing::warn!("{target}: since {name} instead of the checkpoint of --base: {reason}");
                        }
                        return Ok(Some(Base {
                            checkpoint: name.clone(),
                            run: run.run_id(),
                            virtual_size: size,
                            description: known.description.clone(),
                            creation_time: known.creation_time,
                        }));
                    }
                    reason.get_or_insert(format!(
                        "bitmap {name} is on its image, but not the marker of this chain: the image seems to have \
                         been replaced, by an older copy perhaps"
                    ));
                    break;
                }
                Some(_) => format!("its bitmap {name} is missing or broken"),
            };
            reason.get_or_insert(missing);
        }
        let reason = reason.unwrap_or_else(|| format!("{target} is new to the chain"));
        let asked = catalogue.runs.iter().find(|run| self.from.as_ref() == Some(&run.id));
        if asked.is_some_and(|run| run.stream(target).is_some()) {
            return Err(Error::unsupported(format!("can't be backed up since the checkpoint of --base: {reason}"))
                .disk(target)
                .hint("leave --base out, or begin a new chain with -l full")
                .into());
        }
        tracing::warn!(target: OWN, "{target}: full instead of an increment, because {reason}");
        phrases::no_base(target, &reason, newest_of(catalogue, target));
        Ok(None)
    }
}

/// What says what was written to `disk` since restore point `point`: the bitmap of its checkpoint (of a point without
/// one the bitmap of what it builds on, which holds more), where it is there and provably that run's; else why not.
/// Nothing is told to libvirt for that.
///
/// # Errors
/// By libvirt's code.
pub fn known_since(
    catalogue: &Catalogue,
    domain: &Domain,
    point: &Run,
    disk: &PlannedDisk,
) -> Result<std::result::Result<Base, String>> {
    let target = disk.target.as_str();
    let Some(stream) = point.stream(target).filter(|stream| !stream.raw && !disk.raw) else {
        return Ok(Err("a raw disk has no bitmap".to_owned()));
    };
    let checkpoint = point.checkpoint.as_ref().or(stream.base.as_ref());
    let Some((name, run)) = checkpoint.and_then(|name| Some((name, catalogue.run_of_checkpoint(name)?))) else {
        return Ok(Err("a copy has no checkpoint".to_owned()));
    };
    if disk.virtual_size != stream.virtual_size {
        return Ok(Err(format!("its size changed from {} to {} bytes", stream.virtual_size, disk.virtual_size)));
    }
    let recorded = run.manifest.as_ref().and_then(|manifest| manifest.disk(target));
    if let Some(recorded) = recorded.filter(|recorded| Path::new(&recorded.image) != disk.image) {
        return Ok(Err(format!("its image was {} and now is {}", recorded.image, disk.image.display())));
    }
    let known = checkpoint::list(domain)?;
    let Some(known) = known.into_iter().find(|known| known.name == *name && is_of_run(catalogue, None, run, known))
    else {
        return Ok(Err(format!("checkpoint {name} is gone from the domain")));
    };
    if !Probe::of(domain)?.valid_targets(&known)?.iter().any(|good| good == target) {
        return Ok(Err(format!("its bitmap {name} is missing or broken")));
    }
    if !is_marked(domain, catalogue, run, target)? {
        return Ok(Err(format!("bitmap {name} is on its image, but not the marker of this chain")));
    }
    Ok(Ok(Base {
        checkpoint: name.clone(),
        run: run.run_id(),
        virtual_size: disk.virtual_size,
        description: known.description,
        creation_time: known.creation_time,
    }))
}

/// The checkpoint of the newest run that has the disk.
fn newest_of<'c>(catalogue: &'c Catalogue, target: &str) -> Option<&'c str> {
    let mut runs = catalogue.runs.iter().rev().filter(|run| run.is_base() && run.stream(target).is_some());
    runs.next()?.checkpoint.as_deref()
}

/// The id of the run that made checkpoint `name`.
fn from(catalogue: &Catalogue, name: &str) -> error::Result<String> {
    match catalogue.run_of_checkpoint(name) {
        Some(run) => Ok(run.id.clone()),
        None => Err(Error::new(Kind::NotFound, format!("no run of the chain made checkpoint {name:?}"))
            .path(catalogue.files.place())
            .hint(format!("`virtkeep dump -i {}` lists them", catalogue.files.place().display()))),
    }
}

/// What libvirt should know of a checkpoint. A crash in the middle of checking its bitmaps disk by disk
/// leaves it with one disk alone.
fn completed(domain: &Domain, catalogue: &Catalogue, known: Checkpoint) -> Result<Checkpoint> {
    let streams = catalogue.run_of_checkpoint(&known.name).map_or(&[][..], |run| &run.streams);
    let is_missing = |target: &str| known.disks.iter().all(|disk| disk.target != target);
    let missing: Vec<CheckpointDisk> = streams
        .iter()
        .filter(|stream| !stream.raw_disk && is_missing(&stream.target))
        .map(|stream| CheckpointDisk { target: stream.target.clone(), bitmap: known.name.clone() })
        .collect();
    if missing.is_empty() {
        return Ok(known);
    }
    let targets: Vec<&str> = missing.iter().map(|disk| disk.target.as_str()).collect();
    tracing::info!("checkpoint {} is told again of {}: libvirt had lost them", known.name, targets.join(", "));
    let mut whole = known;
    whole.disks.extend(missing);
    checkpoint::redefine(domain, &whole.redefine_xml()?, false)?;
    // As libvirt has it: the definition is what its bitmaps are checked by.
    let listed = checkpoint::list(domain)?.into_iter().find(|checkpoint| checkpoint.name == whole.name);
    Ok(listed.unwrap_or(whole))
}

/// Whether the image is of the chain that `run` belongs to, see [`marker`]. Chains that virtnbdbackup began
/// have no marker: what they have is believed.
fn is_marked(domain: &Domain, catalogue: &Catalogue, run: &Run, target: &str) -> error::Result<bool> {
    match marker::root(catalogue, run, target)? {
        Some(root) => marker::is_on(domain, root, target),
        None => Ok(true),
    }
}

/// An increment on a chain with a missing file could never be restored.
///
/// # Errors
/// [`Kind::Incomplete`], naming the file.
pub fn refuse_gap(catalogue: &Catalogue, run: &Run, target: &str) -> error::Result<()> {
    let directory = catalogue.files.place();
    let remedy = || {
        format!(
            "`virtkeep verify -i {}` lists the damage; start a new chain with -l full in an empty directory",
            directory.display()
        )
    };
    let chain = chain::resolve(catalogue, run, target).map_err(|error| error.hint(remedy()))?;
    for stream in chain.into_iter().filter(|_| !catalogue.is_of_stdout) {
        let file = catalogue.stream_file(stream)?;
        let size = file.size();
        if !size.as_ref().is_ok_and(|size| *size == stream.stored_size) {
            let what = if size.is_ok() { "is damaged" } else { "is missing" };
            return Err(Error::incomplete(format!("{what}: nothing can build on it")).path(file.path()).hint(remedy()));
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
    let name = run.checkpoint.as_ref()?;
    let places: [Option<StoredFile>; 2] =
        [catalogue.files.checkpoint(name).ok(), extra.map(|dir| dir.join(format!("{name}.xml")).into())];
    places.into_iter().flatten().find_map(|file| {
        let text = String::from_utf8(file.read(MAX_SIZE).ok()?).ok()?;
        Checkpoint::parse(&text)
            .inspect_err(|error| tracing::warn!("{}: {}", file.path().display(), error::report(error)))
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
    let dropped = catalogue.files.layout().map(dropped::read).unwrap_or_default();
    let probe = Probe::of(domain)?;
    for run in catalogue.runs.iter().filter(|run| run.is_base() && !dropped.contains(&run.id)) {
        let Some(name) = run.checkpoint.as_ref().filter(|name| !defined.contains(name)) else { continue };
        let Some(mut checkpoint) = saved(catalogue, extra, run) else {
            tracing::info!("checkpoint {name} is unknown to libvirt, and its saved XML is gone or damaged: not used");
            continue;
        };
        checkpoint.parent = checkpoint.parent.take().filter(|parent| defined.contains(parent));
        match probe.redefine_valid(&checkpoint) {
            Ok(()) => {
                tracing::info!(target: OWN, "Redefine missing checkpoint {name}: the host had lost it");
                let at = "root checkpoint - redefine";
                tracing::info!(target: CLASSIC, at, "Redefine missing checkpoint: [{name}]");
                defined.push(name.clone());
                redefined = true;
            }
            Err(error) => {
                let error = error::report(&error);
                tracing::info!(target: OWN, "checkpoint {name} can't be redefined: {error}");
                let at = "root checkpoint - redefine";
                tracing::warn!(target: CLASSIC, at, "Redefining checkpoint failed: [{name}]: {error}");
            }
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
    .path(catalogue.files.place())
    .hint("continue the chain that owns it, or start a new one with -l full in an empty directory")
}
