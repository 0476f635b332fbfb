//! The guest around the moment of the backup: started, frozen, paused, and always let go again.

use anyhow::Result;

use crate::cli::backup::Guest;
use crate::error::{self, Error};
use crate::libvirt::agent::{Freeze, FreezeOutcome, ThawOutcome};
use crate::libvirt::domain::{Domain, State};

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
            Ok(State::Paused(_)) => domain.destroy(),
            Ok(_) => {
                tracing::info!("domain {} was resumed meanwhile and is left running", domain.name());
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

/// Calls `begin` at a moment at which the guest's filesystems are frozen and the guest is paused,
/// as far as that was asked for and is possible; says how it went.
///
/// # Errors
/// Those of `begin`; with `--require-freeze` a guest that can't be frozen.
pub fn at_quiet_moment<T>(args: &Guest, domain: &Domain, begin: impl FnOnce() -> Result<T>) -> Result<(T, String)> {
    let freeze = freeze(args, domain)?;
    let paused = if args.pause { Paused::begin(domain)? } else { Paused { domain: None } };
    let result = begin();
    paused.end();
    let how = match freeze {
        Some(freeze) => thaw(freeze),
        None if args.no_freeze => "not asked for".to_owned(),
        None => "not needed: the domain is paused".to_owned(),
    };
    Ok((result?, how))
}

fn freeze<'d>(args: &Guest, domain: &'d Domain) -> Result<Option<Freeze<'d>>> {
    if args.no_freeze || matches!(domain.state()?, State::Paused(_)) {
        return Ok(None);
    }
    let freeze = Freeze::begin(domain, &args.freeze_mountpoint, args.freeze_timeout);
    match freeze.outcome() {
        FreezeOutcome::Frozen { count } => tracing::info!("Freezed [{count}] filesystems"),
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

fn thaw(freeze: Freeze<'_>) -> String {
    let outcome = freeze.outcome().clone();
    match (outcome, freeze.thaw()) {
        (FreezeOutcome::Frozen { count }, ThawOutcome::Thawed { held, .. }) => {
            tracing::info!("Thawed filesystems after {:.1} s", held.as_secs_f64());
            format!("frozen: {count} filesystems for {:.1} s", held.as_secs_f64())
        }
        (FreezeOutcome::Frozen { count }, ThawOutcome::Failed(reason)) => {
            tracing::warn!("the guest may still be frozen: {reason}");
            format!("frozen: {count} filesystems; the thaw failed: {reason}")
        }
        (outcome, _) => format!("not frozen: {}", describe(&outcome)),
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
