//! The C library libnbd, made safe: a handle that closes itself and commands that cannot outlive
//! their buffers.
//!
//! libnbd touches the buffers of running commands only inside calls on their handle (it has no
//! threads). [`Batch`] therefore *owns* the handle while commands run and gives it back only when
//! none is left; however a batch ends – error, panic, even `mem::forget` – no call on that handle
//! can follow, so the buffers it borrowed are never written to again.

#![allow(unsafe_code, reason = "the C library's functions")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::nbd::command::{BlockSize, Command, ContextReply, Flag, Replies};

/// `struct nbd_handle`, opaque.
#[repr(C)]
struct NbdHandle {
    opaque: [u8; 0],
}

/// `nbd_completion_callback`; none of ours, completion is polled.
#[repr(C)]
struct CompletionCallback {
    callback: Option<extern "C" fn(*mut c_void, *mut c_int) -> c_int>,
    user_data: *mut c_void,
    free: Option<extern "C" fn(*mut c_void)>,
}

/// `nbd_extent_callback` of the calls with 32-bit lengths, which all versions have.
#[repr(C)]
struct ExtentCallback {
    callback: Option<unsafe extern "C" fn(*mut c_void, *const c_char, u64, *mut u32, usize, *mut c_int) -> c_int>,
    user_data: *mut c_void,
    free: Option<unsafe extern "C" fn(*mut c_void)>,
}

const NO_COMPLETION: CompletionCallback = CompletionCallback { callback: None, user_data: null_mut(), free: None };

type Raw = *mut NbdHandle;

unsafe extern "C" {
    fn nbd_create() -> Raw;
    fn nbd_close(h: Raw);
    fn nbd_get_error() -> *const c_char;
    fn nbd_get_errno() -> c_int;
    fn nbd_add_meta_context(h: Raw, name: *const c_char) -> c_int;
    fn nbd_set_uri_allow_local_file(h: Raw, allow: bool) -> c_int;
    fn nbd_set_pread_initialize(h: Raw, request: bool) -> c_int;
    fn nbd_set_request_structured_replies(h: Raw, request: bool) -> c_int;
    fn nbd_aio_connect_uri(h: Raw, uri: *const c_char) -> c_int;
    fn nbd_aio_is_ready(h: Raw) -> c_int;
    fn nbd_aio_is_dead(h: Raw) -> c_int;
    fn nbd_aio_is_closed(h: Raw) -> c_int;
    fn nbd_poll(h: Raw, timeout: c_int) -> c_int;
    fn nbd_aio_disconnect(h: Raw, flags: u32) -> c_int;
    fn nbd_get_size(h: Raw) -> i64;
    fn nbd_get_block_size(h: Raw, size_type: c_int) -> i64;
    fn nbd_is_read_only(h: Raw) -> c_int;
    fn nbd_can_multi_conn(h: Raw) -> c_int;
    fn nbd_can_zero(h: Raw) -> c_int;
    fn nbd_can_fast_zero(h: Raw) -> c_int;
    fn nbd_can_trim(h: Raw) -> c_int;
    fn nbd_can_flush(h: Raw) -> c_int;
    fn nbd_can_cache(h: Raw) -> c_int;
    fn nbd_can_meta_context(h: Raw, name: *const c_char) -> c_int;
    fn nbd_aio_pread(h: Raw, buf: *mut c_void, n: usize, at: u64, done: CompletionCallback, flags: u32) -> i64;
    fn nbd_aio_pwrite(h: Raw, buf: *const c_void, n: usize, at: u64, done: CompletionCallback, flags: u32) -> i64;
    fn nbd_aio_zero(h: Raw, n: u64, at: u64, done: CompletionCallback, flags: u32) -> i64;
    fn nbd_aio_trim(h: Raw, n: u64, at: u64, done: CompletionCallback, flags: u32) -> i64;
    fn nbd_aio_flush(h: Raw, done: CompletionCallback, flags: u32) -> i64;
    fn nbd_aio_block_status(
        h: Raw,
        n: u64,
        at: u64,
        extents: ExtentCallback,
        done: CompletionCallback,
        flags: u32,
    ) -> i64;
    fn nbd_aio_peek_command_completed(h: Raw) -> i64;
    fn nbd_aio_command_completed(h: Raw, cookie: u64) -> c_int;
}

