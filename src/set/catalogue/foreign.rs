//! The runs of virtnbdbackup, which has no manifests: its streams, put together by what their names and heads say.

use super::{Run, Stream};
use crate::set::Level;
use crate::set::layout::DataName;
use crate::stream::meta::Meta;

/// A stream of virtnbdbackup with what its name and its meta say.
pub struct Foreign {
    /// What its name says.
    pub name: DataName,
    /// That name.
    pub file: String,
    /// Bytes of the file.
    pub stored_size: u64,
    /// What its head says.
    pub meta: Meta,
}

impl Foreign {
    /// Offline increments bear their parent's name as their own and make no checkpoint.
    fn is_leaf(&self) -> bool {
        match self.name.level {
            Level::Copy | Level::Diff => true,
            Level::Full => false,
            Level::Inc => self.meta.incremental && self.meta.checkpoint_name == self.meta.parent_checkpoint,
        }
    }

    fn started(&self) -> jiff::Zoned {
        let local = self.meta.date.parse::<jiff::civil::DateTime>().ok();
        local
            .and_then(|date| date.to_zoned(jiff::tz::TimeZone::system()).ok())
            .unwrap_or_else(|| jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::system()))
    }

    /// What the streams of one run have in common. Dates and times in names differ per disk.
    fn group_key(&self) -> (bool, Level, String) {
        (self.is_leaf(), self.name.level, self.meta.checkpoint_name.clone())
    }
}

/// Puts the streams of one run together: the same checkpoint; leaves, in the order of time, until a
/// disk comes again.
pub fn group(mut streams: Vec<Foreign>) -> Vec<Run> {
    streams.sort_by_key(|stream| (stream.group_key(), stream.started().timestamp()));
    let mut runs: Vec<(Vec<Foreign>, (bool, Level, String))> = Vec::new();
    for stream in streams {
        let key = stream.group_key();
        match runs.last_mut() {
            Some((members, last)) if *last == key && members.iter().all(|m| m.name.target != stream.name.target) => {
                members.push(stream);
            }
            _ => runs.push((vec![stream], key)),
        }
    }
    // A disk added in mid-chain has a full of its own, in the run of an increment.
    merge_by_checkpoint(runs).into_iter().map(foreign_run).collect()
}

fn merge_by_checkpoint(runs: Vec<(Vec<Foreign>, (bool, Level, String))>) -> Vec<Vec<Foreign>> {
    let mut merged: Vec<Vec<Foreign>> = Vec::new();
    for (members, (leaf, _, checkpoint)) in runs {
        let twin = merged.iter_mut().find(|other| {
            !leaf
                && !other[0].is_leaf()
                && other[0].meta.checkpoint_name == checkpoint
                && members.iter().all(|m| other.iter().all(|o| o.name.target != m.name.target))
        });
        match twin {
            Some(other) => other.extend(members),
            None => merged.push(members),
        }
    }
    merged
}

fn foreign_run(members: Vec<Foreign>) -> Run {
    let level = members.iter().map(|member| member.name.level).max_by_key(|level| level.needs_base());
    let level = level.unwrap_or(Level::Full);
    let first = &members[0];
    let checkpoint = (!first.is_leaf()).then(|| first.meta.checkpoint_name.clone());
    let id = match (&checkpoint, level) {
        (Some(checkpoint), _) => checkpoint.clone(),
        (None, Level::Copy) => "copy".to_owned(),
        (None, Level::Inc) => format!("offline.{}", first.meta.date),
        (None, _) => format!("diff.{}", first.name.ident),
    };
    let started = members.iter().map(Foreign::started).min_by_key(jiff::Zoned::timestamp);
    let started = started.unwrap_or_else(jiff::Zoned::now);
    let streams = members.into_iter().map(foreign_stream).collect();
    Run { id, level, checkpoint, started, streams, manifest: None }
}

fn foreign_stream(foreign: Foreign) -> Stream {
    let meta = foreign.meta;
    Stream {
        target: foreign.name.target,
        file: foreign.file,
        base: meta.incremental.then_some(meta.parent_checkpoint),
        base_run: None,
        virtual_size: meta.virtual_size,
        data_size: meta.data_size,
        stored_size: foreign.stored_size,
        raw: false,
        raw_disk: false,
    }
}
