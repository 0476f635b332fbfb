//! `virtkeep backup`: a run of one domain into a set.
//!
//! ```text
//! connect -> clear what a dead run left -> plan -> intent -> freeze, begin the job, thaw
//!   -> configuration -> copy the disks -> end the job -> manifest (the commit) -> old checkpoints
//! ```
//!
//! Of a domain that is off the images are read instead (`offline.rs`).
//!
//! Until the manifest is written everything can be undone, and is, whatever fails.

pub(super) mod base;
mod bitlocker;
mod channel;
mod commit;
pub(super) mod compare;
mod config;
mod connections;
mod copy;
pub(super) mod directory;
pub(super) mod disks;
mod domain_lock;
mod ended;
pub(super) mod estimate;
pub(super) mod facts;
mod forget;
mod guard;
pub(super) mod guest;
mod job;
mod level;
mod listing;
pub(super) mod locks;
pub(super) mod marker;
mod media;
mod nbdinfo;
mod offline;
pub(super) mod old_chain;
mod outlived;
mod output;
mod phrases;
pub(super) mod plan;
mod scratch;
mod server;
mod share;
pub(super) mod socket;
pub(super) mod start_only;
mod tpm;
pub(super) mod undo;
mod watch;
mod way;
mod zeroes;

use std::time::Instant;

use anyhow::Result;

pub use self::commit::Outcome;
use self::facts::{Facts, Phase};
use self::guest::Hold;
use self::locks::Locks;
pub(super) use self::output::is_stdout;
use self::plan::{Export, Plan, domain_uuid};
use self::scratch::Scratch;
use self::undo::Keep;
use self::way::Way;
use super::link::Link;
use super::{Session, foreign_raw, watched};
use crate::cancel::Cancel;
use crate::cli::backup::Backup;
use crate::exit::Exit;
use crate::fault;
use crate::lock::Patience;
use crate::phrases::OWN;
use crate::set::catalogue::Catalogue;
use crate::set::layout::Layout;
use crate::set::records;
use crate::target::ZipTarget;
use crate::ui::log::on_disk;
use crate::ui::progress::format_duration;
use crate::units::format_bytes;

/// Runs the backup of the one domain in `args`; `facts` are what is known of it on the way, and of what came of it.
pub fn run(args: &Backup, session: &Session, facts: &Facts) -> Result<Exit> {
    let begin = Instant::now();
    output::check(args)?;
    let name = args.domain.first().map(String::as_str).unwrap_or_default();
    let link = Link::open(&args.hypervisor, name)?;
    let reached = link.reach()?;
    let layout = output::layout(args, &reached.domain)?;
    if args.printonly {
        return estimate::print(args, &reached.connection, &reached.domain, &layout, &session.cancel);
    }
    let zip = output::open(args, &session.cancel)?;
    facts.found(&reached.domain, &layout);
    session.log.about(reached.domain.name(), None);
    // It may mount what the set is on.
    watched::before(args, session, &facts.known())?;
    facts.reached(Phase::Prepare);
    let patience = Patience::new(args.wait, &session.cancel);
    let mut locks = Locks::take(&reached.domain, &layout, &patience)?;
    let mut hold = Hold::new(args, &link, domain_uuid(&reached.domain)?);
    hold.start_if_asked()?;
    let keep = Keep { partial: args.keep_partial, started: args.guest.start_domain };
    locks.clear_dead(&reached.domain, &layout, keep);
    if undo::clear_leftovers(&reached.domain, &layout, keep)? {
        hold.adopt_started()?;
    }
    locks.forget_dead();
    // What others do meanwhile would make a plan wrong.
    job::wait_until_idle(&link, &patience)?;
    facts.reached(Phase::Plan);
    let mut catalogue = foreign_raw::open_set(layout.clone())?;
    records::check(&layout, &mut catalogue, zip.is_some())?;
    let plan = Plan::make(args, &reached.connection, &reached.domain, &catalogue)?;
    drop(reached);
    facts.planned(&plan);
    session.log.about(&plan.config.name, Some(plan.run));
    plan.tell();
    phrases::planned(args, &plan);
    let run = Context { args, session, link: &link, layout: &layout, catalogue: &catalogue, zip: zip.as_ref(), facts };
    if estimate::is_below_threshold(args, &*link.reach()?, &plan, &session.cancel)? {
        hold.end();
        // A zip file without members: it can stand in the list of those that are restored from.
        zip.as_ref().map_or(Ok(()), |zip| zip.finish(&session.cancel))?;
        return Ok(Exit::Done);
    }
    if plan.way == Way::Job {
        Scratch::refuse(link.host(), args, &plan)?;
    }
    locks.begin(plan.run)?;
    let result = perform(&run, plan, &mut hold);
    hold.end();
    if result.is_err() {
        locks.keep_note_of(&layout);
    }
    let outcome = result?;
    tell(&outcome, begin);
    phrases::committed(&run, &outcome.manifest);
    facts.committed(&outcome.manifest);
    Ok(verdict(args, session, &outcome))
}

