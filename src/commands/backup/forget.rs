//! What goes of the records of backups that went to standard output, so that they do not pile up: manifests, logs and
//! checkpoints' XML of runs that no increment can build on any more, and logs of runs that failed.
//!
//! ```text
//! chain A: .0 .1 .2   copy   full .3 (chain B)   inc .4     after .3: the copy;  after .4: .0 .1 .2
//! ```
//!
//! A chain stays for as long as a checkpoint of it is on the domain, or its newest run is the one before this
//! one: `--base` may still begin there.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::Context;
use super::outlived::{kept_roots, roots};
use super::plan::Plan;
use crate::error::{Result, report};
use crate::libvirt::checkpoint::{self, Checkpoint};
use crate::libvirt::domain::Domain;
use crate::set::catalogue::{Catalogue, Run};
use crate::set::layout::{Layout, remove};
use crate::set::manifest::{Manifest, Role};
use crate::set::records;

/// Removes them, now that the run of `manifest` is committed. What stays is removed by a later run.
pub fn stale(run: &Context<'_>, domain: &Domain, plan: &Plan, manifest: &Manifest) {
    if !records::is_of_stdout(run.layout) {
        return;
    }
    if let Err(error) = remove_stale(run, domain, plan, manifest) {
        tracing::debug!("old records stay: {}", report(&error));
    }
}

fn remove_stale(run: &Context<'_>, domain: &Domain, plan: &Plan, manifest: &Manifest) -> Result<()> {
    let (layout, catalogue) = (run.layout, run.catalogue);
    let known = checkpoint::list(domain)?;
    let (kept, stale) = sorted(catalogue, &known, kept_roots(plan, catalogue)?);
    let mut names: BTreeSet<String> = BTreeSet::new();
    for old in stale.iter().filter_map(|run| run.manifest.as_ref()) {
        let records = old.files.iter().filter(|file| matches!(file.role, Role::Log | Role::CheckpointXml));
        names.extend(records.map(|file| file.name.clone()));
        // The manifest last: it is what tells of the others.
        names.insert(Layout::manifest_name(old.run));
    }
    let kept: Vec<&Manifest> = kept.iter().filter_map(|run| run.manifest.as_ref()).chain([manifest]).collect();
    names.extend(lost_logs(catalogue)?);
    for file in kept.iter().flat_map(|manifest| &manifest.files) {
        names.remove(&file.name);
    }
    let (manifests, others): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.starts_with("manifest."));
    for name in others.iter().chain(&manifests) {
        remove(&layout.file(name)?)?;
    }
    if !manifests.is_empty() {
        tracing::debug!("removed the records of {} runs that nothing can build on any more", manifests.len());
    }
    Ok(())
}

/// The runs that stay, and those that go. `wanted` are the fulls that must stay: with a run stays all that it builds
/// on, of each of its disks. One of which that can't be told stays.
fn sorted<'c>(
    catalogue: &'c Catalogue,
    known: &[Checkpoint],
    mut wanted: BTreeSet<Uuid>,
) -> (Vec<&'c Run>, Vec<&'c Run>) {
    let (mut kept, mut stale) = (Vec::new(), catalogue.runs.iter().collect::<Vec<_>>());
    loop {
        let is_stale = |run: &&Run| {
            !is_on_domain(run, known) && roots(catalogue, run).is_ok_and(|roots| roots.is_disjoint(&wanted))
        };
        let (left, more): (Vec<&Run>, Vec<&Run>) = stale.into_iter().partition(is_stale);
        stale = left;
        if more.is_empty() {
            return (kept, stale);
        }
        wanted.extend(more.iter().filter_map(|run| roots(catalogue, run).ok()).flatten());
        kept.extend(more);
    }
}

/// Whether the domain has the run's checkpoint: without the run's record it would be somebody else's.
fn is_on_domain(run: &Run, known: &[Checkpoint]) -> bool {
    run.checkpoint.as_ref().is_some_and(|name| known.iter().any(|known| known.name == *name))
}

/// All logs; those of the runs that stay are taken out of the list.
fn lost_logs(catalogue: &Catalogue) -> Result<Vec<String>> {
    Ok(catalogue.files.names()?.into_iter().filter(|name| is_log(name)).collect())
}

/// `backup.LEVEL.TIME.log`, `backup.LEVEL.TIME.RUN.log`: the directory may have other people's files.
fn is_log(name: &str) -> bool {
    let Some(stem) = name.strip_prefix("backup.").and_then(|rest| rest.strip_suffix(".log")) else { return false };
    let is_time = |text: &str| text.len() == 14 && text.bytes().all(|byte| byte.is_ascii_digit());
    match stem.split('.').collect::<Vec<_>>().as_slice() {
        [_, time] => is_time(time),
        [_, time, run] => is_time(time) && Uuid::parse_str(run).is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_told_by_their_names() {
        for name in [
            "backup.full.11222026152512.log",
            "backup.auto.11222026152512.log",
            "backup.inc.11222026152512.4d0b2500-a965-4f09-b33b-49498c87925f.log",
        ] {
            assert!(is_log(name), "{name}");
        }
        for name in
            ["backup.log", "backup.2026.log", "backup.full.1122202615251x.log", "backup.inc.11222026152512.x.log"]
        {
            assert!(!is_log(name), "{name}");
        }
    }
}
