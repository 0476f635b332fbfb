//! What is known of one set, and how bad that is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw;
use crate::cli::status::Status;
use crate::commands::dump::chain_length;
use crate::error;
use crate::proc_locks;
use crate::set::catalogue::{Catalogue, Problem, Run};
use crate::set::intent::Intent;
use crate::set::layout::Layout;
use crate::set::lock;
use crate::units::{count, format_bytes};

/// How bad it is; the order is that in which one outweighs another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Nothing to do.
    Ok,
    /// Somebody should look.
    Warning,
    /// It can't be found out.
    Unknown,
    /// There is no backup that would do.
    Critical,
}

impl Condition {
    /// As plugins of Nagios say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// Their exit status.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }
}

/// One set.
#[derive(Debug)]
pub struct Health {
    /// The domain, or the directory where that is not known.
    pub name: String,
    /// The set's directory.
    pub directory: PathBuf,
    /// The worst of what was found.
    pub condition: Condition,
    /// What was found, the worst first.
    findings: Vec<(Condition, String)>,
    /// The newest run.
    pub newest: Option<Run>,
    /// Since the moment that the newest run holds.
    pub age: Option<Duration>,
    /// Runs that a restore of the newest point reads.
    pub chain: Option<usize>,
    /// Restore points.
    pub points: usize,
    /// Images of raw disks that the newest run left out.
    pub raw: Vec<raw::Image>,
    /// The set that goes on in its place: this one need not be fresh.
    pub successor: Option<PathBuf>,
}

impl Health {
    /// A set that can't be read.
    pub fn unknown(directory: &Path, why: String) -> Self {
        let findings = vec![(Condition::Unknown, why)];
        let (name, directory) = (directory.display().to_string(), directory.to_owned());
        Self {
            name,
            directory,
            condition: Condition::Unknown,
            findings,
            newest: None,
            age: None,
            chain: None,
            points: 0,
            raw: Vec::new(),
            successor: None,
        }
    }

    /// Judges what the catalogue says. A set that ended with `successor` has to be whole, but neither young nor short.
    pub fn of(
        args: &Status,
        directory: &Path,
        catalogue: &Catalogue,
        successor: Option<&Path>,
        now: &jiff::Zoned,
    ) -> Self {
        let ahead = ahead(catalogue, now);
        let newest = newest(catalogue, now).or(ahead);
        let age = newest.map(|run| Duration::try_from(now.duration_since(point_in_time(run))).unwrap_or_default());
        let chain = newest.map(|run| chain_length(catalogue, run));
        let mut findings = Vec::new();
        match age {
            None => findings.push((Condition::Critical, "no backup".to_owned())),
            Some(_) if successor.is_some() => {}
            Some(age) if age > args.max_age => {
                findings.push((Condition::Critical, format!("older than {}", format_age(args.max_age))));
            }
            Some(age) => {
                if let Some(limit) = args.warn_age.filter(|limit| age > *limit) {
                    findings.push((Condition::Warning, format!("older than {}", format_age(limit))));
                }
            }
        }
        match (chain, args.max_chain) {
            (Some(Err(why)), _) => findings.push((Condition::Critical, format!("can't be restored: {why}"))),
            (Some(Ok(length)), Some(limit)) if length > limit && successor.is_none() => {
                findings.push((Condition::Warning, format!("a restore reads {length} runs")));
            }
            _ => {}
        }
        for problem in catalogue.problems.iter().filter(|problem| Problem::is_damage(problem)) {
            findings.push((Condition::Critical, error::report(&problem.error)));
        }
        if let Some(run) = ahead.filter(|_| successor.is_none()) {
            let of = point_in_time(run).strftime("%Y-%m-%d %H:%M");
            findings
                .push((Condition::Warning, format!("a backup is dated {of}, which is to come: was the clock wrong?")));
        }
        let judged = newest.filter(|_| successor.is_none());
        findings.extend(judged.into_iter().flat_map(of_manifest));
        let raw = judged.map(|newest| raw::images(catalogue, newest, now)).unwrap_or_default();
        findings.extend(raw.iter().filter_map(|image| image.finding(args.max_age, args.warn_age)));
        findings.extend(unfinished(&Layout::new(directory)));
        findings.sort_by_key(|(condition, _)| std::cmp::Reverse(*condition));
        let condition = findings.iter().map(|(condition, _)| *condition).max().unwrap_or(Condition::Ok);
        if let Some(successor) = successor {
            findings.push((Condition::Ok, format!("ended; the newest is {}", successor.display())));
        }
        let domain = newest.and_then(|run| Some(run.manifest.as_ref()?.domain.clone()));
        Self {
            name: domain.unwrap_or_else(|| directory.display().to_string()),
            directory: directory.to_owned(),
            condition,
            findings,
            newest: newest.cloned(),
            age,
            chain: chain.and_then(Result::ok),
            points: catalogue.runs.len(),
            raw,
            successor: successor.map(Path::to_owned),
        }
    }