/// `LIBNBD_CMD_FLAG_NO_HOLE`.
const FLAG_NO_HOLE: u32 = 0x02;

/// Extents kept of one reply per context; what is cut off is asked again. QEMU sends at most this
/// many, other servers up to 8 million.
const REPLY_EXTENTS: usize = 128 * 1024;

/// A libnbd handle: at most one connection. Closed on drop.
#[derive(Debug)]
pub struct Handle(NonNull<NbdHandle>);

// SAFETY: libnbd locks its handles and binds them to no thread; the callback state that a handle
// may hold (`Replies`) is Send. Error texts are per thread and fetched right after the failed call.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle came from nbd_create and is closed nowhere else.
        unsafe { nbd_close(self.0.as_ptr()) }
    }
}

impl Handle {
    /// An unconnected handle.
    pub fn new() -> Result<Self> {
        // SAFETY: no arguments; null is an error and checked.
        let raw = unsafe { nbd_create() };
        let handle = Self(NonNull::new(raw).ok_or_else(|| last_error("create a handle"))?);
        // URIs come from the command line or from us, never from a peer: they may name TLS key files.
        // SAFETY: the handle is live.
        check(unsafe { nbd_set_uri_allow_local_file(handle.raw(), true) }, "set up")?;
        // Buffers are Rust's, so never uninitialized: libnbd need not write zeroes to each before it is filled.
        // SAFETY: the handle is live.
        check(unsafe { nbd_set_pread_initialize(handle.raw(), false) }, "set up")?;
        Ok(handle)
    }

    fn raw(&self) -> Raw {
        self.0.as_ptr()
    }

    /// Asks for a meta context in the coming handshake.
    pub fn add_meta_context(&mut self, name: &str) -> Result<()> {
        let name = c_string(name)?;
        // SAFETY: the handle is live; libnbd copies the string.
        check(unsafe { nbd_add_meta_context(self.raw(), name.as_ptr()) }, "request a meta context")
    }

    /// Asks for no structured replies in the coming handshake: contexts need them, reads are quicker without.
    pub fn refuse_structured_replies(&mut self) -> Result<()> {
        // SAFETY: the handle is live.
        check(unsafe { nbd_set_request_structured_replies(self.raw(), false) }, "set up")
    }

    /// Begins to connect; [`Handle::poll`] until [`Handle::is_ready`]. Name resolution blocks.
    pub fn start_connect(&mut self, uri: &str) -> Result<()> {
        let uri = c_string(uri)?;
        // SAFETY: the handle is live; libnbd copies the string.
        check(unsafe { nbd_aio_connect_uri(self.raw(), uri.as_ptr()) }, "connect")
    }

    /// Whether commands can be sent.
    pub fn is_ready(&self) -> bool {
        // SAFETY: the handle is live.
        unsafe { nbd_aio_is_ready(self.raw()) == 1 }
    }

    /// Whether the connection is over, orderly or not.
    pub fn is_over(&self) -> bool {
        // SAFETY: the handle is live.
        unsafe { nbd_aio_is_dead(self.raw()) == 1 || nbd_aio_is_closed(self.raw()) == 1 }
    }

    /// Lets the connection make progress, waiting for at most `timeout`.
    pub fn poll(&mut self, timeout: Duration) -> Result<()> {
        let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the handle is live. Buffers of running commands are live: only a Batch has some,
        // and it borrows them for as long as it owns the handle.
        let polled = unsafe { nbd_poll(self.raw(), timeout) };
        // Old versions report a signal as an error; nothing has happened to the handle then.
        // SAFETY: reads a per-thread number.
        if polled == -1 && unsafe { nbd_get_errno() } == rustix::io::Errno::INTR.raw_os_error() {
            return Ok(());
        }
        check(polled, "talk to the server")
    }

    /// Sends the disconnect command; [`Handle::poll`] until [`Handle::is_over`].
    pub fn start_disconnect(&mut self) -> Result<()> {
        // SAFETY: the handle is live.
        check(unsafe { nbd_aio_disconnect(self.raw(), 0) }, "disconnect")
    }

