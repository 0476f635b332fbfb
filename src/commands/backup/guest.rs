//! The guest around the moment of the backup: started, frozen, paused, and always let go again.

use anyhow::Result;

use crate::cli::backup::Guest;
use crate::error::{self, Error};
use crate::libvirt::agent::{self, Freeze, FreezeOutcome, ThawOutcome};
use crate::libvirt::domain::{DiskError, Domain, PauseReason, State};

/// A domain that was started for the backup; ended when this is, if nobody resumed it.
#[derive(Debug)]
pub struct Started<'d> {
    domain: Option<&'d Domain>,
}

impl<'d> Started<'d> {
    /// Starts a stopped domain, paused, where `asked`.
    pub fn if_asked(domain: &'d Domain, asked: bool) -> Result<Self> {
        if !asked || domain.is_active()? {
            return Ok(Self { domain: None });
        }
        tracing::info!("Starting domain in paused state");
        // Not with libvirt's auto-destroy: that would also end a guest that somebody resumed.
        domain.start_paused(false)?;
        Ok(Self { domain: Some(domain) })
    }

    /// Ends the domain if it is still paused.
    pub fn end(mut self) {
        self.end_if_paused();
    }

    fn end_if_paused(&mut self) {
        let Some(domain) = self.domain.take() else { return };
        let result = match domain.state() {
            // Paused for another reason it was resumed and met an error: its owner's business.
            Ok(State::Paused(PauseReason::User | PauseReason::StartingUp)) => domain.destroy(),
            Ok(_) => {
                tracing::info!("domain {} was resumed meanwhile and is left as it is", domain.name());
                Ok(())
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!("domain {} may still be there, paused: {}", domain.name(), error::report(&error))
            }
        }
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        self.end_if_paused();
    }
}

/// How the quiet moment went.
#[derive(Debug)]
pub struct Quiet {
    /// In words, for the manifest.
    pub how: String,
    /// The thaw was not confirmed: the guest may be frozen.
    pub maybe_frozen: bool,
}

impl Quiet {
    /// Tries once more to thaw a guest that may be frozen.
    pub fn retry(&mut self, domain: &Domain) {
        if self.maybe_frozen && agent::thaw(domain).is_ok() {
            tracing::info!("thawed the guest at last");
            self.maybe_frozen = false;
        }
    }
}

/// Resumes a guest that QEMU paused because the job's scratch file could not grow. The job must be
/// over.
pub fn resume_after_full_scratch(domain: &Domain) {
    let paused = matches!(domain.state(), Ok(State::Paused(PauseReason::IoError)));
    let full = || domain.disk_errors().is_ok_and(|errors| errors.iter().any(|(_, error)| *error == DiskError::NoSpace));
    if paused && full() {
        match domain.resume() {
            Ok(()) => {
                tracing::warn!("the guest was paused, for want of space for the job's scratch files, and is resumed")
            }
            Err(error) => tracing::warn!("the guest is paused, resume it: {}", error::report(&error)),
        }
    }
}

/// Calls `begin` at a moment at which the guest's filesystems are frozen and the guest is paused,
/// as far as that was asked for and is possible; says how it went.
///
/// # Errors
/// Those of `begin`; with `--require-freeze` a guest that can't be frozen.
pub fn at_quiet_moment<T>(args: &Guest, domain: &Domain, begin: impl FnOnce() -> Result<T>) -> Result<(T, Quiet)> {
    let freeze = freeze(args, domain)?;
    let paused = if args.pause { Paused::begin(domain)? } else { Paused { domain: None } };
    let result = begin();
    paused.end();
    let quiet = match freeze {
        Some(freeze) => thaw(freeze),
        None if args.no_freeze => Quiet { how: "not asked for".to_owned(), maybe_frozen: false },
        None => Quiet { how: "not possible: the domain is paused".to_owned(), maybe_frozen: false },
    };
    Ok((result?, quiet))
}

fn freeze<'d>(args: &Guest, domain: &'d Domain) -> Result<Option<Freeze<'d>>> {
    if args.no_freeze {
        return Ok(None);
    }
    if let State::Paused(_) = domain.state()? {
        // Started for the backup it has no open files; paused by somebody it may.
        return match args.require_freeze && !args.start_domain {
            true => Err(Error::unsupported("the domain is paused: its filesystems can't be frozen").into()),
            false => Ok(None),
        };
    }
    let freeze = Freeze::begin(domain, &args.freeze_mountpoint, args.freeze_timeout);
    match freeze.outcome() {
        FreezeOutcome::Frozen { count } if *count > 0 || !args.require_freeze => {
            tracing::info!("froze {count} filesystems");
        }
        _ if args.require_freeze => {
            return Err(Error::unsupported(format!(
                "the guest's filesystems can't be frozen: {}",
                describe(freeze.outcome())
            ))
            .hint("without --require-freeze the backup is made as after a power cut")
            .into());
        }
        FreezeOutcome::Unavailable(reason) => {
            tracing::info!("filesystems are not frozen: {reason}");
        }
        outcome => tracing::warn!("filesystems are not frozen: {}", describe(outcome)),
    }
    Ok(Some(freeze))
}

fn thaw(freeze: Freeze<'_>) -> Quiet {
    let outcome = freeze.outcome().clone();
    match (outcome, freeze.thaw()) {
        (FreezeOutcome::Frozen { count }, ThawOutcome::Thawed { held, .. }) => {
            tracing::info!("thawed them after {:.1} s", held.as_secs_f64());
            let how = format!("frozen: {count} filesystems for {:.1} s", held.as_secs_f64());
            Quiet { how, maybe_frozen: false }
        }
        (FreezeOutcome::Frozen { count }, ThawOutcome::Failed(reason)) => {
            tracing::warn!("the guest may still be frozen: {reason}");
            let how = format!("frozen: {count} filesystems; the thaw failed: {reason}");
            Quiet { how, maybe_frozen: true }
        }
        (outcome, _) => Quiet { how: format!("not frozen: {}", describe(&outcome)), maybe_frozen: false },
    }
}

fn describe(outcome: &FreezeOutcome) -> String {
    match outcome {
        FreezeOutcome::Frozen { count } => format!("{count} filesystems frozen"),
        FreezeOutcome::Unavailable(reason) | FreezeOutcome::Failed(reason) => reason.clone(),
        FreezeOutcome::TimedOut => "the guest agent did not answer in time".to_owned(),
    }
}

/// A domain that we paused; resumed when this ends.
struct Paused<'d> {
    domain: Option<&'d Domain>,
}

impl<'d> Paused<'d> {
    fn begin(domain: &'d Domain) -> Result<Self> {
        if domain.state()? != State::Running {
            return Ok(Self { domain: None });
        }
        domain.suspend()?;
        Ok(Self { domain: Some(domain) })
    }

    fn end(self) {}
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.domain.map(Domain::resume) {
            tracing::warn!("the domain may still be paused: {}", error::report(&error));
        }
    }
}
