//! A handle of a checkpoint.

use std::ptr::NonNull;

use virt_sys as c;

use super::{Result, check, last_error, take_string};

/// A checkpoint; freed on drop. Keeps its domain and connection open.
pub(in crate::libvirt) struct Checkpoint(NonNull<c::virDomainCheckpoint>);

impl Checkpoint {
    /// Takes over a handle; null means the call that made it failed.
    ///
    /// # Safety
    /// `handle` must be null or a reference of ours that is used nowhere else.
    pub(super) unsafe fn from_raw(handle: c::virDomainCheckpointPtr) -> Result<Self> {
        NonNull::new(handle).map(Self).ok_or_else(last_error)
    }

    pub(in crate::libvirt) fn xml(&self, flags: u32) -> Result<String> {
        // SAFETY: a checkpoint; the string is the caller's to free.
        unsafe { take_string(c::virDomainCheckpointGetXMLDesc(self.0.as_ptr(), flags)) }
    }

    pub(in crate::libvirt) fn delete(&self, flags: u32) -> Result<()> {
        // SAFETY: a checkpoint; the handle stays valid.
        check(unsafe { c::virDomainCheckpointDelete(self.0.as_ptr(), flags) }).map(drop)
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // SAFETY: our reference, not used after this.
        unsafe { c::virDomainCheckpointFree(self.0.as_ptr()) };
    }
}
