//! What can be asked of a connection, and the memory each command lends to it.

use std::sync::{Arc, Mutex, PoisonError};

/// A yes/no property of a connected export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// Writes are refused.
    ReadOnly,
    /// Several connections see each other's writes after a flush.
    MultiConn,
    /// Zeroes without payload.
    Zero,
    /// Zeroes that fail rather than be slow.
    FastZero,
    /// Discards.
    Trim,
    /// Flushes.
    Flush,
    /// Prefetches.
    Cache,
}

/// A block size a connected export may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSize {
    /// Requests must be multiples of it.
    Minimum = 0,
    /// Requests should be multiples of it.
    Preferred = 1,
    /// Payload must not be longer.
    Maximum = 2,
}

/// What one block status command was told, collected as the replies come in. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Replies(Arc<Mutex<Vec<ContextReply>>>);

/// The part of a block status reply that is about one context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextReply {
    /// The context, as the server names it.
    pub context: String,
    /// Where the first extent begins.
    pub offset: u64,
    /// Length and flags of each extent, unchecked.
    pub extents: Vec<(u32, u32)>,
}

impl Replies {
    /// Takes what has come in.
    pub fn take(&self) -> Vec<ContextReply> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// False for a second reply about the same context: the protocol allows one per command, and
    /// accepting more would let a server fill the memory.
    pub(super) fn add(&self, reply: ContextReply) -> bool {
        let mut replies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = replies.iter().all(|known| known.context != reply.context);
        if fresh {
            replies.push(reply);
        }
        fresh
    }
}

/// One command, with the memory it reads to or writes from.
#[derive(Debug)]
pub enum Command<'b> {
    /// Fill `buffer` from `offset`.
    Read {
        /// Not empty.
        buffer: &'b mut [u8],
        /// Start.
        offset: u64,
    },
    /// Write `data` at `offset`.
    Write {
        /// Not empty.
        data: &'b [u8],
        /// Start.
        offset: u64,
    },
    /// Make a range read as zeroes.
    Zero {
        /// Start.
        offset: u64,
        /// Bytes, not 0, under 4 GiB.
        length: u64,
        /// Whether the server may deallocate.
        may_punch: bool,
    },
    /// Discard a range: what it reads as afterwards is not defined.
    Trim {
        /// Start.
        offset: u64,
        /// Bytes, not 0, under 4 GiB.
        length: u64,
    },
    /// Make completed writes durable.
    Flush,
    /// Ask for the block status of a range.
    Status {
        /// Start.
        offset: u64,
        /// Bytes, not 0, under 4 GiB.
        length: u64,
        /// Takes the answer.
        replies: Replies,
    },
}

impl Command<'_> {
    /// The verb for messages.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Zero { .. } => "write zeroes",
            Self::Trim { .. } => "trim",
            Self::Flush => "flush",
            Self::Status { .. } => "block status",
        }
    }

    /// The first byte concerned, if any.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Read { offset, .. }
            | Self::Write { offset, .. }
            | Self::Zero { offset, .. }
            | Self::Trim { offset, .. }
            | Self::Status { offset, .. } => Some(*offset),
            Self::Flush => None,
        }
    }
}
