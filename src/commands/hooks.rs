//! Hooks: commands of the user's that a run calls, with facts in their environment and a time limit.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::backup::facts::Known;
use crate::cancel::Cancel;
use crate::child::end_within;
use crate::error::{Error, Kind, Result};
use crate::qemu::process;

/// Between two looks at it.
const TICK: Duration = Duration::from_millis(20);
/// Time for a hook to end when asked to; a run that is interrupted has 4.5 seconds for all.
const GRACE: Duration = Duration::from_secs(1);
/// What the hook left in the background may hold its output open.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Bytes of a line that are shown as one.
const MAX_LINE: u64 = 4096;

/// Every fact's name behind `VIRTKEEP_`: what is not known is not in a hook's environment.
const FACTS: [&str; 14] = [
    "HOOK",
    "DOMAIN",
    "DOMAIN_UUID",
    "SET",
    "LEVEL",
    "RUN",
    "CHECKPOINT",
    "PHASE",
    "DISK",
    "FILE",
    "STATUS",
    "ERROR",
    "HINT",
    "REPORT",
];

/// A hook that is to run.
#[derive(Debug)]
pub struct Hook<'h> {
    /// `pre-run`, as in the option's name.
    pub name: &'static str,
    /// The shell command.
    pub command: &'h str,
    /// It is ended after this time.
    pub limit: Duration,
}

impl Hook<'_> {
    /// Runs it to its end. Its output goes to the log.
    ///
    /// # Errors
    /// [`Kind::Io`] where it fails or can't be started, [`Kind::Busy`] where it does not end within its time,
    /// [`Kind::Cancelled`]; nothing that it started in its process group is left then.
    pub fn run(&self, known: &Known, more: &[(&str, String)], cancel: &Cancel) -> Result<()> {
        let name = self.name;
        tracing::debug!("hook {name}: {}", self.command);
        let mut command = process::bound("sh");
        command.arg("-c").arg(self.command).process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        match std::env::var_os("LC_ALL") {
            Some(value) => command.env("LC_ALL", value),
            None => command.env_remove("LC_ALL"),
        };
        // The hypervisor's is not the hook's.
        command.env_remove("VIRTKEEP_PASSWORD");
        for fact in FACTS {
            command.env_remove(format!("VIRTKEEP_{fact}"));
        }
        command.env("VIRTKEEP_HOOK", name);
        for (fact, value) in facts(known).iter().chain(more) {
            command.env(format!("VIRTKEEP_{fact}"), value);
        }
        let disk = more.iter().find(|(fact, _)| *fact == "DISK").map(|(_, disk)| disk.as_str());
        let on_disk = |error: Error| match disk {
            Some(disk) => error.disk(disk),
            None => error,
        };
        let failed = |what: &str| on_disk(Error::new(Kind::Io, format!("the hook {name} {what}")));
        let mut child = command.spawn().map_err(|error| failed("can't be started").caused_by(error))?;
        let prefix = format!("{}hook {name}", disk.map(|disk| format!("{disk}: ")).unwrap_or_default());
        let said = [
            child.stdout.take().map(|pipe| relay(pipe, prefix.clone())),
            child.stderr.take().map(|pipe| relay(pipe, prefix)),
        ];
        let status = self.wait(&mut child, cancel);
        let deadline = Instant::now() + LAST_WORDS;
        while said.iter().flatten().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
            thread::sleep(TICK);
        }
        match status.map_err(on_disk)? {
            status if status.success() => Ok(()),
            status => Err(failed("failed").caused_by(status.to_string())),
        }
    }

    fn wait(&self, child: &mut Child, cancel: &Cancel) -> Result<ExitStatus> {
        let deadline = Instant::now() + self.limit;
        loop {
            if let Some(status) = end_within(child, TICK).map_err(|error| Error::io("wait for a hook", error))? {
                return Ok(status);
            }
            if cancel.is_cancelled() {
                end(child);
                return Err(Error::cancelled());
            }
            if Instant::now() >= deadline {
                end(child);
                let message = format!("the hook {} did not end within {} s", self.name, self.limit.as_secs_f32());
                return Err(Error::new(Kind::Busy, message).hint("--hook-timeout gives hooks more time"));
            }
        }
    }
}

/// Ends a hook and all of its process group.
fn end(child: &mut Child) {
    let group = Pid::from_child(child);
    // One that has ended by now is what is wanted.
    let _ = kill_process_group(group, Signal::TERM);
    let _ = end_within(child, GRACE);
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

fn facts(known: &Known) -> Vec<(&'static str, String)> {
    let mut facts = vec![("PHASE", known.phase.word().to_owned())];
    let mut add = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    add("DOMAIN", known.domain.clone());
    add("DOMAIN_UUID", known.domain_uuid.clone());
    add("SET", known.set.as_ref().map(|set| set.to_string_lossy().into_owned()));
    add("LEVEL", known.level.map(|level| level.to_string()));
    add("RUN", known.run.map(|run| run.to_string()));
    add("CHECKPOINT", known.checkpoint.clone());
    facts
}

/// What it says goes to the log under its name.
fn relay(pipe: impl Read + Send + 'static, prefix: String) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!((&mut reader).take(MAX_LINE).read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line);
            let text: String = text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            tracing::info!("{prefix}: {text}");
            line.clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_have_their_names_in_the_list_of_those_that_are_cleared() {
        let known = Known {
            domain: Some("web".into()),
            domain_uuid: Some("9".into()),
            set: Some("/set".into()),
            level: Some(crate::set::Level::Inc),
            run: Some(uuid::Uuid::from_u128(7)),
            checkpoint: Some("virtnbdbackup.1".into()),
            ..Known::default()
        };
        let facts = facts(&known);
        assert_eq!(facts.len(), 7);
        assert!(facts.iter().all(|(name, _)| FACTS.contains(name)), "{facts:?}");
    }
}
