//! The domain and its job.

use super::facts::Facts;
use super::finding::{Area, Finding};
use super::names::short;
use crate::error;
use crate::libvirt::backup_job::{self, ActiveJob};
use crate::libvirt::domain::{DiskError, PauseReason, State};

/// What is found of them.
pub fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    vec![domain(facts), job(facts)]
}

fn domain(facts: &Facts<'_>) -> Finding {
    let what = format!("domain {}", facts.domain.name());
    match facts.state {
        State::Running => Finding::good(Area::Domain, what, "running"),
        State::Paused(PauseReason::IoError) => paused_by_error(facts, what),
        State::Paused(PauseReason::ShuttingDown) => {
            Finding::note(Area::Domain, what, "has shut down, and is kept until the backup job ends")
        }
        State::Paused(_) => Finding::note(Area::Domain, what, "paused: somebody or something asked for it"),
        State::ShutOff => Finding::note(Area::Domain, what, "off"),
        State::Crashed => Finding::look(Area::Domain, what, "crashed").advice("look into its log, then start it again"),
        State::ShuttingDown => Finding::note(Area::Domain, what, "is shutting down"),
        State::Suspended => Finding::note(Area::Domain, what, "the guest has suspended itself"),
        State::Unknown(number) => Finding::note(Area::Domain, what, format!("in state {number}, unknown here")),
    }
}

fn paused_by_error(facts: &Facts<'_>, what: String) -> Finding {
    let full: Vec<&str> = facts
        .disk_errors
        .iter()
        .filter(|(_, error)| *error == DiskError::NoSpace)
        .map(|(target, _)| target.as_str())
        .collect();
    if full.is_empty() {
        return Finding::look(Area::Domain, what, "PAUSED: a disk met an error")
            .advice(format!("look into its log; then {}", facts.virsh("resume")));
    }
    let state = format!("PAUSED: no space left for what it writes to {}", full.join(", "));
    let finding = Finding::look(Area::Domain, what, state);
    if is_dead_job(facts) {
        return finding.repair("ends the dead backup job, whose scratch files take the space, and resumes it");
    }
    finding
        .advice(format!("free space where its images or the job's scratch files are; then {}", facts.virsh("resume")))
}

/// Whether the job is that of a run of the set whose process is gone.
pub fn is_dead_job(facts: &Facts<'_>) -> bool {
    let Some(set) = facts.set.as_ref().filter(|set| set.is_usable() && !set.is_in_use()) else { return false };
    let runs = facts.runs_of_job();
    set.unfinished(facts.uuid).any(|intent| runs.contains(&intent.run))
}

fn job(facts: &Facts<'_>) -> Finding {
    let what = "backup job";
    match &facts.job {
        ActiveJob::None => Finding::good(Area::Job, what, "none"),
        ActiveJob::Other(operation) => {
            Finding::look(Area::Job, format!("job ({operation})"), "running: no backup can begin beside it")
                .of("another tool")
                .advice(format!("wait for it; {}", facts.virsh("domjobinfo")))
        }
        ActiveJob::Zombie => {
            let error = backup_job::zombie_error(facts.domain);
            let hint = error::hint(&error).unwrap_or_default().to_owned();
            Finding::look(Area::Job, what, "half-made: libvirt waits for a job that does not exist").advice(hint)
        }
        ActiveJob::Backup(xml) => backup(facts, what, xml),
    }
}

fn backup(facts: &Facts<'_>, what: &str, xml: &str) -> Finding {
    let runs = facts.runs_of_job();
    let socket = backup_job::job_server(xml).map_or_else(String::new, |server| format!(", {server}"));
    let Some(run) = runs.first() else {
        return Finding::look(Area::Job, what, format!("running{socket}: no other backup can begin beside it"))
            .of("another tool")
            .advice(format!("wait for it; if its owner is gone: {}", facts.virsh("domjobabort")));
    };
    let ours = facts.set.as_ref().filter(|set| runs.iter().any(|run| set.has_run(*run)));
    let whose = |place: &str| format!("{place}, run {}", short(*run));
    match ours {
        Some(set) if set.is_in_use() => Finding::good(Area::Job, what, "running").of(whose("this set")),
        Some(_) if is_dead_job(facts) => {
            Finding::look(Area::Job, what, "DEAD: it goes on without its process, and takes space for scratch files")
                .of(whose("this set"))
                .repair("aborts it and undoes the run")
        }
        _ => Finding::look(Area::Job, what, "running: no other backup can begin beside it")
            .of(whose("virtkeep, another set"))
            .advice(format!(
                "wait for it; name its set with -o; if its process is gone: {}",
                facts.virsh("domjobabort")
            )),
    }
}
