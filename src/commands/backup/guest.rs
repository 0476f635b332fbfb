//! The guest around the moment of the backup: started, frozen, paused, and always let go again, by a
//! guard process even where this one is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use uuid::Uuid;

use super::guard::Guard;
use super::phrases;
use crate::cancel::Cancel;
use crate::cli::backup::{Backup, Guest};
use crate::commands::guard::{self, end_started};
use crate::commands::link::Link;
use crate::error::{self, Error, Kind};
use crate::fault;
use crate::libvirt::agent::{self, Freeze, FreezeOutcome, ThawOutcome};
use crate::libvirt::domain::{DiskError, Domain, PauseReason, State};
use crate::phrases::{CLASSIC, OWN};
use crate::set::intent::Held;
use crate::units;

/// A daemon that was restarted while the guest is held gets this long to come back.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a run does to the guest, and what is to be undone of it. Dropped, the guard undoes what is left.
#[derive(Debug)]
pub struct Hold<'r> {
    args: &'r Backup,
    link: &'r Link,
    domain: Uuid,
    held: Held,
    guard: Option<Guard>,
    thawing: Option<Thawing>,
}

/// How the quiet moment went.
#[derive(Debug)]
pub struct Quiet {
    /// In words, for the manifest.
    pub how: String,
    /// The thaw was not confirmed: the guest may be frozen.
    pub maybe_frozen: bool,
}

impl<'r> Hold<'r> {
    /// Nothing yet.
    pub fn new(args: &'r Backup, link: &'r Link, domain: Uuid) -> Self {
        Self { args, link, domain, held: Held::default(), guard: None, thawing: None }
    }

    /// What the run is going to do to the guest, for the intent.
    ///
    /// # Errors
    /// By libvirt's code.
    pub fn planned(&self) -> Result<Held> {
        let options = &self.args.guest;
        let frozen = !options.no_freeze && agent::is_configured(&*self.link.reach()?)?;
        Ok(Held { frozen, paused: options.pause, ..self.held })
    }

    /// What is to be undone now.
    pub fn held(&self) -> Held {
        self.held
    }

    /// Starts a stopped domain, paused, where that is asked for.
    ///
    /// # Errors
    /// By libvirt's code.
    pub fn start_if_asked(&mut self) -> Result<()> {
        let reached = self.link.reach()?;
        if !self.args.guest.start_domain || reached.is_active()? {
            return Ok(());
        }
        tracing::info!(at = "root check - vmstate", "Starting domain in paused state");
        self.guarded(|held| held.started = true)?;
        // Not with libvirt's auto-destroy: that would also end a guest that somebody resumed.
        Ok(reached.start_paused(false)?)
    }

    /// Takes over a domain that a dead run started and left paused.
    ///
    /// # Errors
    /// Where it can't be guarded.
    pub fn adopt_started(&mut self) -> Result<()> {
        Ok(self.guarded(|held| held.started = true)?)
    }

    /// Ends a domain that was started for the run, unless somebody resumed it.
    pub fn end(mut self) {
        if self.held.started {
            match self.link.reach().and_then(|reached| end_started(&reached)) {
                Ok(()) => self.released(|held| held.started = false),
                Err(error) => tracing::warn!("the domain may still be there, paused: {}", error::report(&error)),
            }
        }
    }

    /// Calls `begin` at a moment at which the guest's filesystems are frozen and the guest is paused, as
    /// far as that was asked for and is possible; says how it went.
    ///
    /// # Errors
    /// Those of `begin`; with `--require-freeze` a guest that can't be frozen.
    pub fn at_quiet_moment<T>(&mut self, begin: impl FnOnce() -> Result<T>) -> Result<(T, Quiet)> {
        let reached = self.link.reach()?;
        let freeze = self.freeze(&reached.domain)?;
        let result = self.pause(&reached.domain).and_then(|()| {
            fault::point("frozen")?;
            begin()
        });
        self.resume();
        let quiet = match freeze {
            Some(freeze) => self.thaw(freeze)?,
            None if self.args.guest.no_freeze => Quiet { how: "not asked for".to_owned(), maybe_frozen: false },
            None => Quiet { how: "not possible: the domain is paused".to_owned(), maybe_frozen: false },
        };
        Ok((result?, quiet))
    }

    /// Tries once more to thaw a guest that may be frozen.
    pub fn retry_thaw(&mut self, quiet: &mut Quiet) {
        let thawed = self.thawing.take().is_some_and(|thawing| thawing.is_done())
            || quiet.maybe_frozen && self.link.reach().is_ok_and(|reached| agent::thaw(&reached).is_ok());
        if quiet.maybe_frozen && thawed {
            quiet.maybe_frozen = false;
            self.released(|held| held.frozen = false);
        }
    }

