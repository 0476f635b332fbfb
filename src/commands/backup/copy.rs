//! From a running job to its disks' partial files, or to members of a zip file.

use std::io::{BufWriter, Seek};
use std::sync::Arc;

use anyhow::Result;
use uuid::Uuid;

use super::config::{self, Extra};
use super::facts::Phase;
use super::job::DAEMON_PATIENCE;
use super::plan::{Export, Plan, PlannedDisk};
use super::{Context, connections, listing, phrases};
use crate::cancel::Cancel;
use crate::cli::backup::Backup;
use crate::commands::link::Reached;
use crate::commands::watched;
use crate::error::{self, Error, Kind};
use crate::extent::{self, Kind as ExtentKind};
use crate::fault;
use crate::file_writer::{FileWriter, Way};
use crate::nbd::block_status::ALLOCATION;
use crate::nbd::client::{Client, Limits};
use crate::phrases::{CLASSIC, OWN};
use crate::pipeline::backup::{Source, copy, copy_raw};
use crate::pipeline::pace::Pace;
use crate::set::layout::{PARTIAL, index_name};
use crate::side_by_side;
use crate::stream::codec::Compression;
use crate::stream::meta::{Meta, Own};
use crate::stream::out::Placed;
use crate::stream::writer::Finished;
use crate::ui::log::on_disk;
use crate::units::format_bytes;

/// Headers and small frames on their way to a pipe are gathered to this size.
const WRITE_BUFFER: usize = 1 << 20;

/// One disk's stream.
#[derive(Debug)]
pub struct CopiedDisk {
    /// Target name.
    pub target: String,
    /// Size of the disk.
    pub virtual_size: u64,
    /// Changed bytes that read as zeroes.
    pub zeroed_size: u64,
    /// The file.
    pub finished: Finished,
}

/// What a run has of the domain.
#[derive(Debug)]
pub struct Copied {
    /// By disk, in the order of the plan.
    pub disks: Vec<CopiedDisk>,
    /// The domain's configuration at the moment of the disks.
    pub config: Vec<Extra>,
}

/// Copies the domain: its configuration, which is of the moment of the disks, then those.
///
/// # Errors
/// By libvirt's code; as for [`all`].
pub fn domain(run: &Context<'_>, plan: &Plan, exports: &[Export], cancel: &Cancel) -> Result<Copied> {
    let gather = |reached: &Arc<Reached>| config::gather(reached, plan, &run.args.guest, cancel);
    let config = run.link.ask(DAEMON_PATIENCE, cancel, gather)?;
    fault::point("config-gathered")?;
    run.facts.reached(Phase::Copy);
    Ok(Copied { disks: all(run, plan, exports, cancel)?, config })
}

/// Copies the disks from where `exports` says for each of them, as many at a time as asked; the first error
/// stops all.
///
/// # Errors
/// Of the disk that failed first.
fn all(run: &Context<'_>, plan: &Plan, exports: &[Export], cancel: &Cancel) -> Result<Vec<CopiedDisk>> {
    let workers = connections::at_once(run, plan);
    let pace = run.args.speed.rate_limit.map(Pace::new);
    tracing::debug!(target: OWN, "Concurrent backup processes: [{workers}]");
    tracing::info!(target: CLASSIC, "Concurrent backup processes: [{workers}]");
    let pairs: Vec<_> = plan.disks.iter().zip(exports).collect();
    let results = side_by_side::map(&pairs, workers, |(disk, export)| {
        let result = one(run, plan, disk, export, pace.as_ref(), cancel);
        result.inspect_err(|_| cancel.cancel()).map_err(|error| error.disk(&disk.target))
    })?;
    run.session.cancel.check()?;
    let (mut disks, mut failures) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(disk) => disks.push(disk),
            Err(error) => failures.push(Err(error)),
        }
    }
    Error::first_of(failures)?;
    Ok(disks)
}

