//! Sizes of a domain's disks.

use std::ptr;

use virt_sys as c;

use super::{Dom, Result, c_string, check};

impl Dom {
    /// Virtual size of a disk, and the bytes that its image takes on the host.
    pub(in crate::libvirt) fn block_info(&self, target: &str) -> Result<(u64, u64)> {
        let target = c_string(target)?;
        let mut info = c::virDomainBlockInfo { capacity: 0, allocation: 0, physical: 0 };
        // SAFETY: a domain, a C string that outlives the call, and a place for the numbers.
        check(unsafe { c::virDomainGetBlockInfo(self.raw(), target.as_ptr(), ptr::from_mut(&mut info), 0) })?;
        Ok((info.capacity, info.allocation))
    }
}
