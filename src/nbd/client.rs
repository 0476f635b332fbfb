//! One connection to one NBD export: reads, writes and questions, each complete or an error.
//!
//! Requests are cut to sizes that suit the server and several run at once. Every wait looks at the
//! cancel flag and at the clock. After an error with requests still running the connection is
//! closed at once (nothing may arrive in memory that is no longer lent), and every later call fails.
//!
//! Fallbacks, all of them:
//!
//! | the server | we |
//! |---|---|
//! | names no largest payload | take 32 MiB, the least the protocol grants |
//! | has no "write zeroes" | write zero bytes |
//! | has no "trim" | leave the range alone: a trim promises nothing |

use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::nbd::command::{Command, ContextReply, Replies};
use crate::nbd::drive::{Filled, SLICE, drive};
use crate::nbd::sys::{Batch, Handle};
use crate::units::{GIB, KIB, align_down, align_up};

pub use crate::nbd::capabilities::Capabilities;

/// Bytes of one read or write request. Measured against `qemu-nbd`: 256 and 512 KiB are the
/// fastest, 2 MiB has half their speed (what is under way no longer fits the processor's cache), and
/// small requests cost system calls.
pub const REQUEST_SIZE: u64 = 256 * KIB;

/// Requests at once on a connection: on one machine 4 do as well as 32. Small ones, for scattered pieces, bridge the
/// latency of disks and networks if there are more; QEMU works on 16 of a connection at once.
pub const IN_FLIGHT: usize = 16;

/// No server works on more requests of a connection at once.
const MOST_IN_FLIGHT: u64 = 64;

/// Longest range of one "write zeroes" or "trim": they have no payload, but the length has 32 bits
/// and a server that has to write the zeroes itself must answer within [`STALL_TIMEOUT`].
const ZERO_STEP: u64 = GIB;

/// A listening server accepts and greets at once; half a minute allows for a host under load.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection on which not one request completes for so long is given up. Storage that lost a
/// path or spins up answers after 30 to 180 seconds, and such a pause must not cost the backup.
const STALL_TIMEOUT: Duration = Duration::from_secs(300);

/// A flush may have to write out the page cache of a large machine to a slow disk.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3600);

/// Time for an orderly goodbye; the server learns the same from the closed socket.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A range to read and where to put it.
#[derive(Debug)]
pub struct ReadPiece<'b> {
    /// First byte.
    pub offset: u64,
    /// Filled completely.
    pub buffer: &'b mut [u8],
}

/// How many bytes per request and how many requests at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one request; rounded to what the server takes.
    pub request_size: u64,
    /// Requests at once, at least 1.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { request_size: REQUEST_SIZE, in_flight: IN_FLIGHT }
    }
}

impl Limits {
    /// Requests of `request_size` bytes, as many at once as are under way by default, but at least two: the server is
    /// not idle while an answer is on its way.
    pub fn of_size(request_size: u64) -> Self {
        let in_flight = (REQUEST_SIZE * IN_FLIGHT as u64 / request_size.max(1)).clamp(2, MOST_IN_FLIGHT);
        Self { request_size, in_flight: in_flight as usize }
    }
}

/// A connection to an export. Says goodbye on drop.
#[derive(Debug)]
pub struct Client {
    /// None after an error that left requests behind, or after the connection broke.
    handle: Option<Handle>,
    capabilities: Capabilities,
    contexts: Vec<String>,
    cancel: Cancel,
}

impl Client {
    /// Connects to `uri` and asks for the meta `contexts`; which of them the server granted is to
    /// be seen with [`Client::has_context`]. A connection without contexts is for data alone: its replies have no
    /// structure, so that QEMU does not look for holes within each read and there is less to receive. Name resolution
    /// in a TCP URI is not interruptible.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such socket or export, [`Kind::Cancelled`].
    pub fn connect(uri: &str, contexts: &[&str], cancel: &Cancel) -> Result<Self> {
        cancel.check()?;
        let mut handle = Handle::new()?;
        for context in contexts {
            handle.add_meta_context(context)?;
        }
        if contexts.is_empty() {
            handle.refuse_structured_replies()?;
        }
        handle.start_connect(uri)?;
        await_handshake(&mut handle, cancel)?;
        let capabilities = Capabilities::ask(&handle)?;
        let mut granted = Vec::new();
        for context in contexts {
            if handle.has_context(context)? {
                granted.push((*context).to_owned());
            }
        }
        tracing::debug!(uri, ?capabilities, ?granted, "connected");
        Ok(Self { handle: Some(handle), capabilities, contexts: granted, cancel: cancel.clone() })
    }

