//! `virtkeep status`: whether the newest backup of each domain is young and each set whole, for monitoring.

mod health;
mod metrics;
mod raw;
mod succession;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use self::health::{Condition, Health};
use self::succession::Place;
use crate::cli::status::Status;
use crate::commands::foreign_raw;
use crate::error::{self, Error};
use crate::exit::Exit;
use crate::set::catalogue::Catalogue;
use crate::set::layout::Layout;
use crate::set::moment;

/// Prints a line for all sets, one for each if there are several, and the figures as plugins have them.
///
/// # Errors
/// Where it can't be printed.
pub fn run(args: &Status) -> Result<Exit> {
    let now = moment::now();
    let sets = look(args, &now);
    let mut worst = sets.iter().map(|set| set.condition).max().unwrap_or(Condition::Unknown);
    if let Some(Err(error)) = args.metrics.as_ref().map(|path| metrics::write(path, &sets)) {
        tracing::error!("{}", error::report(&error));
        worst = worst.max(Condition::Unknown);
    }
    let mut text = match &sets[..] {
        [one] => format!("{} - {}: {}", worst.word(), one.name, one.text()),
        _ => format!("{} - {}", worst.word(), count(&sets)),
    };
    let figures: Vec<String> = sets.iter().filter_map(|set| set.figures(args, label(&sets, set).as_deref())).collect();
    if !figures.is_empty() {
        text += &format!(" | {}", figures.join(" "));
    }
    text.push('\n');
    if sets.len() > 1 {
        for set in &sets {
            text += &format!("{} - {}: {}\n", set.condition.word(), set.name, set.text());
        }
    }
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(|error| Error::io("write to stdout", error))?;
    Ok(Exit::Plugin(worst.code()))
}

/// Each set once, judged beside the others.
fn look(args: &Status, now: &jiff::Zoned) -> Vec<Health> {
    let mut seen = BTreeSet::new();
    let directories = args.input.iter().map(PathBuf::as_path).filter(|directory| seen.insert(directory.to_owned()));
    let sets: Vec<_> = directories
        .map(|directory| (directory, foreign_raw::open_set(Layout::new(directory))))
        .map(|(directory, opened)| {
            let place = opened.as_ref().ok().and_then(|catalogue| Place::of(directory, catalogue, now));
            (directory, opened, place)
        })
        .collect();
    let places = || sets.iter().filter_map(|(_, _, place)| place.as_ref());
    let judge = |(directory, opened, place): &(&Path, error::Result<Catalogue>, Option<Place>)| match opened {
        Ok(catalogue) => {
            let successor = place.as_ref().and_then(|place| place.successor(places()));
            Health::of(args, directory, catalogue, successor, now)
        }
        Err(error) => Health::unknown(directory, error::report(error)),
    };
    sets.iter().map(judge).collect()
}

/// What tells a set's figures from those of the others: the domain, where that is not enough the directory, too.
fn label(sets: &[Health], set: &Health) -> Option<String> {
    let has_figures = |other: &&Health| other.newest.is_some() && other.successor.is_none();
    match sets.iter().filter(has_figures).filter(|other| other.name == set.name).count() {
        _ if sets.len() == 1 => None,
        0 | 1 => Some(set.name.clone()),
        _ => Some(format!("{} {}", set.name, set.directory.display())),
    }
}

fn count(sets: &[Health]) -> String {
    let of = |condition| sets.iter().filter(|set| set.condition == condition).count();
    let parts = [Condition::Unknown, Condition::Critical, Condition::Warning, Condition::Ok];
    let parts = parts.map(|condition| (of(condition), condition.word()));
    let parts: Vec<String> =
        parts.iter().filter(|(number, _)| *number > 0).map(|(number, word)| format!("{number} {word}")).collect();
    format!("{} sets: {}", sets.len(), parts.join(", "))
}
