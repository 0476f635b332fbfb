//! The guest agent: freezing and thawing file systems, and what it tells of the guest.
//!
//! Whatever happens, the guest is not left frozen: [`Freeze`] thaws when it goes out of scope, and a freeze
//! that got no answer in time is thawed as well, since the guest may have done it all the same.

use std::thread;
use std::time::{Duration, Instant};

use virt_sys as c;

use super::sys::Value;
use super::{Domain, LibvirtError, code};
use crate::error::Result;
use crate::libvirt::domain::State;

/// An agent that is there at all is answered for at once; what took longer than this was a wait.
const AT_ONCE: Duration = Duration::from_millis(900);
/// A thaw that fails is tried again: a guest that stays frozen is worse than anything else here.
const THAW_ATTEMPTS: u32 = 3;
/// Between two of them.
const THAW_PAUSE: Duration = Duration::from_millis(300);

/// How a freeze went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FreezeOutcome {
    /// The file systems stand still.
    Frozen {
        /// How many of them.
        count: u32,
    },
    /// There is no agent to ask: none configured, not connected, guest paused.
    Unavailable(String),
    /// The agent refused.
    Failed(String),
    /// The agent did not answer in time. It may do it later, see [`Freeze::is_maybe_frozen`].
    TimedOut,
}

/// How a thaw went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThawOutcome {
    /// The guest goes on.
    Thawed {
        /// How many file systems; fewer than were frozen if the guest thawed some by itself.
        count: u32,
        /// How long they stood still.
        held: Duration,
    },
    /// There was nothing to thaw.
    NotFrozen,
    /// The agent did not confirm: the guest may still be frozen.
    Failed(String),
}

/// Frozen file systems, thawed at the latest when this is dropped.
#[derive(Debug)]
#[must_use = "the guest thaws as soon as this is dropped"]
pub struct Freeze<'d> {
    domain: &'d Domain,
    outcome: FreezeOutcome,
    since: Instant,
    done: bool,
    maybe_frozen: bool,
}

impl<'d> Freeze<'d> {
    /// Freezes as [`freeze`] does.
    pub fn begin(domain: &'d Domain, mountpoints: &[String], timeout: Duration) -> Self {
        let since = Instant::now();
        let (outcome, maybe_frozen) = freeze(domain, mountpoints, timeout);
        let done = !matches!(outcome, FreezeOutcome::Frozen { .. });
        Self { domain, outcome, since, done, maybe_frozen }
    }

    /// No freeze: for `reason` none was tried.
    pub fn unavailable(domain: &'d Domain, reason: &str) -> Self {
        let outcome = FreezeOutcome::Unavailable(reason.to_owned());
        Self { domain, outcome, since: Instant::now(), done: true, maybe_frozen: false }
    }

    /// When it began.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How the freeze went.
    pub fn outcome(&self) -> &FreezeOutcome {
        &self.outcome
    }

    /// Whether anything stands still.
    pub fn is_frozen(&self) -> bool {
        !self.done
    }

    /// Whether the freeze failed, but may have been done or still be done, and the thaw that followed was
    /// not confirmed: [`thaw_within`] is to be tried until it is.
    pub fn is_maybe_frozen(&self) -> bool {
        self.maybe_frozen
    }

    /// Lets the guest go on.
    pub fn thaw(mut self) -> ThawOutcome {
        self.end()
    }

    fn end(&mut self) -> ThawOutcome {
        if std::mem::replace(&mut self.done, true) {
            return ThawOutcome::NotFrozen;
        }
        let result = thaw(self.domain);
        restore_timeout(self.domain);
        match result {
            Ok(count) => ThawOutcome::Thawed { count, held: self.since.elapsed() },
            Err(reason) => ThawOutcome::Failed(reason),
        }
    }
}

impl Drop for Freeze<'_> {
    fn drop(&mut self) {
        if let ThawOutcome::Failed(reason) = self.end() {
            tracing::warn!(domain = self.domain.name(), "the guest may still be frozen: {reason}");
        }
    }
}