    /// How long the guest may stand still: the agent may take its time to freeze before.
    fn limit(&self) -> Duration {
        let options = &self.args.guest;
        options.freeze_timeout.saturating_add(options.freeze_limit)
    }

    /// Puts the change to what is held under guard, before it is made.
    fn guarded(&mut self, change: impl FnOnce(&mut Held)) -> error::Result<()> {
        let limit = self.limit();
        let guard = match &mut self.guard {
            Some(guard) => guard,
            none => none.insert(Guard::start(self.link.hypervisor(), self.domain, limit)?),
        };
        let mut held = self.held;
        change(&mut held);
        guard.watch(held)?;
        self.held = held;
        Ok(())
    }

    /// The same after something has been undone.
    fn released(&mut self, change: impl FnOnce(&mut Held)) {
        change(&mut self.held);
        if let Some(Err(error)) = self.guard.as_mut().map(|guard| guard.watch(self.held)) {
            tracing::debug!("{}", error::report(&error));
        }
    }

    fn freeze<'d>(&mut self, domain: &'d Domain) -> Result<Option<Freeze<'d>>> {
        let options = &self.args.guest;
        if options.no_freeze {
            return Ok(None);
        }
        if let State::Paused(_) = domain.state()? {
            // Started for the backup it has no open files; paused by somebody it may.
            return match options.require_freeze && !options.start_domain {
                true => Err(Error::unsupported("the domain is paused: its filesystems can't be frozen").into()),
                false => {
                    let at = "fs fs - freeze";
                    tracing::info!(target: CLASSIC, at, "Skip freezing filesystems: domain is in paused state");
                    Ok(None)
                }
            };
        }
        let freeze = match agent::is_configured(domain)? {
            false => Freeze::unavailable(domain, "the domain has no channel to a guest agent"),
            true => match self.guarded(|held| held.frozen = true) {
                Ok(()) => Freeze::begin(domain, &options.freeze_mountpoint, options.freeze_timeout),
                Err(error) => Freeze::unavailable(domain, &error::report(&error)),
            },
        };
        if freeze.is_maybe_frozen() {
            self.thawing = Some(Thawing::begin(self.link, options.freeze_timeout));
        } else if !freeze.is_frozen() {
            self.released(|held| held.frozen = false);
        }
        judge(options, freeze).map(Some)
    }

    fn thaw(&mut self, freeze: Freeze<'_>) -> Result<Quiet> {
        let frozen = freeze.outcome().clone();
        let FreezeOutcome::Frozen { count } = &frozen else {
            let how = format!("not frozen: {}", describe(&frozen));
            return Ok(Quiet { how, maybe_frozen: freeze.is_maybe_frozen() });
        };
        let how =
            |held: Duration| format!("frozen: {} for {:.1} s", units::count(*count, "filesystem"), held.as_secs_f64());
        let since = freeze.since();
        let reason = match freeze.thaw() {
            ThawOutcome::Thawed { count: 0, .. } if *count > 0 => {
                self.released(|held| held.frozen = false);
                return self.thawed_before(since.elapsed());
            }
            ThawOutcome::Thawed { .. } | ThawOutcome::NotFrozen => {
                tracing::info!("thawed them after {:.1} s", since.elapsed().as_secs_f64());
                tracing::info!(target: CLASSIC, at = "fs fs - thaw", "Thawed [{count}] filesystems.");
                self.released(|held| held.frozen = false);
                return Ok(Quiet { how: how(since.elapsed()), maybe_frozen: false });
            }
            ThawOutcome::Failed(reason) => reason,
        };
        // A daemon that was restarted meanwhile has lost the connection, not the guest.
        let again = self.link.reach_within(PATIENCE, &Cancel::new()).map_err(|error| error::report(&error));
        match again.and_then(|reached| agent::thaw(&reached)) {
            Ok(_) => {
                tracing::info!("thawed them after {:.1} s, at the second try", since.elapsed().as_secs_f64());
                self.released(|held| held.frozen = false);
                Ok(Quiet { how: how(since.elapsed()), maybe_frozen: false })
            }
            Err(_) => {
                tracing::warn!("the guest may still be frozen: {reason}");
                let how = format!("frozen: {}; the thaw failed: {reason}", units::count(*count, "filesystem"));
                Ok(Quiet { how, maybe_frozen: true })
            }
        }
    }

    /// Somebody thawed it, before the job had begun or after: the guard when the time was over, or a person.
    fn thawed_before(&self, after: Duration) -> Result<Quiet> {
        let message = format!(
            "the guest's filesystems were thawed by another within {:.1} s, perhaps before the backup's moment",
            after.as_secs_f64()
        );
        if self.args.guest.require_freeze {
            return Err(Error::new(Kind::Io, message)
                .hint("run it again; --freeze-limit says how long they may stay frozen")
                .into());
        }
        tracing::warn!("{message}: the backup may be as after a power cut");
        Ok(Quiet { how: format!("perhaps not frozen: {message}"), maybe_frozen: false })
    }

    fn pause(&mut self, domain: &Domain) -> Result<()> {
        if self.args.guest.pause && domain.state()? == State::Running {
            self.guarded(|held| held.paused = true)?;
            domain.suspend()?;
            tracing::info!(target: CLASSIC, at = "root job - start", "Paused virtual machine.");
        }
        Ok(())
    }

    fn resume(&mut self) {
        if !self.held.paused {
            return;
        }
        match self.link.reach_within(PATIENCE, &Cancel::new()).and_then(|reached| guard::resume(&reached)) {
            Ok(()) => {
                tracing::info!(target: CLASSIC, at = "root job - start", "Resumed virtual machine.");
                self.released(|held| held.paused = false);
            }
            Err(error) => tracing::warn!("the domain may still be paused: {}", error::report(&error)),
        }
    }
}

