//! A backup job without a backup, for a look at it or for another reader: `-s` and `-k` of virtnbdbackup.

use anyhow::Result;

use super::guest::Hold;
use super::plan::{Plan, domain_uuid};
use super::{job, output, phrases};
use crate::cli::backup::{Backup, LevelArg};
use crate::commands::Session;
use crate::commands::link::Link;
use crate::error::{Error, Kind};
use crate::exit::Exit;
use crate::libvirt::backup_job::{self, PRESERVE_SHUTDOWN_VERSION};
use crate::lock::Patience;
use crate::phrases::CLASSIC;
use crate::set::catalogue::Catalogue;
use crate::set::layout::Layout;

/// Begins the job and leaves it, with its NBD server, to the caller. It never makes a checkpoint: without the
/// data that goes with it, it would end the chain.
///
/// # Errors
/// As of a backup.
pub fn begin(mut args: Backup, session: &Session) -> Result<Exit> {
    if args.guest.start_domain {
        return Err(Error::usage("a domain that is started for the job would be ended with this program")
            .hint("start it first: virsh start --paused DOMAIN")
            .into());
    }
    let link = Link::open(&args.hypervisor, name(&args))?;
    let reached = link.reach()?;
    if !reached.domain.is_active()? {
        tracing::error!(target: CLASSIC, "Domain is offline: must be active for this function.");
        let message = format!("domain {} is off: there is no job without QEMU", name(&args));
        return Err(Error::unsupported(message).hint("start it first: virsh start --paused DOMAIN").into());
    }
    job::wait_until_idle(&link, &Patience::new(args.wait, &session.cancel))?;
    // What is exported whole has nothing to do with what the directory holds.
    let nowhere = tempfile::tempdir()?;
    let layout = match args.level {
        LevelArg::Inc | LevelArg::Diff => {
            args.level = LevelArg::Diff;
            output::layout(&args, &reached.domain)?
        }
        LevelArg::Copy | LevelArg::Full | LevelArg::Auto => {
            args.level = LevelArg::Copy;
            Layout::new(nowhere.path())
        }
    };
    let catalogue = Catalogue::open(layout)?;
    let plan = Plan::make(&args, &reached.connection, &reached.domain, &catalogue)?;
    phrases::planned(&args, &plan);
    let preserve = reached.connection.daemon_version()? >= PRESERVE_SHUTDOWN_VERSION;
    let mut hold = Hold::new(&args, &link, domain_uuid(&reached.domain)?);
    tracing::info!(target: CLASSIC, at = "root job - start", "Starting backup job.");
    hold.at_quiet_moment(|| Ok(backup_job::begin(&reached.domain, &plan.job(), None, preserve)?))?;
    hold.end();
    tracing::info!(target: CLASSIC, "Started backup job for debugging, exiting.");
    tracing::info!("the job stays until -k ends it, or `virsh domjobabort {}`", name(&args));
    Ok(Exit::Done)
}

/// Ends the backup job that the domain has.
///
/// # Errors
/// [`Kind::NotFound`] where it has none, [`Kind::Busy`] where it is busy with something else.
pub fn end(args: &Backup) -> Result<Exit> {
    let link = Link::open(&args.hypervisor, name(args))?;
    tracing::info!(target: CLASSIC, "Stopping backup job");
    if backup_job::abort_any(&*link.reach()?)? {
        return Ok(Exit::Done);
    }
    let message = format!("domain {} has no backup job", name(args));
    tracing::warn!(target: CLASSIC, at = "virt client - stopBackup", "Failed to stop backup job: [{message}]");
    Err(Error::new(Kind::NotFound, message).into())
}

fn name(args: &Backup) -> &str {
    args.domain.first().map(String::as_str).unwrap_or_default()
}
