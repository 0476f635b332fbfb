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
    let mut list = Vec::new();
    walk(client, range, &[(ALLOCATION, allocation_kind)], |_, [content]| {
        content.into_iter().for_each(|extent| extent::push(&mut list, extent));
        Ok(())
    })?;
    Ok(list)
}

/// The blocks that the bitmap `dirty_context` marks, as [`Kind::Data`] and [`Kind::Zero`]; the
/// others are [`Kind::Clean`].
///
/// # Errors
/// [`ErrorKind::Unsupported`] if the server does not offer `dirty_context`: an increment is never
/// guessed. [`ErrorKind::Protocol`] if the answers are empty or make no progress.
pub fn changed(client: &mut Client, dirty_context: &str) -> Result<Vec<Extent>> {
    // What was zero cannot have become zero unseen.
    changed_since(client, dirty_context, |range| vec![Extent::zero(range.start, range.end - range.start)])
}

/// [`changed`], and what is clean and reads as zeroes, but was data, as [`Kind::Zero`]. `before` is asked range by
/// range, in order, for what the disk was: a list that covers the range.
///
/// # Errors
/// As for [`changed`].
pub fn changed_since(
    client: &mut Client,
    dirty_context: &str,
    before: impl Fn(Range<u64>) -> Vec<Extent>,
) -> Result<Vec<Extent>> {
    let size = client.size();
    if !client.has_context(dirty_context) {
        return Err(Error::unsupported(format!("the NBD server does not offer the dirty bitmap {dirty_context:?}"))
            .hint("the base of the increment is lost: make a full backup"));
    }
    let mut list = Vec::new();
    if client.has_context(ALLOCATION) {
        walk(
            client,
            0..size,
            &[(ALLOCATION, allocation_kind), (dirty_context, dirty_kind)],
            |range, [content, dirty]| {
                merge(&mut list, &content, &dirty, &before(range));
                Ok(())
            },
        )?;
    } else {
        walk(client, 0..size, &[(dirty_context, dirty_kind)], |range, [dirty]| {
            merge(&mut list, &all_data(range.clone()), &dirty, &before(range));
            Ok(())
        })?;
    }
    Ok(list)
}

/// Adds to `list` what is known of a range: all three cover it.
fn merge(list: &mut Vec<Extent>, content: &[Extent], dirty: &[Extent], before: &[Extent]) {
    let lost = extent::combine(content, before, |now, then| match (now, then) {
        (Kind::Zero, Kind::Data) => Kind::Zero,
        _ => Kind::Clean,
    });
    let dirty = extent::combine(content, dirty, |content, dirty| if dirty == Kind::Clean { dirty } else { content });
    extent::combine_onto(list, &dirty, &lost, |dirty, lost| if dirty == Kind::Clean { lost } else { dirty });
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

/// Asks until all contexts have spoken about all of `range`. What they say goes to `step`, range by range, in order:
/// a list from each that covers the range.
fn walk<const N: usize>(
    source: &mut impl StatusSource,
    range: Range<u64>,
    readings: &[Reading<'_>; N],
    mut step: impl FnMut(Range<u64>, [Vec<Extent>; N]) -> Result<()>,
) -> Result<()> {
    let mut contexts = readings.map(|(name, kind)| Context { name, kind, position: range.start, pending: Vec::new() });
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
        let parts = contexts.each_mut().map(|context| context.take(frontier));
        parts.iter().try_for_each(|part| extent::check_cover(part, known..frontier))?;
        step(known..frontier, parts)?;
        known = frontier;
    }
    Ok(())
}

fn protocol(message: &str) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

#[cfg(test)]
#[path = "block_status_tests.rs"]
mod tests;
