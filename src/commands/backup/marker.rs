//! What proves that an image is the one whose full is in the set, and has not been put back from an older
//! time: a bitmap beside those of the checkpoints, whose name is unique.
//!
//! Every chain has a checkpoint `virtnbdbackup.0`, and its bitmap bears that name alone. An image put back
//! from before the chain began has a bitmap of the right name and of another chain, and an increment since
//! would be wrong without a sign. So the run that makes a disk full leaves a bitmap there that is named after
//! the run. Within the chain names do not come twice: with the marker and its own bitmap on the image, a
//! checkpoint is the one of the set, and its bitmap holds all that changed since, in an image that was put
//! back, too.
//!
//! libvirt knows the marker as a checkpoint for a moment only: to other tools there is none.

use anyhow::Result;
use uuid::Uuid;

use super::plan::Plan;
use crate::error::{self, Kind};
use crate::libvirt::bitmap;
use crate::libvirt::checkpoint::Checkpoint;
use crate::libvirt::domain::Domain;
use crate::libvirt::domain_xml::DomainConfig;
use crate::set::catalogue::{Catalogue, Run};
use crate::set::chain;

const PREFIX: &str = "virtkeep.";
const DESCRIPTION: &str = "virtkeep marker: can be deleted, metadata only";

fn name(run: Uuid) -> String {
    format!("{PREFIX}{run}")
}

/// The run whose marker a disk must have for an increment since `run`: the one that made it full. None
/// where virtnbdbackup did.
///
/// # Errors
/// Of a chain with a gap.
pub fn root(catalogue: &Catalogue, run: &Run, target: &str) -> error::Result<Option<Uuid>> {
    Ok(chain::root(catalogue, run, target)?.run_id())
}

/// Whether the image of `target` has the marker of `root`.
///
/// # Errors
/// By libvirt's code.
pub fn is_on(domain: &Domain, root: Uuid, target: &str) -> error::Result<bool> {
    let targets = [target.to_owned()];
    Ok(!bitmap::valid(domain, &name(root), DESCRIPTION, &targets)?.is_empty())
}

/// Marks the disks that the run makes full. Just before its job: what is written in between is in the
/// bitmaps of the job's checkpoint or in the job.
///
/// # Errors
/// By libvirt's code.
pub fn place(domain: &Domain, plan: &mut Plan) -> error::Result<()> {
    if plan.made_checkpoint().is_none() {
        return Ok(());
    }
    let full = plan.disks.iter().filter(|disk| disk.base.is_none() && !disk.raw).map(|disk| disk.target.clone());
    let new: Vec<String> = full.filter(|target| !plan.marked.contains(target)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let all = plan.disks.iter().map(|disk| &disk.target).chain(&plan.others);
    let others: Vec<String> = all.filter(|target| !new.contains(target)).cloned().collect();
    bitmap::create(domain, &name(plan.run), DESCRIPTION, &new, &others)?;
    plan.marked.extend(new);
    Ok(())
}

/// Removes a run's markers from all disks: the run failed, or its chain ended.
///
/// # Errors
/// By libvirt's code.
pub fn remove(domain: &Domain, run: Uuid) -> Result<()> {
    let config = DomainConfig::parse(&domain.xml(false)?)?;
    let targets: Vec<String> = config.disks.into_iter().map(|disk| disk.target).collect();
    remove_on(domain, run, &targets)
}

/// As [`remove`], from some disks.
///
/// # Errors
/// By libvirt's code.
pub fn remove_on(domain: &Domain, run: Uuid, targets: &[String]) -> Result<()> {
    let found = bitmap::remove(domain, &name(run), DESCRIPTION, targets)?;
    if !found.is_empty() {
        tracing::debug!("removed the marker of run {run} on {}", found.join(", "));
    }
    Ok(())
}

/// `known` without markers: a crash in the moment when libvirt knew one left it in its list.
///
/// # Errors
/// By libvirt's code.
pub fn forget_stray(domain: &Domain, known: Vec<Checkpoint>) -> error::Result<Vec<Checkpoint>> {
    let (stray, known): (Vec<_>, Vec<_>) = known.into_iter().partition(is_marker);
    for marker in stray {
        bitmap::forget(domain, &marker.name).map_err(|error| match error.kind() {
            Kind::Busy => error,
            _ => error.hint(format!("virsh checkpoint-delete --metadata {} {}", domain.name(), marker.name)),
        })?;
    }
    Ok(known)
}

/// Whether it is a marker that a crash left in libvirt's list.
pub fn is_marker(checkpoint: &Checkpoint) -> bool {
    run_of(&checkpoint.name).is_some()
}

/// The run whose marker bears that name.
pub fn run_of(name: &str) -> Option<Uuid> {
    Uuid::parse_str(name.strip_prefix(PREFIX)?).ok()
}