    /// What the export can do.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Treats `block` bytes (a power of two) as the server's minimum if that is larger: servers may
    /// know more than the protocol lets them say, it ends at 64 KiB.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is no power of two or longer than the server's largest payload.
    pub fn require_block(&mut self, block: u64) -> Result<()> {
        if !block.is_power_of_two() || block > self.capabilities.block_maximum {
            return Err(Error::usage(format!("{block} is no block size for this NBD server")));
        }
        self.capabilities.block_minimum = self.capabilities.block_minimum.max(block);
        Ok(())
    }

    /// Size of the export in bytes.
    pub fn size(&self) -> u64 {
        self.capabilities.size
    }

    /// Whether the server granted the meta context `name`.
    pub fn has_context(&self, name: &str) -> bool {
        self.contexts.iter().any(|context| context == name)
    }

    /// Whether the connection can still be used: false after an error that closed it.
    pub fn is_usable(&self) -> bool {
        self.handle.is_some()
    }

    /// Fills all pieces, in requests as `limits` say, in any order.
    ///
    /// # Errors
    /// With the offset of the request that failed; the content of the buffers is undefined then.
    pub fn read_scattered(&mut self, pieces: &mut [ReadPiece<'_>], limits: Limits) -> Result<()> {
        self.read_on(pieces, limits, &mut |_, _| Ok(()))
    }

    /// As [`Client::read_scattered`]; `filled` gets the bytes of each request and where they were as soon as they and
    /// all before them are there, in the order of the pieces. What it does is done while further requests are on
    /// their way, and while the bytes are in the processor's cache.
    ///
    /// # Errors
    /// As for [`Client::read_scattered`], and those of `filled`, after which the connection is closed.
    pub fn read_on<'b>(
        &mut self,
        pieces: &'b mut [ReadPiece<'_>],
        limits: Limits,
        filled: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let step = self.request_len(limits.request_size);
        let reads = pieces.iter_mut().flat_map(|piece| {
            let parts = piece.buffer.chunks_mut(step).zip(0u64..);
            let start = piece.offset;
            parts
                .map(move |(buffer, index)| Command::Read { buffer, offset: start.saturating_add(index * step as u64) })
        });
        self.run_with(reads, limits.in_flight, STALL_TIMEOUT, &mut |offset, bytes| filled(offset, bytes))
    }

    /// Fills `buffer` from `offset`.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read_scattered(&mut [ReadPiece { offset, buffer }], Limits::default())
    }

    /// Writes all of `data` at `offset`.
    pub fn write_at(&mut self, data: &[u8], offset: u64) -> Result<()> {
        let step = self.request_len(REQUEST_SIZE);
        let writes = data
            .chunks(step)
            .zip(0u64..)
            .map(|(data, index)| Command::Write { data, offset: offset.saturating_add(index * step as u64) });
        self.run(writes, IN_FLIGHT, STALL_TIMEOUT)
    }

    /// Makes a range read as zeroes; with `may_punch` the server may deallocate it. Writes zero
    /// bytes where the server knows no better.
    pub fn write_zeroes(&mut self, offset: u64, length: u64, may_punch: bool) -> Result<()> {
        if offset.checked_add(length).is_none_or(|end| end > self.capabilities.size) {
            return Err(Error::usage("write zeroes beyond the end of the export").at(offset));
        }
        if self.capabilities.zero {
            let zeroes = steps(offset, length).map(|(offset, length)| Command::Zero { offset, length, may_punch });
            return self.run(zeroes, 1, STALL_TIMEOUT);
        }
        self.write_zero_bytes(offset, length)
    }

    fn write_zero_bytes(&mut self, offset: u64, length: u64) -> Result<()> {
        let zeroes = vec![0; self.request_len(REQUEST_SIZE)];
        let step = zeroes.len() as u64;
        let end = offset.saturating_add(length);
        let writes = (0..length.div_ceil(step)).map(|index| {
            let offset = offset + index * step;
            // At most `step`, which is the length of a slice.
            Command::Write { data: &zeroes[..(end - offset).min(step) as usize], offset }
        });
        self.run(writes, IN_FLIGHT, STALL_TIMEOUT)
    }

    /// Tells the server that the content of a range is of no use any more. What it reads as
    /// afterwards is undefined.
    pub fn trim(&mut self, offset: u64, length: u64) -> Result<()> {
        if !self.capabilities.trim {
            return Ok(());
        }
        self.run(steps(offset, length).map(|(offset, length)| Command::Trim { offset, length }), 1, STALL_TIMEOUT)
    }

    /// Makes all completed writes durable, those of other connections too if the export is
    /// multi-conn.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if the server cannot.
    pub fn flush(&mut self) -> Result<()> {
        if !self.capabilities.flush {
            return Err(Error::unsupported("the NBD server has no flush"));
        }
        self.run(std::iter::once(Command::Flush), 1, FLUSH_TIMEOUT)
    }

    /// What the server says about the blocks from `offset` on, per context, unchecked.
    pub(crate) fn block_status(&mut self, offset: u64, length: u64) -> Result<Vec<ContextReply>> {
        let replies = Replies::default();
        let command = Command::Status { offset, length, replies: replies.clone() };
        self.run(std::iter::once(command), 1, STALL_TIMEOUT)?;
        Ok(replies.take())
    }

    /// Ends the connection in order.
    ///
    /// # Errors
    /// If the connection broke before or the server does not react.
    pub fn disconnect(mut self) -> Result<()> {
        let handle = self.handle.take().ok_or_else(closed)?;
        say_goodbye(handle)
    }

    /// Bytes of one request: `wanted`, but within the server's limits.
    fn request_len(&self, wanted: u64) -> usize {
        let Capabilities { block_minimum, block_maximum, .. } = self.capabilities;
        let len = align_down(wanted.clamp(1, block_maximum), block_minimum).max(block_minimum);
        usize::try_from(len).unwrap_or(usize::MAX)
    }

    /// Runs the commands, up to `in_flight` at once, until all have completed. The handle is
    /// consumed unless that leaves it idle: see [`Batch`].
    fn run<'b>(
        &mut self,
        commands: impl Iterator<Item = Command<'b>>,
        in_flight: usize,
        patience: Duration,
    ) -> Result<()> {
        self.run_with(commands, in_flight, patience, &mut |_, _| Ok(()))
    }

    fn run_with<'b>(
        &mut self,
        commands: impl Iterator<Item = Command<'b>>,
        in_flight: usize,
        patience: Duration,
        filled: &mut Filled<'_, 'b>,
    ) -> Result<()> {
        let mut batch = Batch::new(self.handle.take().ok_or_else(closed)?);
        let outcome = drive(&mut batch, commands, in_flight.max(1), patience, &self.cancel, filled);
        self.handle = batch.finish();
        outcome
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            if let Err(error) = say_goodbye(handle) {
                tracing::debug!(error = crate::error::report(&error), "disconnect");
            }
        }
    }
}

