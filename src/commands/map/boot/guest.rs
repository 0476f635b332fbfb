//! A domain that runs from a map.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Prepared;
use super::files::Removed;
use super::guard::{Guard, Orders};
use super::request::Requests;
use crate::cancel::Cancel;
use crate::commands::link::Link;
use crate::error::{self, Error, Kind, Result};
use crate::libvirt::domain::{PauseReason, State};
use crate::libvirt::domain_xml::Connect;
use crate::libvirt::{agent, code, code_of, xml};

/// Time between the two looks that say that the domain has ended.
const SETTLED: Duration = Duration::from_secs(1);
/// How often the domain is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Time for the agent to answer once.
const PING: Duration = Duration::from_secs(5);
/// Time for a daemon to come back at the end.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A domain that runs from a map. Dropped, it is ended, and its files are removed.
pub struct Guest {
    pub(super) link: Link,
    /// None once there is nothing to guard.
    pub(super) guard: Option<Guard>,
    /// What the guard was told first.
    pub(super) orders: Orders,
    pub(super) name: String,
    uri: String,
    /// The restore point in words.
    describe: String,
    network: Connect,
    /// The set.
    pub(super) sets: Vec<PathBuf>,
    pub(super) disks: Vec<String>,
    /// Copies to make of the disks at once.
    pub(super) images: Vec<(String, PathBuf)>,
    /// The files of its firmware.
    pub(super) firmware: Vec<PathBuf>,
    /// What goes with the domain.
    pub(super) files: Removed,
    /// It is not ours to end any more.
    pub(super) is_over: bool,
    /// The map's socket is in it.
    _directory: TempDir,
}

impl Guest {
    /// The domain of `prepared`, which has been started.
    pub(super) fn new(prepared: Prepared, link: Link, guard: Guard, orders: Orders) -> Self {
        let mut files = prepared.files;
        let firmware = files.0.clone();
        files.0.extend(prepared.images.iter().map(|(_, path)| path.clone()));
        Self {
            link,
            guard: Some(guard),
            orders,
            name: prepared.plan.name,
            uri: prepared.hypervisor.uri.unwrap_or_default(),
            describe: prepared.describe,
            network: prepared.plan.network,
            sets: prepared.sets,
            disks: prepared.plan.disks.into_iter().collect(),
            images: prepared.images,
            firmware,
            files,
            is_over: false,
            _directory: prepared.directory,
        }
    }

