//! `virtkeep backup`: a run of one domain into a set.
//!
//! ```text
//! connect -> clear what a dead run left -> plan -> intent -> freeze, begin the job, thaw
//!   -> configuration -> copy the disks -> end the job -> manifest (the commit) -> old checkpoints
//! ```
//!
//! Until the manifest is written everything can be undone, and is, whatever fails.

pub(super) mod base;
mod commit;
mod config;
mod copy;
pub(super) mod disks;
mod estimate;
pub(super) mod guest;
pub(super) mod old_chain;
pub(super) mod orphans;
pub(super) mod plan;
pub(super) mod undo;
mod zeroes;

use std::time::Instant;

use anyhow::Result;

use self::commit::Outcome;
use self::guest::Started;
use self::plan::Plan;
use super::{Session, connect};
use crate::cli::backup::Backup;
use crate::exit::Exit;
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::set::catalogue::Catalogue;
use crate::set::layout::Layout;
use crate::set::lock::Lock;
use crate::ui::progress::format_duration;
use crate::units::format_bytes;

/// Runs the backup.
pub fn run(args: &Backup, session: &Session) -> Result<Exit> {
    let begin = Instant::now();
    let connection = connect::open(&args.hypervisor)?;
    connect::require_local(&connection)?;
    let domain = connection.domain(&args.domain)?;
    let layout = Layout::new(std::path::absolute(&args.output)?);
    if args.printonly {
        return estimate::print(args, &connection, &domain, &layout);
    }
    layout.create()?;
    let _lock = Lock::acquire(&layout)?;

    let started = Started::if_asked(&domain, args.guest.start_domain)?;
    undo::clear_leftovers(&domain, &layout)?;
    let catalogue = Catalogue::open(layout.clone())?;
    let plan = Plan::make(args, &connection, &domain, &catalogue)?;
    plan.tell();
    if estimate::is_below_threshold(args, &domain, &plan)? {
        return Ok(Exit::Done);
    }
    let run = Context { args, session, connection: &connection, domain: &domain, catalogue: &catalogue };
    let result = perform(&run, plan);
    started.end();
    let outcome = result?;
    tell(&outcome, begin);
    Ok(verdict(args, session, &outcome))
}

/// What the steps of a run share.
struct Context<'r> {
    args: &'r Backup,
    session: &'r Session,
    connection: &'r Connection,
    domain: &'r Domain,
    /// The set as it was when the run began.
    catalogue: &'r Catalogue,
}

/// The part that leaves traces: all of them are in the intent, and undone if it fails.
fn perform(run: &Context<'_>, mut plan: Plan) -> Result<Outcome> {
    let layout = &run.catalogue.layout;
    commit::refuse_existing(layout, &plan)?;
    commit::open_log(run.session, layout, &plan)?;
    plan.intent(run.connection).write(layout)?;
    let result = copy::disks(run, &mut plan).and_then(|copied| commit::run(run, &plan, copied));
    if let Err(error) = &result {
        // The log file has it; the terminal gets it as the last word.
        tracing::debug!("the run failed: {}", crate::error::report(error.as_ref()));
        tracing::info!("undoing the run");
        undo::failed_run(run, plan.intent(run.connection));
        // The log of a failed run stays; that it may be incomplete changes nothing.
        let _ = run.session.log.close_file();
    }
    result
}

fn tell(outcome: &Outcome, begin: Instant) {
    let manifest = &outcome.manifest;
    for disk in &manifest.disks {
        let zeroed = match disk.zeroed_size {
            0 => String::new(),
            bytes => format!(", {} zeroed", format_bytes(bytes)),
        };
        tracing::info!(
            "{}: {}: {} of {} read{zeroed}, {} stored in {}",
            disk.target,
            disk.level,
            format_bytes(disk.data_size),
            format_bytes(disk.virtual_size),
            format_bytes(disk.stored_size),
            disk.file
        );
    }
    let checkpoint = manifest.checkpoint.as_deref().map(|name| format!(", checkpoint {name}")).unwrap_or_default();
    tracing::info!(
        "Finished successfully: {} backup of {}{checkpoint}, {} in {} (run {})",
        manifest.level,
        manifest.domain,
        format_bytes(manifest.disks.iter().map(|disk| disk.stored_size).sum()),
        format_duration(begin.elapsed()),
        manifest.run
    );
}

fn verdict(args: &Backup, session: &Session, outcome: &Outcome) -> Exit {
    if outcome.missed || outcome.maybe_frozen || (args.strict && !session.log.warnings().is_empty()) {
        Exit::Look
    } else {
        Exit::Done
    }
}