    /// All of it in a line.
    pub fn text(&self) -> String {
        let mut parts: Vec<String> = self.findings.iter().map(|(_, text)| one_line(text)).collect();
        if let (Some(run), Some(age)) = (&self.newest, self.age) {
            let stored = run.sum(|stream| stream.stored_size);
            let chain = self.chain.map(|length| format!(", chain of {length}")).unwrap_or_default();
            parts.push(format!(
                "last backup {} ({} ago), {}, {}{chain}, {}",
                point_in_time(run).strftime("%Y-%m-%d %H:%M"),
                format_age(age),
                run.level,
                format_bytes(stored),
                count(self.points, "restore point")
            ));
        }
        parts.extend(self.raw.iter().map(|image| one_line(&image.text())));
        parts.join("; ")
    }

    /// Performance data: `'label'=value[unit];warn;crit;min`, the labels with `name` in them. None of a set that
    /// ended: its age would only grow.
    pub fn figures(&self, args: &Status, name: Option<&str>) -> Option<String> {
        let (run, age) = (self.newest.as_ref()?, self.age.filter(|_| self.successor.is_none())?);
        // Neither quotes nor equal signs may be in a label.
        let plain = |name: &str| name.replace(['\'', '=', '|'], "_");
        let label = |what: &str| name.map_or_else(|| what.to_owned(), |name| format!("'{} {what}'", plain(name)));
        let warn = args.warn_age.map(|age| age.as_secs().to_string()).unwrap_or_default();
        let stored = run.sum(|stream| stream.stored_size);
        Some(format!(
            "{}={}s;{warn};{};0 {}={stored}B;;;0 {}={};;;0",
            label("age"),
            age.as_secs(),
            args.max_age.as_secs(),
            label("stored"),
            label("chain"),
            self.chain.unwrap_or_default()
        ))
    }
}

/// The run that holds the latest moment, but for those that are dated ahead: a clock that was wrong once must not make a
/// set look fresh for as long as that date is to come.
pub fn newest<'c>(catalogue: &'c Catalogue, now: &jiff::Zoned) -> Option<&'c Run> {
    latest(catalogue.runs.iter().filter(|run| !is_ahead(run, now)))
}

/// The latest of those that are dated ahead.
fn ahead<'c>(catalogue: &'c Catalogue, now: &jiff::Zoned) -> Option<&'c Run> {
    latest(catalogue.runs.iter().filter(|run| is_ahead(run, now)))
}

fn latest<'c>(runs: impl Iterator<Item = &'c Run>) -> Option<&'c Run> {
    runs.max_by_key(|run| point_in_time(run).timestamp())
}

/// Whether a run is of a moment to come, for any two clocks that are right. virtnbdbackup does not note its time zone.
fn is_ahead(run: &Run, now: &jiff::Zoned) -> bool {
    let hours = if run.manifest.is_some() { 1 } else { 26 };
    point_in_time(run).duration_since(now) > jiff::SignedDuration::from_hours(hours)
}

/// The moment that a run holds; virtnbdbackup notes only when it began.
pub fn point_in_time(run: &Run) -> &jiff::Zoned {
    run.manifest.as_ref().map_or(&run.started, |manifest| &manifest.point_in_time)
}

fn of_manifest(run: &Run) -> Vec<(Condition, String)> {
    let Some(manifest) = &run.manifest else { return Vec::new() };
    match manifest.warnings.len() {
        0 => Vec::new(),
        1 => vec![(Condition::Warning, manifest.warnings[0].clone())],
        more => vec![(Condition::Warning, format!("{more} warnings, the first: {}", manifest.warnings[0]))],
    }
}

/// A run that died waits for the next one to undo it; one that goes on is no matter.
fn unfinished(layout: &Layout) -> Option<(Condition, String)> {
    let intents = Intent::left_behind(layout).ok()?;
    let intent = intents.first()?;
    let runs = proc_locks::is_locked(&lock::path(layout)) != Some(false);
    (!runs).then(|| (Condition::Warning, format!("run {} was left unfinished", intent.run)))
}

/// A plugin's line must be one, and its bar begins the figures.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == '|' { ' ' } else { c }).collect()
}

/// The two largest units.
pub(super) fn format_age(age: Duration) -> String {
    if age.as_secs() < 60 {
        return format!("{} s", age.as_secs());
    }
    let minutes = age.as_secs() / 60;
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, 0) => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, 0, _) => format!("{days} d"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        for (seconds, text) in
            [(59, "59 s"), (60, "1 min"), (3600, "1 h"), (5430, "1 h 30 min"), (93_600, "1 d 2 h"), (172_900, "2 d")]
        {
            assert_eq!(format_age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_worst_is_last_in_order() {
        assert!(Condition::Ok < Condition::Warning && Condition::Unknown < Condition::Critical);
        assert_eq!(one_line("a|b\nc"), "a b c");
    }
}