/// A thread that thaws a guest whose agent did not answer, until it does.
#[derive(Debug)]
struct Thawing {
    done: Arc<AtomicBool>,
    given_up: Arc<AtomicBool>,
}

impl Thawing {
    fn begin(link: &Link, timeout: Duration) -> Self {
        let (done, given_up) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (link, end, stop) = (link.clone(), Arc::clone(&done), Arc::clone(&given_up));
        let work = move || {
            while !stop.load(Ordering::SeqCst) {
                if link.reach().is_ok_and(|reached| agent::thaw_within(&reached, timeout).is_ok()) {
                    tracing::info!("the guest agent answers again: thawed what it may have frozen");
                    end.store(true, Ordering::SeqCst);
                    break;
                }
                thread::sleep(Duration::from_millis(500));
            }
        };
        // Without the thread the guard thaws at the end.
        if let Err(error) = thread::Builder::new().name("thaw".to_owned()).spawn(work) {
            tracing::warn!("the guest may be frozen until the end of the run: {error}");
        }
        Self { done, given_up }
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }
}

impl Drop for Thawing {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::SeqCst);
    }
}

/// Says how the freeze went, and whether that will do.
fn judge<'d>(options: &Guest, freeze: Freeze<'d>) -> Result<Freeze<'d>> {
    match freeze.outcome() {
        FreezeOutcome::Frozen { count } if *count > 0 || !options.require_freeze => {
            tracing::info!(target: OWN, "froze {}", units::count(*count, "filesystem"));
            tracing::info!(target: CLASSIC, at = "fs fs - freeze", "Freezed [{count}] filesystems.");
        }
        _ if options.require_freeze => {
            return Err(Error::unsupported(format!(
                "the guest's filesystems can't be frozen: {}",
                describe(freeze.outcome())
            ))
            .hint("without --require-freeze the backup is made as after a power cut")
            .into());
        }
        FreezeOutcome::Unavailable(reason) => {
            tracing::info!(target: OWN, "filesystems are not frozen: {reason}");
            phrases::not_frozen(reason);
        }
        outcome => tracing::warn!("filesystems are not frozen: {}", describe(outcome)),
    }
    Ok(freeze)
}

fn describe(outcome: &FreezeOutcome) -> String {
    match outcome {
        FreezeOutcome::Frozen { count } => format!("{} frozen", units::count(*count, "filesystem")),
        FreezeOutcome::Unavailable(reason) | FreezeOutcome::Failed(reason) => reason.clone(),
        FreezeOutcome::TimedOut => "the guest agent did not answer in time".to_owned(),
    }
}

/// Whether QEMU has paused the guest because a file that it writes to could not grow.
pub fn is_paused_by_full_disk(domain: &Domain) -> bool {
    let paused = matches!(domain.state(), Ok(State::Paused(PauseReason::IoError)));
    paused && domain.disk_errors().is_ok_and(|errors| errors.iter().any(|(_, error)| *error == DiskError::NoSpace))
}

/// Resumes a guest that QEMU paused because the job's scratch file could not grow. The job must be
/// over, and the guest must not have been in that state before it.
pub fn resume_after_full_scratch(domain: &Domain) {
    if is_paused_by_full_disk(domain) {
        match domain.resume() {
            Ok(()) => {
                tracing::warn!("the guest was paused, for want of space for the job's scratch files, and is resumed")
            }
            Err(error) => tracing::warn!("the guest is paused, resume it: {}", error::report(&error)),
        }
    }
}
