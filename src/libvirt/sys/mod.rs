//! Every call into the C library libvirt, wrapped so that nothing above needs `unsafe`: handles that
//! free themselves, strings that are copied and freed, errors that are captured where they happen.
//!
//! Rules of the wrappers: a failure to free or close is ignored (the daemon may be gone, and that
//! must not bring us down); an error is read on the thread that made the call, before any other call.

#![allow(unsafe_code, reason = "the one place where libvirt's C functions are called")]

mod checkpoint;
mod conn;
mod dom;
mod params;
mod size;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use virt_sys as c;

use super::{LibvirtError, code};

pub(super) use checkpoint::Checkpoint;
pub(super) use conn::Conn;
pub(super) use dom::Dom;
pub(super) use params::Value;

/// Result of the wrappers.
pub(super) type Result<T> = std::result::Result<T, LibvirtError>;

// libvirt allocates what it hands out with the C allocator and frees what it is handed with it.
unsafe extern "C" {
    fn free(memory: *mut c_void);
    fn strdup(text: *const c_char) -> *mut c_char;
}

/// Prepares the library, once per process: silent errors, and a thread that runs the event loop, without
/// which keepalive and the death of a connection go unnoticed.
fn initialize() -> Result<()> {
    static DONE: OnceLock<Result<()>> = OnceLock::new();
    DONE.get_or_init(|| {
        // SAFETY: no arguments; may be called any number of times from any thread.
        if unsafe { c::virInitialize() } < 0 {
            return Err(last_error());
        }
        // SAFETY: the callback has the C signature that is asked for, needs no user data and lives as
        // long as the program.
        unsafe { c::virSetErrorFunc(ptr::null_mut(), Some(swallow_error)) };
        // SAFETY: no arguments; called once, before the first connection is opened, as it must be.
        if unsafe { c::virEventRegisterDefaultImpl() } < 0 {
            return Err(last_error());
        }
        thread::Builder::new().name("libvirt-events".to_owned()).spawn(run_events).map(drop).map_err(|error| {
            LibvirtError {
                code: code::SYSTEM_ERROR,
                domain: 0,
                message: format!("cannot start the event thread: {error}"),
                os_error: error.raw_os_error(),
            }
        })
    })
    .clone()
}

/// Keeps libvirt from writing every error to stderr, which it does unless a callback is set.
unsafe extern "C" fn swallow_error(_data: *mut c_void, _error: c::virErrorPtr) {}

/// Runs the event loop until the process ends.
fn run_events() {
    loop {
        // SAFETY: no arguments; the default implementation was registered before this thread started,
        // and only this thread runs it.
        if unsafe { c::virEventRunDefaultImpl() } < 0 {
            // Out of memory or a failed poll: without a pause this would take a whole core.
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The error of the libvirt call that has just failed on this thread.
fn last_error() -> LibvirtError {
    // SAFETY: no arguments; returns this thread's error or null.
    let error = unsafe { c::virGetLastError() };
    if error.is_null() {
        return internal("libvirt failed without saying why");
    }
    // SAFETY: not null, owned by libvirt and unchanged until the next libvirt call of this thread;
    // everything is copied out before that.
    let error = unsafe { &*error };
    let message = if error.message.is_null() {
        "no message".to_owned()
    } else {
        // SAFETY: not null, a C string owned by the error.
        unsafe { CStr::from_ptr(error.message) }.to_string_lossy().into_owned()
    };
    let os_error = (error.code == code::SYSTEM_ERROR && error.int1 > 0).then_some(error.int1);
    LibvirtError { code: error.code, domain: error.domain, message, os_error }
}

/// An error of the wrappers themselves.
fn internal(message: &str) -> LibvirtError {
    LibvirtError { code: code::INTERNAL_ERROR, domain: 0, message: message.to_owned(), os_error: None }
}

/// `text` for C; one with a NUL inside is refused.
fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| LibvirtError {
        code: code::INVALID_ARG,
        domain: 0,
        message: "a name or a document contains a NUL character".to_owned(),
        os_error: None,
    })
}

/// The status of a call: below zero means failed.
fn check(status: c_int) -> Result<c_int> {
    if status < 0 { Err(last_error()) } else { Ok(status) }
}

/// Copies and frees a string that libvirt allocated for the caller; null means the call failed.
///
/// # Safety
/// `text` must be null or a C string from malloc that nobody else frees or uses.
unsafe fn take_string(text: *mut c_char) -> Result<String> {
    if text.is_null() {
        return Err(last_error());
    }
    // SAFETY: not null, and a C string by this function's contract.
    let copy = unsafe { CStr::from_ptr(text) }.to_owned();
    // SAFETY: from malloc, ours, and not used after this.
    unsafe { free(text.cast()) };
    copy.into_string().map_err(|_| internal("libvirt answered with text that is not UTF-8"))
}

/// Copies a string that stays libvirt's; null means the call failed.
///
/// # Safety
/// `text` must be null or a C string that lives until this function returns.
unsafe fn copy_string(text: *const c_char) -> Result<String> {
    if text.is_null() {
        return Err(last_error());
    }
    // SAFETY: not null, and a C string by this function's contract.
    let copy = unsafe { CStr::from_ptr(text) };
    copy.to_str().map(str::to_owned).map_err(|_| internal("libvirt answered with text that is not UTF-8"))
}

/// Takes over a list of handles that libvirt allocated, and frees the list itself.
///
/// # Safety
/// `list` must be null or an array of `count` handles from malloc that nobody else frees or uses.
unsafe fn take_list<T>(list: *mut *mut T, count: c_int) -> Vec<*mut T> {
    if list.is_null() {
        return Vec::new();
    }
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: not null, and `count` handles long by this function's contract.
    let handles = unsafe { std::slice::from_raw_parts(list, count) }.to_vec();
    // SAFETY: from malloc, ours, and not used after this.
    unsafe { free(list.cast()) };
    handles
}