/// Whether the domain has a channel for a guest agent; that one answers is not said.
///
/// # Errors
/// By libvirt's code.
pub fn is_configured(domain: &Domain) -> Result<bool> {
    // A description with that word costs a question that libvirt refuses.
    Ok(domain.xml(false)?.contains("org.qemu.guest_agent.0"))
}

/// Freezes the file systems mounted there, all of them if none is named. The agent gets `timeout` (whole
/// seconds, at least one) for each answer; after [`FreezeOutcome::Frozen`] that holds for the thaw too.
///
/// The second value is as [`Freeze::is_maybe_frozen`] says.
fn freeze(domain: &Domain, mountpoints: &[String], timeout: Duration) -> (FreezeOutcome, bool) {
    match domain.state() {
        Ok(State::Running) => {}
        Ok(_) => return (FreezeOutcome::Unavailable("the guest is not running".to_owned()), false),
        Err(error) => return (FreezeOutcome::Failed(crate::error::report(&error)), false),
    }
    if let Err(error) = set_timeout(domain, timeout) {
        return (refusal(&error, Duration::ZERO), false);
    }
    let since = Instant::now();
    let error = match domain.sys.freeze(mountpoints) {
        Ok(count) => return (FreezeOutcome::Frozen { count: u32::try_from(count).unwrap_or(0) }, false),
        Err(error) => error,
    };
    let outcome = refusal(&error, since.elapsed());
    let mut maybe_frozen = may_be_frozen(&outcome, &error);
    if maybe_frozen {
        // An agent that is busy with the freeze answers the thaw after it, or not in time.
        match domain.sys.thaw() {
            Ok(_) => maybe_frozen = false,
            Err(error) => tracing::debug!(domain = domain.name(), "after a freeze that went wrong, no thaw: {error}"),
        }
    }
    restore_timeout(domain);
    (outcome, maybe_frozen)
}

/// Thaws all file systems of the guest; returns how many, or why not. Tries more than once.
///
/// # Errors
/// The reason, in libvirt's words.
pub fn thaw(domain: &Domain) -> std::result::Result<u32, String> {
    let mut attempt = 1;
    loop {
        match domain.sys.thaw() {
            Ok(count) => return Ok(u32::try_from(count).unwrap_or(0)),
            Err(error) if attempt >= THAW_ATTEMPTS || error.code == code::OPERATION_INVALID => {
                return Err(error.to_string());
            }
            Err(error) => tracing::debug!(domain = domain.name(), attempt, "thaw: {error}"),
        }
        attempt += 1;
        thread::sleep(THAW_PAUSE);
    }
}

/// As [`thaw`], of a guest that another process froze: each answer gets `timeout`.
///
/// # Errors
/// As for [`thaw`].
pub fn thaw_within(domain: &Domain, timeout: Duration) -> std::result::Result<u32, String> {
    set_timeout(domain, timeout).map_err(|error| error.to_string())?;
    let result = thaw(domain);
    restore_timeout(domain);
    result
}

