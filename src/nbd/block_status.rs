//! What the server knows of an export's blocks, as a list that covers it, whatever way the server
//! chooses to answer.
//!
//! ```text
//! asked        [----------------]
//! exact        [----][----------]
//! short        [----][---]                 the rest is asked next
//! overrunning  [----][---------------]     the last extent counts, up to the end of the disk
//! one block    [-]                         allowed, slow
//! two contexts [----][----------]          each has its own position; the one that lags behind is
//!              [------]                    asked from there, what the other repeats is skipped
//! ```
//!
//! QEMU cuts a reply at 131072 extents, and per context: with small clusters base:allocation falls
//! behind the bitmap. Positions are therefore absolute and kept per context; a range counts as
//! known as soon as *all* contexts have spoken about it.
//!
//! | the server | we |
//! |---|---|
//! | does not know base:allocation | take everything for data |
//! | says "hole" but not "zero" | take it for data: only the zero flag promises zeroes |
//! | sets flags in the dirty bitmap that we don't know | take the range for changed |
//! | does not know the dirty bitmap | fail |

use std::ops::Range;

use crate::error::{Error, Kind as ErrorKind, Result};
use crate::extent::{self, Extent, Kind};
use crate::nbd::client::Client;
use crate::nbd::command::ContextReply;
use crate::units::GIB;

/// The meta context every serious server has.
pub const ALLOCATION: &str = "base:allocation";

/// `NBD_STATE_ZERO` of base:allocation: the range reads as zeroes.
const STATE_ZERO: u32 = 1 << 1;

/// Bytes asked per step: keeps the pending part of a fragmented map small, and fits 32 bits.
const STATUS_STEP: u64 = 2 * GIB;

/// The blocks of the export as [`Kind::Data`] and [`Kind::Zero`].
///
/// # Errors
/// [`ErrorKind::Protocol`] if the answers are empty or make no progress.
pub fn allocation(client: &mut Client) -> Result<Vec<Extent>> {
    let size = client.size();
    allocation_in(client, 0..size)
}

/// [`allocation`] of `range`, which is made of whole blocks of the server.
pub(crate) fn allocation_in(client: &mut Client, range: Range<u64>) -> Result<Vec<Extent>> {
    let range = range.start..range.end.min(client.size());
    if !client.has_context(ALLOCATION) {
        return Ok(all_data(range));
    }
    walk(client, range, &[(ALLOCATION, allocation_kind)], |[kind]| kind)
}

/// The blocks that the bitmap `dirty_context` marks, as [`Kind::Data`] and [`Kind::Zero`]; the
/// others are [`Kind::Clean`].
///
/// # Errors
/// [`ErrorKind::Unsupported`] if the server does not offer `dirty_context`: an increment is never
/// guessed. [`ErrorKind::Protocol`] if the answers are empty or make no progress.
pub fn changed(client: &mut Client, dirty_context: &str) -> Result<Vec<Extent>> {
    let size = client.size();
    if !client.has_context(dirty_context) {
        return Err(Error::unsupported(format!("the NBD server does not offer the dirty bitmap {dirty_context:?}"))
            .hint("the base of the increment is lost: make a full backup"));
    }
    if !client.has_context(ALLOCATION) {
        return walk(client, 0..size, &[(dirty_context, dirty_kind)], |[dirty]| dirty);
    }
    walk(client, 0..size, &[(ALLOCATION, allocation_kind), (dirty_context, dirty_kind)], merge_dirty)
}

/// What is dirty is as base:allocation says.
fn merge_dirty([content, dirty]: [Kind; 2]) -> Kind {
    if dirty == Kind::Clean { Kind::Clean } else { content }
}

fn all_data(range: Range<u64>) -> Vec<Extent> {
    if range.is_empty() { Vec::new() } else { vec![Extent::data(range.start, range.end - range.start)] }
}

fn allocation_kind(flags: u32) -> Kind {
    if flags & STATE_ZERO == 0 { Kind::Data } else { Kind::Zero }
}

/// Only "no flag at all" is clean.
fn dirty_kind(flags: u32) -> Kind {
    if flags == 0 { Kind::Clean } else { Kind::Data }
}