    /// Size of the export in bytes.
    pub fn size(&self) -> Result<u64> {
        // SAFETY: the handle is live.
        let size = unsafe { nbd_get_size(self.raw()) };
        u64::try_from(size).map_err(|_| last_error("ask for the size"))
    }

    /// A block size, 0 if the server named none.
    pub fn block_size(&self, which: BlockSize) -> Result<u64> {
        // SAFETY: the handle is live.
        let size = unsafe { nbd_get_block_size(self.raw(), which as c_int) };
        u64::try_from(size).map_err(|_| last_error("ask for the block size"))
    }

    /// A property of the export.
    pub fn flag(&self, flag: Flag) -> Result<bool> {
        let ask = match flag {
            Flag::ReadOnly => nbd_is_read_only,
            Flag::MultiConn => nbd_can_multi_conn,
            Flag::Zero => nbd_can_zero,
            Flag::FastZero => nbd_can_fast_zero,
            Flag::Trim => nbd_can_trim,
            Flag::Flush => nbd_can_flush,
            Flag::Cache => nbd_can_cache,
        };
        // SAFETY: the handle is live.
        boolean(unsafe { ask(self.raw()) }, "ask for the export's flags")
    }

    /// Whether the server granted a meta context.
    pub fn has_context(&self, name: &str) -> Result<bool> {
        let name = c_string(name)?;
        // SAFETY: the handle and the string are live.
        boolean(unsafe { nbd_can_meta_context(self.raw(), name.as_ptr()) }, "ask for a meta context")
    }
}

/// Commands running on a handle that this batch owns until none is left; `'b` is the life of
/// their buffers.
#[derive(Debug)]
pub struct Batch<'b> {
    handle: Handle,
    running: usize,
    /// Of the reads that are running, by cookie.
    reads: Vec<(u64, NonNull<[u8]>)>,
    buffers: PhantomData<&'b mut [u8]>,
}

/// A command that ended.
#[derive(Debug)]
pub struct Ended<'b> {
    /// As [`Batch::submit`] returned it.
    pub cookie: u64,
    /// How it ended.
    pub outcome: Result<()>,
    /// The buffer of a read, given back.
    pub buffer: Option<&'b mut [u8]>,
}

impl<'b> Batch<'b> {
    /// A batch without commands.
    pub fn new(handle: Handle) -> Self {
        Self { handle, running: 0, reads: Vec::new(), buffers: PhantomData }
    }

    /// Starts a command and returns its cookie.
    pub fn submit(&mut self, command: Command<'b>) -> Result<u64> {
        let raw = self.handle.raw();
        let verb = command.verb();
        let mut filled = None;
        let cookie = match command {
            Command::Read { buffer, offset } => {
                let buffer = NonNull::from(buffer);
                filled = Some(buffer);
                // SAFETY: the buffer is borrowed for 'b, and no call on the handle can follow the end of
                // this batch unless the command has completed (see the head of this file).
                unsafe { nbd_aio_pread(raw, buffer.as_ptr().cast(), buffer.len(), offset, NO_COMPLETION, 0) }
            }
            // SAFETY: as for the read.
            Command::Write { data, offset } => unsafe {
                nbd_aio_pwrite(raw, data.as_ptr().cast(), data.len(), offset, NO_COMPLETION, 0)
            },
            Command::Zero { offset, length, may_punch } => {
                let flags = if may_punch { 0 } else { FLAG_NO_HOLE };
                // SAFETY: the handle is live; no memory is involved.
                unsafe { nbd_aio_zero(raw, length, offset, NO_COMPLETION, flags) }
            }
            // SAFETY: the handle is live; no memory is involved.
            Command::Trim { offset, length } => unsafe { nbd_aio_trim(raw, length, offset, NO_COMPLETION, 0) },
            // SAFETY: the handle is live; no memory is involved.
            Command::Flush => unsafe { nbd_aio_flush(raw, NO_COMPLETION, 0) },
            Command::Status { offset, length, replies } => {
                let extents = ExtentCallback {
                    callback: Some(on_extents),
                    user_data: Box::into_raw(Box::new(replies)).cast(),
                    free: Some(free_replies),
                };
                // SAFETY: libnbd calls `free` exactly once, also when this call fails, and `callback`
                // not after it.
                unsafe { nbd_aio_block_status(raw, length, offset, extents, NO_COMPLETION, 0) }
            }
        };
        let cookie = u64::try_from(cookie).map_err(|_| last_error(verb))?;
        self.running += 1;
        self.reads.extend(filled.map(|buffer| (cookie, buffer)));
        Ok(cookie)
    }