/// Asks whether the agent is there; it gets `timeout` to answer.
///
/// # Errors
/// By libvirt's code: there is none, it does not answer.
pub fn ping(domain: &Domain, timeout: Duration) -> Result<()> {
    let seconds = i32::try_from(timeout.as_secs().max(1)).unwrap_or(i32::MAX);
    let answer = domain.sys.agent_command(r#"{"execute":"guest-ping"}"#, seconds);
    domain.during("ask whether the guest agent is there", answer).map(drop)
}

/// Everything that the agent tells of the guest, as an object with libvirt's names (`os.name`,
/// `fs.0.mountpoint`).
///
/// # Errors
/// By libvirt's code: no agent, no answer within `timeout`.
pub fn guest_info(domain: &Domain, timeout: Duration) -> Result<serde_json::Value> {
    domain.during("set the agent's timeout", set_timeout(domain, timeout))?;
    let info = domain.sys.guest_info();
    restore_timeout(domain);
    let info = domain.during("ask the guest agent", info)?;
    Ok(info.into_iter().map(|(name, value)| (name, to_json(value))).collect::<serde_json::Map<_, _>>().into())
}

fn to_json(value: Value) -> serde_json::Value {
    match value {
        Value::Int(number) => number.into(),
        Value::Unsigned(number) => number.into(),
        Value::Double(number) => number.into(),
        Value::Boolean(yes) => yes.into(),
        Value::Text(text) => text.into(),
    }
}

/// What an error of the agent means, by code and by how long it took.
fn refusal(error: &LibvirtError, elapsed: Duration) -> FreezeOutcome {
    match error.code {
        code::AGENT_COMMAND_TIMEOUT => FreezeOutcome::TimedOut,
        // "not connected" and "does not answer" share a code; the first is known at once.
        code::AGENT_UNRESPONSIVE if elapsed > AT_ONCE => FreezeOutcome::TimedOut,
        code::AGENT_UNRESPONSIVE
        | code::OPERATION_INVALID
        | code::ARGUMENT_UNSUPPORTED
        | code::CONFIG_UNSUPPORTED
        | code::OPERATION_UNSUPPORTED
        | code::NO_SUPPORT => FreezeOutcome::Unavailable(error.to_string()),
        _ => FreezeOutcome::Failed(error.to_string()),
    }
}

/// Whether the guest may have frozen although the call failed. An agent that answers with an error has
/// thawed what it froze; and one that says so because another froze before us must not be thawed.
fn may_be_frozen(outcome: &FreezeOutcome, error: &LibvirtError) -> bool {
    match outcome {
        FreezeOutcome::TimedOut => true,
        FreezeOutcome::Failed(_) => matches!(error.code, code::SYSTEM_ERROR | code::RPC | code::OPERATION_TIMEOUT),
        _ => false,
    }
}

fn set_timeout(domain: &Domain, timeout: Duration) -> super::sys::Result<()> {
    let seconds = timeout.as_secs().max(1).min(i32::MAX as u64);
    domain.sys.set_agent_timeout(i32::try_from(seconds).unwrap_or(i32::MAX))
}

/// Back to libvirt's default, as the value before can't be asked for.
fn restore_timeout(domain: &Domain) {
    if let Err(error) = domain.sys.set_agent_timeout(c::VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK) {
        tracing::debug!(domain = domain.name(), "agent timeout not restored: {error}");
    }
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::libvirt::Connection;

    fn error(code: i32) -> LibvirtError {
        LibvirtError { code, domain: 0, message: "m".into(), os_error: None }
    }

    #[test]
    fn refusals_are_told_apart() {
        let long = Duration::from_secs(5);
        assert_eq!(refusal(&error(code::AGENT_COMMAND_TIMEOUT), long), FreezeOutcome::TimedOut);
        assert_eq!(refusal(&error(code::AGENT_UNRESPONSIVE), long), FreezeOutcome::TimedOut);
        assert!(matches!(refusal(&error(code::AGENT_UNRESPONSIVE), Duration::ZERO), FreezeOutcome::Unavailable(_)));
        assert!(matches!(refusal(&error(code::OPERATION_INVALID), Duration::ZERO), FreezeOutcome::Unavailable(_)));
        assert!(matches!(refusal(&error(code::INTERNAL_ERROR), long), FreezeOutcome::Failed(_)));
    }

    #[test]
    fn only_what_may_be_ours_is_thawed() {
        assert!(may_be_frozen(&FreezeOutcome::TimedOut, &error(code::AGENT_COMMAND_TIMEOUT)));
        assert!(may_be_frozen(&FreezeOutcome::Failed(String::new()), &error(code::RPC)));
        assert!(!may_be_frozen(&FreezeOutcome::Failed(String::new()), &error(code::INTERNAL_ERROR)));
        assert!(!may_be_frozen(&FreezeOutcome::Unavailable(String::new()), &error(code::AGENT_UNRESPONSIVE)));
    }

    #[test]
    fn a_paused_guest_is_not_asked() {
        let domain = Connection::open("test:///default", None).unwrap().domain("test").unwrap();
        domain.suspend().unwrap();
        let freeze = Freeze::begin(&domain, &[], Duration::from_secs(1));
        assert!(matches!(freeze.outcome(), FreezeOutcome::Unavailable(_)) && !freeze.is_frozen());
        assert_eq!(freeze.thaw(), ThawOutcome::NotFrozen);
        domain.resume().unwrap();
    }
}