/// Who answers: the client, or a test.
trait StatusSource {
    fn block_status(&mut self, offset: u64, length: u64) -> Result<Vec<ContextReply>>;
}

impl StatusSource for Client {
    fn block_status(&mut self, offset: u64, length: u64) -> Result<Vec<ContextReply>> {
        Self::block_status(self, offset, length)
    }
}

/// What one context has said so far.
struct Context<'n> {
    name: &'n str,
    kind: fn(u32) -> Kind,
    /// Everything before is known.
    position: u64,
    /// What is known and not yet merged, up to `position`.
    pending: Vec<Extent>,
}

impl Context<'_> {
    /// Takes in a reply: the part from `position` to `end`.
    fn add(&mut self, reply: &ContextReply, end: u64) -> Result<()> {
        let mut offset = reply.offset;
        if offset > self.position {
            return Err(protocol("block status for a range that was not asked for").at(offset));
        }
        for &(length, flags) in &reply.extents {
            if length == 0 {
                return Err(protocol("block status with an empty extent").at(offset));
            }
            let next = offset.saturating_add(length.into());
            if let Some(new) = Extent::new(offset, next - offset, (self.kind)(flags)).clip(&(self.position..end)) {
                self.position = new.end();
                extent::push(&mut self.pending, new);
            }
            offset = next;
        }
        Ok(())
    }

    /// Removes what lies before `end` from the pending part and returns it.
    fn take(&mut self, end: u64) -> Vec<Extent> {
        let range = self.pending.first().map_or(end, |first| first.offset)..end;
        let taken = extent::clip(&self.pending, range).collect();
        self.pending = extent::clip(&self.pending, end..u64::MAX).collect();
        taken
    }
}

/// What a context is called and what its flags mean.
type Reading<'n> = (&'n str, fn(u32) -> Kind);

/// Asks until all contexts cover `range` and merges what they say with `decide`.
fn walk<const N: usize>(
    source: &mut impl StatusSource,
    range: Range<u64>,
    readings: &[Reading<'_>; N],
    decide: impl Fn([Kind; N]) -> Kind,
) -> Result<Vec<Extent>> {
    let mut contexts = readings.map(|(name, kind)| Context { name, kind, position: range.start, pending: Vec::new() });
    let mut merged = Vec::new();
    let mut known = range.start;
    while known < range.end {
        for reply in source.block_status(known, STATUS_STEP.min(range.end - known))? {
            // A name that was not asked for says nothing about ours.
            if let Some(context) = contexts.iter_mut().find(|context| context.name == reply.context) {
                context.add(&reply, range.end)?;
            }
        }
        let frontier = contexts.iter().map(|context| context.position).min().unwrap_or(range.end);
        if frontier <= known {
            return Err(protocol("block status says nothing about the range asked for").at(known));
        }
        merge(&mut merged, &mut contexts, frontier, &decide);
        known = frontier;
    }
    extent::check_cover(&merged, range)?;
    Ok(merged)
}

/// Moves what all contexts know up to `frontier` to the end of `merged`.
fn merge<const N: usize>(
    merged: &mut Vec<Extent>,
    contexts: &mut [Context<'_>; N],
    frontier: u64,
    decide: impl Fn([Kind; N]) -> Kind,
) {
    let parts = contexts.each_mut().map(|context| context.take(frontier));
    let mut next = [0; N];
    let Some(mut position) = parts.first().and_then(|part| part.first()).map(|first| first.offset) else { return };
    while position < frontier {
        let mut end = frontier;
        let mut kinds = [Kind::Data; N];
        for (index, part) in parts.iter().enumerate() {
            // All parts cover the same range: there is an extent, unless the invariant broke; then
            // the gap is data, and check_cover has the last word.
            let Some(current) = part.get(next[index]) else { continue };
            kinds[index] = current.kind;
            end = end.min(current.end());
        }
        for (index, part) in parts.iter().enumerate() {
            next[index] += usize::from(part.get(next[index]).is_some_and(|current| current.end() == end));
        }
        extent::push(merged, Extent::new(position, end - position, decide(kinds)));
        position = end;
    }
}

fn protocol(message: &str) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

#[cfg(test)]
#[path = "block_status_tests.rs"]
mod tests;
