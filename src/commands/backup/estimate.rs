//! How much a backup would be: `-p` and `-T`.

use std::io::Write;

use anyhow::Result;

use super::base::refuse_gap;
use super::disks::{Selected, Selection, refuse_other_domain};
use super::level::refuse_damaged;
use super::offline;
use super::plan::{Plan, domain_uuid};
use super::way::Way;
use crate::cancel::Cancel;
use crate::cli::backup::{Backup, LevelArg};
use crate::commands::foreign_raw;
use crate::error::Error;
use crate::exit::Exit;
use crate::libvirt::checkpoint;
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::libvirt::domain_xml::DomainConfig;
use crate::libvirt::probe;
use crate::phrases::CLASSIC;
use crate::set::Level;
use crate::set::catalogue::Catalogue;
use crate::set::layout::Layout;
use crate::units::exact;

/// Begin of the line with the sum of a domain's disks; the bytes follow.
pub const TOTAL: &str = "Estimated backup size: ";

/// Prints what a run would copy; touches nothing.
pub fn print(
    args: &Backup,
    connection: &Connection,
    domain: &Domain,
    layout: &Layout,
    cancel: &Cancel,
) -> Result<Exit> {
    let config = DomainConfig::parse(&domain.xml(false)?)?;
    let way = Way::of(connection, domain)?;
    let mut selection = Selection::of(args, domain, &config)?;
    let continued = continued(args, domain, layout)?;
    if let Some((catalogue, name)) = &continued {
        let level = if args.level == LevelArg::Diff { Level::Diff } else { Level::Inc };
        selection = selection.for_level(args, level, catalogue, &config)?;
        refuse_gaps(catalogue, name, &selection)?;
    }
    let base = continued.map(|(_, name)| name);
    let changed = match (&base, way) {
        // A checkpoint that can't be asked can't be built on either: that is a full.
        (Some(name), Way::Job) => probe::changed_sizes(domain, name).unwrap_or_default(),
        (Some(name), Way::Images) => selection
            .disks
            .iter()
            .filter_map(|Selected { disk, image, .. }| {
                Some((disk.target.clone(), offline::changed_size(domain.host(), image, name, cancel).ok()?))
            })
            .collect(),
        (None, _) => Vec::new(),
    };
    let mut lines = String::new();
    let mut total = 0_u64;
    for selected in &selection.disks {
        let disk = &selected.disk;
        let since = changed.iter().find(|(target, _)| *target == disk.target);
        let (level, bytes) = match (since, &base) {
            (Some((_, bytes)), Some(name)) => (format!("changed since {name}"), *bytes),
            _ => ("full, allocated".to_owned(), selected.allocation(domain, way)?),
        };
        total = total.saturating_add(bytes);
        lines.push_str(&format!("{}: {} {level}\n", disk.target, exact(bytes)));
    }
    if args.classic.estimate_as_message {
        tracing::info!(target: CLASSIC, "Estimated checkpoint backup size: [{total}] Bytes");
        return Ok(Exit::Done);
    }
    lines.push_str(&format!("{TOTAL}{}\n", exact(total)));
    std::io::stdout().lock().write_all(lines.as_bytes()).map_err(|error| Error::io("write to stdout", error))?;
    Ok(Exit::Done)
}

/// The set that an increment would go on with, and the checkpoint that it would build on; none where the run would be
/// full.
fn continued(args: &Backup, domain: &Domain, layout: &Layout) -> Result<Option<(Catalogue, String)>> {
    if matches!(args.level, LevelArg::Full | LevelArg::Copy) || !layout.directory().exists() {
        return Ok(None);
    }
    let catalogue = foreign_raw::open_set(layout.clone())?;
    refuse_other_domain(&catalogue, domain_uuid(domain)?)?;
    refuse_damaged(&catalogue)?;
    let known = checkpoint::list(domain)?;
    let newest = args.base.clone().or_else(|| catalogue.newest_base().and_then(|run| run.checkpoint.clone()));
    let newest = newest.filter(|name| known.iter().any(|checkpoint| checkpoint.name == *name));
    Ok(newest.map(|name| (catalogue, name)))
}

/// Refuses what the run itself would refuse: an increment that could never be restored.
fn refuse_gaps(catalogue: &Catalogue, checkpoint: &str, selection: &Selection) -> Result<()> {
    let Some(run) = catalogue.run_of_checkpoint(checkpoint) else { return Ok(()) };
    let targets = selection.disks.iter().map(|selected| &selected.disk.target);
    for target in targets.filter(|target| run.stream(target).is_some()) {
        refuse_gap(catalogue, run, target)?;
    }
    Ok(())
}

/// Whether `-T` says that this increment is not worth its while.
pub fn is_below_threshold(args: &Backup, domain: &Domain, plan: &Plan, cancel: &Cancel) -> Result<bool> {
    let (Some(threshold), true) = (args.threshold, plan.level.needs_base()) else { return Ok(false) };
    let mut estimate = 0_u64;
    for disk in &plan.disks {
        // A disk that must be full is reason enough.
        let Some(base) = &disk.base else { return Ok(false) };
        let changed = match plan.way {
            Way::Job => {
                let sizes = probe::changed_sizes(domain, &base.checkpoint)?;
                sizes.into_iter().find(|(target, _)| *target == disk.target).map_or(0, |(_, bytes)| bytes)
            }
            Way::Images => offline::changed_size(domain.host(), &disk.image, &base.checkpoint, cancel)?,
        };
        estimate = estimate.saturating_add(changed);
    }
    if estimate >= threshold {
        return Ok(false);
    }
    tracing::info!("Backup size [{estimate}] does not meet required threshold [{threshold}], skipping backup.");
    Ok(true)
}