    /// A command that ended since the last call, with its outcome.
    pub fn completed(&mut self) -> Option<Ended<'b>> {
        // SAFETY: the handle is live.
        let cookie = unsafe { nbd_aio_peek_command_completed(self.handle.raw()) };
        let cookie = u64::try_from(cookie).ok().filter(|&cookie| cookie > 0)?;
        // SAFETY: the handle is live; the cookie is one of its own.
        let outcome = unsafe { nbd_aio_command_completed(self.handle.raw(), cookie) };
        let outcome = check(outcome, "command");
        self.running = self.running.saturating_sub(1);
        let read = self.reads.iter().position(|(running, _)| *running == cookie);
        let buffer = read.map(|read| {
            let (_, mut buffer) = self.reads.swap_remove(read);
            // SAFETY: it came as a `&'b mut` and was kept by nobody but the command, which has ended: libnbd does
            // not touch it any more, and it is given back once.
            unsafe { buffer.as_mut() }
        });
        Some(Ended { cookie, outcome, buffer })
    }

    /// Lets the commands make progress, waiting for at most `timeout`.
    pub fn poll(&mut self, timeout: Duration) -> Result<()> {
        self.handle.poll(timeout)
    }

    /// The handle, if no command is left and the connection is usable; else closes it.
    pub fn finish(self) -> Option<Handle> {
        (self.running == 0 && self.handle.is_ready()).then_some(self.handle)
    }
}

/// libnbd's extent callback: copies the extents out. Returns -1 (which fails the command) rather
/// than unwind into C.
unsafe extern "C" fn on_extents(
    user_data: *mut c_void,
    context: *const c_char,
    offset: u64,
    entries: *mut u32,
    entry_count: usize,
    error: *mut c_int,
) -> c_int {
    let taken = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: user_data is the Box<Replies> of this command, not yet freed; libnbd passes a
        // NUL-terminated name and `entry_count` numbers, both valid during this call.
        let (replies, context, entries) = unsafe {
            let entries: &[u32] =
                if entries.is_null() { &[] } else { std::slice::from_raw_parts(entries, entry_count) };
            (&*user_data.cast::<Replies>().cast_const(), CStr::from_ptr(context), entries)
        };
        let extents = entries.chunks_exact(2).take(REPLY_EXTENTS).map(|pair| (pair[0], pair[1])).collect();
        replies.add(ContextReply { context: context.to_string_lossy().into_owned(), offset, extents })
    }));
    if taken.unwrap_or(false) {
        return 0;
    }
    // SAFETY: libnbd passes a pointer to its error number.
    unsafe { *error = rustix::io::Errno::PROTO.raw_os_error() };
    -1
}

/// Frees the callback state of a block status command.
unsafe extern "C" fn free_replies(user_data: *mut c_void) {
    // SAFETY: the pointer came from Box::into_raw and libnbd calls this once.
    let replies = unsafe { Box::from_raw(user_data.cast::<Replies>()) };
    // A panic in drop must not cross into C; dropping a Vec of numbers and strings has none.
    drop(replies);
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::usage(format!("NUL character in {text:?}")))
}

fn check(outcome: c_int, operation: &str) -> Result<()> {
    if outcome == -1 { Err(last_error(operation)) } else { Ok(()) }
}

fn boolean(outcome: c_int, operation: &str) -> Result<bool> {
    check(outcome, operation).map(|()| outcome == 1)
}

/// The error of the libnbd call that just failed in this thread: libnbd's words, and its error
/// number as an [`std::io::Error`] cause.
fn last_error(operation: &str) -> Error {
    // SAFETY: reads a per-thread number.
    let errno = unsafe { nbd_get_errno() };
    // SAFETY: a per-thread string, valid until this thread's next libnbd call, or null.
    let text = unsafe {
        let text = nbd_get_error();
        if text.is_null() { None } else { Some(CStr::from_ptr(text).to_string_lossy().into_owned()) }
    };
    super::client::describe(text.as_deref().unwrap_or(operation), errno)
}
