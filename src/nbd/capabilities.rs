//! What an export can do, asked once after the handshake and checked.

use crate::error::{Error, Kind, Result};
use crate::nbd::command::{BlockSize, Flag};
use crate::nbd::sys::Handle;
use crate::units::{KIB, MIB};

/// The largest payload if the server names none; the protocol says that clients may assume it.
const DEFAULT_MAXIMUM: u64 = 32 * MIB;

/// What an export can do, asked once after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Bytes.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Several connections may be used as one.
    pub multi_conn: bool,
    /// Zeroes without payload.
    pub zero: bool,
    /// Zeroes that fail rather than be slow.
    pub fast_zero: bool,
    /// Discards.
    pub trim: bool,
    /// Flushes.
    pub flush: bool,
    /// Prefetches.
    pub cache: bool,
    /// Requests must be multiples of it; a power of two, 1 if the server named none.
    pub block_minimum: u64,
    /// Requests should be multiples of it.
    pub block_preferred: u64,
    /// Payload must not be longer.
    pub block_maximum: u64,
}

impl Capabilities {
    /// Asks a connected handle.
    pub(super) fn ask(handle: &Handle) -> Result<Self> {
        let block = |which, default| handle.block_size(which).map(|size| if size == 0 { default } else { size });
        let minimum = block(BlockSize::Minimum, 1)?;
        if !minimum.is_power_of_two() || minimum > DEFAULT_MAXIMUM {
            return Err(Error::new(Kind::Protocol, format!("the NBD server demands blocks of {minimum} bytes")));
        }
        Ok(Self {
            size: handle.size()?,
            read_only: handle.flag(Flag::ReadOnly)?,
            multi_conn: handle.flag(Flag::MultiConn)?,
            zero: handle.flag(Flag::Zero)?,
            fast_zero: handle.flag(Flag::FastZero)?,
            trim: handle.flag(Flag::Trim)?,
            flush: handle.flag(Flag::Flush)?,
            cache: handle.flag(Flag::Cache)?,
            block_minimum: minimum,
            block_preferred: block(BlockSize::Preferred, 4 * KIB)?,
            // A maximum under the minimum is no sense; the minimum always goes.
            block_maximum: block(BlockSize::Maximum, DEFAULT_MAXIMUM)?.clamp(minimum, DEFAULT_MAXIMUM),
        })
    }
}