/// Copies one disk into its partial file.
fn one(
    run: &Context<'_>,
    plan: &Plan,
    disk: &PlannedDisk,
    export: &Export,
    pace: Option<&Pace>,
    cancel: &Cancel,
) -> error::Result<CopiedDisk> {
    let _messages = on_disk(&disk.target);
    let layout = run.layout;
    let Export { uri, bitmap } = export;
    let contexts: Vec<&str> = [ALLOCATION].into_iter().chain(bitmap.as_deref()).collect();
    phrases::connecting(disk, uri);
    let mut first = Client::connect(uri, &contexts, cancel).map_err(|error| plan.channel.explain(error).of_export())?;
    phrases::connected(run.args, disk);
    let extents = listing::extents(run, disk, &mut first, uri, bitmap.as_deref()).map_err(Error::of_export)?;
    let size = first.size();
    if disk.base.as_ref().is_some_and(|base| base.virtual_size != size) {
        return Err(Error::new(Kind::Protocol, format!("its size changed to {size} bytes since the run was planned")));
    }
    let data_size = extent::total(&extents, ExtentKind::Data);
    let zeroed = extent::total(&extents, ExtentKind::Zero);
    let count = extents.iter().filter(|extent| extent.kind() == ExtentKind::Data).count();
    tracing::info!(target: OWN, "{}: Got {count} extents to backup, {}", disk.target, format_bytes(data_size));
    fault::point("extents-known")?;
    let meta = meta(run.args, plan, disk, size, data_size);
    let told = if disk.base.is_some() { count } else { extents.len() };
    let path = run.zip.is_none().then(|| layout.directory().join(format!("{}{PARTIAL}", disk.file)));
    phrases::extents(disk, told, data_size, size, path.as_deref());
    let clients = connections::open(run, plan, first, uri, &extents, cancel).map_err(Error::of_export)?;
    // Zero ranges are nearly free to copy: what counts is data.
    let meter = run.session.display.meter(&disk.target, data_size);
    let own_pace = run.args.speed.disk_rate_limit.map(Pace::new);
    let paces: Vec<&Pace> = pace.into_iter().chain(&own_pace).collect();
    let limits = run.args.speed.request_size.map_or_else(Limits::default, Limits::of_size);
    let source = Source { extents: &extents, meta: &meta, limits, paces: &paces };
    let finished = match run.zip {
        None if disk.verbatim => into_file(run, disk, |file| {
            let index = layout.file(&format!("{}{PARTIAL}", index_name(&disk.file)))?;
            let mut index = layout.create_new(&index)?;
            fault::point("index-created")?;
            let copied = copy_raw(&source, clients, file, &mut index, &layout.private(), &meter, cancel)?;
            fault::point("index-written")?;
            index.sync_all().map_err(|error| Error::io("sync", error))?;
            Ok(copied)
        })?,
        None => into_file(run, disk, |file| copy(&source, clients, file, &layout.private(), &meter, cancel))?,
        Some(zip) if disk.verbatim => {
            // A member of its own, and as long as that of the image may be: it waits in a file.
            let spooled = |error| Error::io("write a temporary file", error).path(layout.private());
            let mut index = tempfile::tempfile_in(layout.private()).map_err(spooled)?;
            let finished = zip.stream(&disk.file, cancel, |out| {
                fault::point("stream-created")?;
                let out = BufWriter::with_capacity(WRITE_BUFFER, out);
                copy_raw(&source, clients, out, &mut index, &layout.private(), &meter, cancel)
                    .map(|(_, finished)| finished)
            })?;
            index.rewind().map_err(spooled)?;
            zip.stream(&index_name(&disk.file), cancel, |out| {
                std::io::copy(&mut index, out).map(drop).map_err(|error| Error::io("write", error))
            })?;
            finished
        }
        Some(zip) => zip.stream(&disk.file, cancel, |out| {
            fault::point("stream-created")?;
            let out = BufWriter::with_capacity(WRITE_BUFFER, out);
            copy(&source, clients, out, &layout.private(), &meter, cancel).map(|(_, finished)| finished)
        })?,
    };
    fault::point("stream-written")?;
    // A guest that may be frozen waits for the end of the run as it is.
    if !plan.intent.held.frozen {
        watched::after_disk(run.args, &run.facts.known(), &disk.target, &disk.file, cancel);
    }
    let zeroed_size = if meta.incremental { zeroed } else { 0 };
    Ok(CopiedDisk { target: disk.target.clone(), virtual_size: size, zeroed_size, finished })
}

/// Has `copy` write the disk's partial file, and makes that durable.
fn into_file(
    run: &Context<'_>,
    disk: &PlannedDisk,
    copy: impl FnOnce(Placed) -> error::Result<(Placed, Finished)>,
) -> error::Result<Finished> {
    let layout = run.layout;
    let path = layout.file(&format!("{}{PARTIAL}", disk.file))?;
    let file = layout.create_new(&path)?;
    fault::point("stream-created")?;
    let file = FileWriter::new(file).with_way(Way::asked(run.args.speed.page_cache));
    let (file, finished) = copy(Placed::new(file)).map_err(|error| error.path(&path))?;
    file.sync().map_err(|error| Error::io("sync", error).path(&path))?;
    Ok(finished)
}

fn meta(args: &Backup, plan: &Plan, disk: &PlannedDisk, virtual_size: u64, data_size: u64) -> Meta {
    Meta {
        virtual_size,
        data_size,
        date: plan.started.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string(),
        disk_name: disk.target.clone(),
        disk_format: disk.disk.driver_format.clone().unwrap_or_else(|| "qcow2".to_owned()),
        checkpoint_name: plan.checkpoint.clone(),
        parent_checkpoint: disk.base.as_ref().map(|base| base.checkpoint.clone()).unwrap_or_default(),
        incremental: disk.base.is_some(),
        compression: match args.compress {
            // The file is the disk itself.
            _ if disk.verbatim => Compression::None,
            Some(level) => Compression::Lz4 { level },
            None => Compression::None,
        },
        stream_version: 2,
        own: Some(own(plan.run)),
    }
}

fn own(run: Uuid) -> Own {
    Own { format: 1, run, index: true }
}
