//! A run of a domain that is off: its images are read, each through a `qemu-nbd` of ours that opens it
//! read-only.
//!
//! ```text
//! marker, checkpoint told to libvirt, its bitmap added to all images -> all images opened -> copied -> closed
//! ```
//!
//! The bitmap comes before the reading: what is written in between is in both, and none of it is lost. From the
//! moment at which all images are open nobody can write to them, QEMU's lock sees to it: that is the point in
//! time. The price is that the domain can't be started until the copy is done.

use std::path::Path;

use anyhow::Result;
use uuid::Uuid;

use super::connections;
use super::guest::Quiet;
use super::job::{DAEMON_PATIENCE, Done, Work};
use super::plan::{Export, Plan, PlannedDisk};
use super::server::Server;
use super::{Context, base, marker, old_chain};
use crate::cancel::Cancel;
use crate::cli::backup::Guest;
use crate::error::{self, Error, Kind};
use crate::extent::{self, Kind as ExtentKind};
use crate::fault;
use crate::host::Host;
use crate::libvirt::checkpoint::{self, Checkpoint, CheckpointDisk};
use crate::libvirt::domain::Domain;
use crate::libvirt::domain_xml::DomainConfig;
use crate::libvirt::images::{Images, started_meanwhile, was_started};
use crate::nbd::block_status::{self, ALLOCATION};
use crate::nbd::client::Client;
use crate::qemu::bitmap::IN_USE;
use crate::qemu::nbd::ServeOptions;
use crate::set::moment;

/// Has the `work` done on the images.
///
/// # Errors
/// [`Kind::Busy`] where an image is in use or the domain is started meanwhile; of the work.
pub fn run<T>(run: &Context<'_>, plan: &mut Plan, work: &Work<'_, T>) -> Result<Done<T>> {
    let cancel = &run.session.cancel;
    cancel.check()?;
    let quiet = quiet(&run.args.guest, &*run.link.reach()?)?;
    tracing::info!("domain {} is off: its images are read, it can't be started until that is done", plan.config.name);
    prepare(run, plan)?;
    let servers = plan.disks.iter().map(|disk| serve(run, plan, disk)).collect::<Result<Vec<_>>>()?;
    fault::point("served")?;
    let point_in_time = moment::now();
    // What is so now was so when they were opened.
    run.link.ask(DAEMON_PATIENCE, cancel, |reached| refuse_changed(reached, plan))?;
    let exports: Vec<Export> = plan
        .disks
        .iter()
        .zip(&servers)
        .map(|(disk, server)| Export { uri: server.uri(), bitmap: context(disk) })
        .collect();
    let value = work(plan, &exports, &cancel.child())?;
    fault::point("copied")?;
    // A file system without locks would have let it.
    run.link.ask(DAEMON_PATIENCE, cancel, |reached| refuse_started(reached))?;
    servers.into_iter().try_for_each(Server::finish)?;
    fault::point("job-ended")?;
    Ok(Done { value, point_in_time, quiet })
}

/// What changed in an image since `bitmap` began to record, in bytes.
///
/// # Errors
/// Of the image and its bitmap.
pub fn changed_size(host: &Host, image: &Path, bitmap: &str, cancel: &Cancel) -> error::Result<u64> {
    let bound_to = Some(Uuid::new_v4());
    let options = ServeOptions { bitmap: Some(bitmap.to_owned()), bound_to, ..ServeOptions::default() };
    let server = Server::start(host, image, "qcow2", &options, cancel)?;
    let context = context_of(bitmap);
    let extents =
        block_status::changed(&mut Client::connect(&server.uri(), &[ALLOCATION, &context], cancel)?, &context)?;
    server.finish()?;
    Ok(extent::total(&extents, ExtentKind::Data) + extent::total(&extents, ExtentKind::Zero))
}