/// What the steps of a run share.
struct Context<'r> {
    args: &'r Backup,
    session: &'r Session,
    /// The way to the domain.
    link: &'r Link,
    /// The set's directory; of the records where the data goes to standard output.
    layout: &'r Layout,
    /// The zip file on standard output, where the data goes there.
    zip: Option<&'r ZipTarget>,
    /// The set as it was when the run began.
    catalogue: &'r Catalogue,
    /// What is known of the run on the way.
    facts: &'r Facts,
}

/// The part that leaves traces: all of them are in the intent, and undone if it fails.
fn perform(run: &Context<'_>, mut plan: Plan, hold: &mut Hold<'_>) -> Result<Outcome> {
    let layout = run.layout;
    run.facts.reached(Phase::Begin);
    commit::refuse_existing(layout, &plan)?;
    commit::open_log(run, &plan)?;
    plan.intent.held = hold.held();
    plan.intent.write(layout)?;
    let copy = |plan: &Plan, exports: &[Export], cancel: &Cancel| copy::domain(run, plan, exports, cancel);
    let result = fault::point("intent-written")
        .map_err(Into::into)
        .and_then(|()| match plan.way {
            Way::Job => job::run(run, &mut plan, hold, &copy),
            Way::Images => offline::run(run, &mut plan, &copy),
        })
        .and_then(|copied| {
            run.facts.reached(Phase::Commit);
            commit::run(run, &mut plan, copied)
        });
    if let Err(error) = &result {
        // The log file has it; the terminal gets it as the last word.
        tracing::debug!("the run failed: {}", crate::error::report(error.as_ref()));
        tracing::info!("undoing the run");
        plan.intent.held = hold.held();
        undo::failed_run(run, &plan.intent);
        // The log of a failed run stays; that it may be incomplete changes nothing.
        if !run.args.classic.own_log {
            let _ = run.session.log.close_file();
        }
    }
    result
}

fn tell(outcome: &Outcome, begin: Instant) {
    let manifest = &outcome.manifest;
    for disk in &manifest.disks {
        let _messages = on_disk(&disk.target);
        let zeroed = match disk.zeroed_size {
            0 => String::new(),
            bytes => format!(", {} zeroed", format_bytes(bytes)),
        };
        tracing::info!(
            target: OWN,
            "{}: {}{}: {} of {} read{zeroed}, {} stored in {}",
            disk.target,
            disk.level,
            if disk.raw { ", raw image" } else { "" },
            format_bytes(disk.data_size),
            format_bytes(disk.virtual_size),
            format_bytes(disk.stored_size),
            disk.file
        );
    }
    let checkpoint = manifest.checkpoint.as_deref().map(|name| format!(", checkpoint {name}")).unwrap_or_default();
    tracing::info!(
        target: OWN,
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