    /// The domain's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a command finds in its environment.
    pub fn environment(&self) -> [(&'static str, &str); 2] {
        [("domain", &self.name), ("LIBVIRT_DEFAULT_URI", &self.uri)]
    }

    /// Says how it can become a machine of its own.
    pub fn tell_way_to_keep(&self) {
        let id = std::process::id();
        tracing::info!(
            "it is gone when the map ends; `virtkeep unmap {id} --copy-to DIR` copies its disks and lets it go on"
        );
    }

    /// Says what runs, and how it is seen.
    pub fn tell(&self) {
        tracing::info!("domain {} runs from {}", self.name, self.describe);
        // What can't be told now is not worth an end.
        let text = self.link.reach().and_then(|reached| reached.xml(false)).unwrap_or_default();
        match &self.network {
            _ if !text.contains("<interface ") => tracing::info!("it has no network card"),
            Connect::Nothing => tracing::info!("it has no network; --network NAME connects it to one of libvirt's"),
            Connect::Network(name) => tracing::info!("it is connected to the network {name}"),
            Connect::AsBefore => tracing::info!("it is connected as the original is"),
        }
        if let Some(ways) = ways_to_see(&text, &self.uri, &self.name) {
            tracing::info!("see it with {ways}");
        }
    }

    /// Waits until the guest agent answers.
    ///
    /// # Errors
    /// [`Kind::Busy`] if it does not within `limit`; [`Kind::NotFound`] if the domain ends; [`Kind::Cancelled`].
    pub fn wait_agent(&self, limit: Duration, stop: &Cancel) -> Result<()> {
        let begin = Instant::now();
        loop {
            stop.check()?;
            let asked = self.link.reach().and_then(|reached| agent::ping(&reached, PING));
            let Err(error) = asked else {
                tracing::info!("the guest agent of {} answers after {} s", self.name, begin.elapsed().as_secs());
                return Ok(());
            };
            if self.is_gone() {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("domain {} ended before its agent answered", self.name),
                ));
            }
            if begin.elapsed() > limit {
                let message = format!("the guest agent of {} does not answer within {} s", self.name, limit.as_secs());
                return Err(Error::new(Kind::Busy, message)
                    .hint("is it installed in the guest, and does the domain have its channel?")
                    .caused_by(error));
            }
            pause(stop);
        }
    }

    /// Waits until the domain ends, has become a machine of its own, or `stop`.
    pub fn wait(&mut self, stop: &Cancel) {
        let mut told = false;
        let requests = Requests::listen().inspect_err(|error| tracing::debug!("{}", error::report(error))).ok();
        while !stop.is_cancelled() && !self.is_gone() {
            let request = requests.as_ref().and_then(Requests::next);
            if request.is_some_and(|request| self.obey(request, stop)) {
                return;
            }
            let state = self.link.reach().and_then(|reached| reached.state());
            if matches!(state, Ok(State::Paused(PauseReason::IoError))) && !told {
                tracing::warn!(
                    "{} stands still: it met an error on a disk (a damaged backup, or no space for what it writes); \
                     `virsh resume {}` lets it try again",
                    self.name,
                    self.name
                );
                told = true;
            }
            pause(stop);
        }
        if !stop.is_cancelled() {
            tracing::info!("domain {} has ended", self.name);
        }
    }

    /// Ends the domain, if it has not ended.
    ///
    /// # Errors
    /// By libvirt's code.
    pub fn end(mut self) -> Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_over, true) {
            return Ok(());
        }
        let ended = self.link.ask(PATIENCE, &Cancel::new(), |reached| reached.destroy());
        let ended = match ended {
            Err(error) if is_no_more(&error) => Ok(()),
            other => other,
        };
        // It tries again, for longer.
        self.guard = None;
        ended
    }

    /// Whether the domain has ended: told twice, for a daemon that has just been started may not have found all of
    /// its domains again.
    pub(super) fn is_gone(&self) -> bool {
        self.looks_gone() && {
            thread::sleep(SETTLED);
            self.looks_gone()
        }
    }

    /// Whether libvirt says so now. A daemon that does not answer says nothing.
    fn looks_gone(&self) -> bool {
        match self.link.reach().and_then(|reached| reached.state()) {
            Ok(state) => matches!(state, State::ShutOff | State::Crashed),
            Err(error) if is_no_more(&error) => true,
            Err(error) => {
                tracing::debug!("{}", error::report(&error));
                false
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::warn!("{}", error::report(&error));
        }
    }
}

/// Whether the error is that there is no such domain, or that it does not run. The kind would not do: a daemon that is
/// being restarted is not found, either.
fn is_no_more(error: &Error) -> bool {
    matches!(code_of(error), Some(code::NO_DOMAIN | code::OPERATION_INVALID))
}

fn pause(stop: &Cancel) {
    let begin = Instant::now();
    while begin.elapsed() < TICK && !stop.is_cancelled() {
        thread::sleep(Duration::from_millis(20));
    }
}

/// The commands by which a running domain is seen.
fn ways_to_see(text: &str, uri: &str, name: &str) -> Option<String> {
    let document = xml::parse(text, "domain").ok()?;
    let devices = document.root.child("devices")?;
    let mut ways = Vec::new();
    if devices.child("console").is_some() || devices.child("serial").is_some() {
        ways.push(format!("`virsh -c '{uri}' console {name}`"));
    }
    if let Some(port) = devices.child("graphics").and_then(|screen| screen.attribute("port")) {
        ways.push(format!("a VNC viewer on 127.0.0.1:{port}, or `virt-viewer -c '{uri}' {name}`"));
    }
    (!ways.is_empty()).then(|| ways.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_to_see_is_told() {
        let domain = |devices: &str| format!("<domain><devices>{devices}</devices></domain>");
        assert_eq!(ways_to_see(&domain(""), "u", "n"), None);
        assert_eq!(ways_to_see("", "u", "n"), None);
        let both = domain("<console type='pty'/><graphics type='vnc' port='5903'/>");
        let told = ways_to_see(&both, "u", "n").unwrap();
        assert!(told.contains("virsh -c 'u' console n") && told.contains("127.0.0.1:5903"), "{told}");
    }
}