/// Says what was asked for and has no meaning for a guest that does not run.
fn quiet(options: &Guest, domain: &Domain) -> Result<Quiet> {
    let saved = domain.has_managed_save()?;
    if saved && options.require_freeze {
        return Err(Error::unsupported("the guest's memory is saved: its filesystems are open, and can't be frozen")
            .hint(
                "start the domain, or shut it down from within; without --require-freeze the backup is made as \
                   after a power cut",
            )
            .into());
    }
    if options.pause || options.require_freeze || !options.freeze_mountpoint.is_empty() {
        tracing::info!("the domain is off: there is nothing to pause or to freeze");
    }
    let how = match saved {
        true => "not possible: the domain is off, and its memory saved",
        false => "not needed: the domain is off",
    };
    Ok(Quiet { how: how.to_owned(), maybe_frozen: false })
}

/// Makes the checkpoint, if the run makes one. A crash anywhere in it leaves a checkpoint of which some bitmaps
/// are missing, and that says whose it is.
fn prepare(run: &Context<'_>, plan: &mut Plan) -> Result<()> {
    let reached = run.link.reach()?;
    let images = Images::of_stopped(&reached)?.ok_or_else(|| was_started(&reached))?;
    let targets = plan.bitmap_targets();
    let images = images.refuse_unreadable(&targets)?;
    // First: an image in use shows here, before the old chain loses anything.
    marker::place(&reached, plan)?;
    fault::point("marked")?;
    old_chain::free_name(&reached, plan)?;
    fault::point("name-freed")?;
    let Some(name) = plan.made_checkpoint() else { return Ok(()) };
    old_chain::remove_orphans(&reached, plan)?;
    let known = checkpoint::list(&reached)?;
    let new = Checkpoint {
        name: name.to_owned(),
        xml: String::new(),
        parent: known.last().map(|newest| newest.name.clone()),
        description: Some(plan.description()),
        creation_time: u64::try_from(moment::now().timestamp().as_second()).unwrap_or_default(),
        disks: targets
            .iter()
            .map(|target| CheckpointDisk { target: target.clone(), bitmap: name.to_owned() })
            .collect(),
    };
    checkpoint::redefine(&reached, &new.redefine_xml()?, false)?;
    fault::point("checkpoint-told")?;
    images.add(name, &targets)?;
    Ok(fault::point("recording")?)
}

fn serve(run: &Context<'_>, plan: &Plan, disk: &PlannedDisk) -> Result<Server> {
    let options = ServeOptions {
        // And one for nbdinfo, which looks at the extents while we do.
        connections: connections::most_of_a_disk(run, plan) + 1,
        bitmap: disk.base.as_ref().map(|base| base.checkpoint.clone()),
        bound_to: Some(plan.run),
        ..ServeOptions::default()
    };
    let format = if disk.raw { "raw" } else { "qcow2" };
    let served = Server::start(run.link.host(), &disk.image, format, &options, &run.session.cancel);
    Ok(served.map_err(|error| {
        let error = if error.kind() == Kind::Busy { error.hint(IN_USE) } else { error };
        match run.link.reach() {
            Ok(reached) => started_meanwhile(&reached, error).disk(&disk.target),
            Err(_) => error.disk(&disk.target),
        }
    })?)
}

fn context(disk: &PlannedDisk) -> Option<String> {
    disk.base.as_ref().map(|base| context_of(&base.checkpoint))
}

fn context_of(bitmap: &str) -> String {
    format!("qemu:dirty-bitmap:{bitmap}")
}

fn refuse_started(domain: &Domain) -> error::Result<()> {
    match domain.is_active()? {
        false => Ok(()),
        true => Err(was_started(domain)),
    }
}

/// Refuses to go on where the images are not the domain's any more, or a base not the checkpoint it was.
fn refuse_changed(domain: &Domain, plan: &Plan) -> error::Result<()> {
    refuse_started(domain)?;
    if DomainConfig::parse(&domain.xml(false)?)? != plan.config {
        let message = format!("domain {} was changed since the run was planned", domain.name());
        return Err(Error::new(Kind::Busy, message).hint("run the backup again"));
    }
    base::refuse_replaced(domain, &plan.disks)
}
