//! `virtkeep status`: whether the newest backup of each set is young and whole, for monitoring.

mod health;
mod metrics;
mod raw;

use std::io::Write;
use std::path::Path;

use anyhow::Result;

use self::health::{Condition, Health};
use crate::cli::status::Status;
use crate::commands::foreign_raw;
use crate::error::{self, Error};
use crate::exit::Exit;
use crate::set::layout::Layout;
use crate::set::moment;

/// Prints a line for all sets, one for each if there are several, and the figures as plugins have them.
///
/// # Errors
/// Where it can't be printed.
pub fn run(args: &Status) -> Result<Exit> {
    let now = moment::now();
    let sets: Vec<Health> = args.input.iter().map(|directory| look(args, directory, &now)).collect();
    let mut worst = sets.iter().map(|set| set.condition).max().unwrap_or(Condition::Unknown);
    if let Some(Err(error)) = args.metrics.as_ref().map(|path| metrics::write(path, &sets)) {
        tracing::error!("{}", error::report(&error));
        worst = worst.max(Condition::Unknown);
    }
    let mut text = match &sets[..] {
        [one] => format!("{} - {}: {}", worst.word(), one.name, one.text()),
        _ => format!("{} - {}", worst.word(), count(&sets)),
    };
    let figures: Vec<String> = sets.iter().filter_map(|set| set.figures(args, sets.len() > 1)).collect();
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

fn look(args: &Status, directory: &Path, now: &jiff::Zoned) -> Health {
    match foreign_raw::open_set(Layout::new(directory)) {
        Ok(catalogue) => Health::of(args, directory, &catalogue, now),
        Err(error) => Health::unknown(directory, error::report(&error)),
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
