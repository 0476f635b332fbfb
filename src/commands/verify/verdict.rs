//! What was looked at, and what was found.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use crate::error::{self, Error};

/// Damages that are kept for JSON; the rest is counted.
const MAX_KEPT: usize = 10_000;

/// What was looked at, and what was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Files that were looked at: those that are there.
    pub files: usize,
    /// Bytes in those that were read as a whole.
    pub bytes: u64,
    /// Files that nothing proves.
    pub unproven: usize,
    /// Damages, told as they were found.
    pub damages: u64,
    /// The first of them.
    pub kept: Vec<Damage>,
    /// Damaged streams, by their paths.
    pub bad_streams: BTreeSet<PathBuf>,
    /// A file that this user may not read: no verdict is possible.
    pub forbidden: Option<Error>,
}

/// One damage.
#[derive(Debug)]
pub struct Damage {
    /// What is wrong.
    pub error: Error,
    /// The guest range that can't be trusted, where it is known.
    pub range: Option<Range<u64>>,
    /// The restore points that it concerns, where that was looked at.
    pub points: Vec<String>,
}

impl Verdict {
    /// Tells a damage and counts it.
    pub fn damage(&mut self, error: Error) {
        if error.is_permission_denied() {
            self.forbidden.get_or_insert(error);
            return;
        }
        tracing::error!("damage: {}", error::report(&error));
        self.keep(Damage { error, range: None, points: Vec::new() });
    }

    /// The same of data of a disk.
    pub fn damaged_data(&mut self, damage: Damage) {
        let range = damage.range.as_ref().map_or_else(|| "unknown, suspect the whole disk".to_owned(), describe_range);
        let points = match damage.points.as_slice() {
            [] => String::new(),
            points => format!("; restore points: {}", points.join(", ")),
        };
        tracing::error!("damage: {}; guest range: {range}{points}", error::report(&damage.error));
        self.keep(damage);
    }

    fn keep(&mut self, damage: Damage) {
        self.damages += 1;
        if self.kept.len() < MAX_KEPT {
            self.kept.push(damage);
        }
    }
}

fn describe_range(range: &Range<u64>) -> String {
    format!("bytes {} to {} of the disk", range.start, range.end)
}