fn await_handshake(handle: &mut Handle, cancel: &Cancel) -> Result<()> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    while !handle.is_ready() {
        cancel.check()?;
        if handle.is_over() {
            return Err(Error::new(Kind::Io, "the NBD server closed the connection in the handshake"));
        }
        if Instant::now() >= deadline {
            let message = format!("no NBD handshake within {} seconds", CONNECT_TIMEOUT.as_secs());
            return Err(Error::new(Kind::Io, message).hint("check that the address is an NBD server's"));
        }
        handle.poll(SLICE)?;
    }
    Ok(())
}

fn say_goodbye(mut handle: Handle) -> Result<()> {
    handle.start_disconnect()?;
    let deadline = Instant::now() + DISCONNECT_TIMEOUT;
    while !handle.is_over() {
        if Instant::now() >= deadline {
            return Err(Error::new(Kind::Io, "the NBD server does not end the connection"));
        }
        handle.poll(SLICE)?;
    }
    Ok(())
}

/// A range cut at multiples of [`ZERO_STEP`], so that aligned ranges stay aligned.
fn steps(offset: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset.saturating_add(length);
    let mut position = offset;
    std::iter::from_fn(move || {
        let start = position;
        position = align_up(start.saturating_add(1), ZERO_STEP).min(end);
        (start < end).then(|| (start, position - start))
    })
}

fn closed() -> Error {
    Error::new(Kind::Io, "the NBD connection is closed after an earlier error")
}

/// The error for libnbd's `text` and error number: the number becomes the cause and leaves the text,
/// as does the name of libnbd's function.
pub(super) fn describe(text: &str, errno: i32) -> Error {
    let text = match text.split_once(": ") {
        Some((function, rest)) if function.starts_with("nbd_") => rest,
        _ => text,
    };
    if errno == 0 {
        return Error::new(Kind::Io, text);
    }
    let cause = std::io::Error::from_raw_os_error(errno);
    let words = cause.to_string();
    let words = words.split(" (os error").next().unwrap_or_default();
    let message = text.strip_suffix(words).and_then(|text| text.strip_suffix(": ")).unwrap_or(text);
    use rustix::io::Errno;
    let kind = match Errno::from_io_error(&cause) {
        Some(Errno::NOENT) => Kind::NotFound,
        Some(Errno::NOTSUP) => Kind::Unsupported,
        Some(Errno::PROTO | Errno::BADMSG) => Kind::Protocol,
        _ => Kind::Io,
    };
    Error::new(kind, message).hint_if_full(&cause).caused_by(cause)
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
