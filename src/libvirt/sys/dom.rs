//! A handle of a domain.

use std::ffi::{c_char, c_int, c_uint};
use std::ptr::{self, NonNull};

use virt_sys as c;

use super::params::{Value, take_params};
use super::{Checkpoint, Result, c_string, check, last_error, take_list, take_string};

/// A domain; freed on drop. Keeps its connection open.
pub(in crate::libvirt) struct Dom(NonNull<c::virDomain>);

// SAFETY: libvirt's objects are reference counted and may be used from any number of threads at once;
// every call goes through the connection, which locks itself.
unsafe impl Send for Dom {}
// SAFETY: as above.
unsafe impl Sync for Dom {}

/// A disk on which QEMU met an error, and which (1 unspecified, 2 no space).
pub(in crate::libvirt) type BlockDevice = (String, i32);

impl Dom {
    /// Takes over a handle; null means the call that made it failed.
    ///
    /// # Safety
    /// `handle` must be null or a reference of ours that is used nowhere else.
    pub(super) unsafe fn from_raw(handle: c::virDomainPtr) -> Result<Self> {
        NonNull::new(handle).map(Self).ok_or_else(last_error)
    }

    pub(super) fn raw(&self) -> c::virDomainPtr {
        self.0.as_ptr()
    }

    pub(in crate::libvirt) fn name(&self) -> Result<String> {
        // SAFETY: a domain; the string lives as long as the handle.
        unsafe { super::copy_string(c::virDomainGetName(self.raw())) }
    }

    pub(in crate::libvirt) fn uuid(&self) -> Result<String> {
        let mut buffer: [c_char; c::VIR_UUID_STRING_BUFLEN as usize] = [0; c::VIR_UUID_STRING_BUFLEN as usize];
        // SAFETY: a domain and a buffer of the size that libvirt asks for.
        check(unsafe { c::virDomainGetUUIDString(self.raw(), buffer.as_mut_ptr()) })?;
        // SAFETY: on success the buffer holds a C string.
        unsafe { super::copy_string(buffer.as_ptr()) }
    }

    pub(in crate::libvirt) fn xml(&self, flags: u32) -> Result<String> {
        // SAFETY: a domain; the string is the caller's to free.
        unsafe { take_string(c::virDomainGetXMLDesc(self.raw(), flags)) }
    }

    /// State and reason.
    pub(in crate::libvirt) fn state(&self) -> Result<(i32, i32)> {
        let (mut state, mut reason) = (0, 0);
        // SAFETY: a domain and places for the numbers.
        check(unsafe { c::virDomainGetState(self.raw(), &mut state, &mut reason, 0) })?;
        Ok((state, reason))
    }

    pub(in crate::libvirt) fn is_active(&self) -> Result<bool> {
        // SAFETY: a domain.
        Ok(check(unsafe { c::virDomainIsActive(self.raw()) })? == 1)
    }

    pub(in crate::libvirt) fn is_persistent(&self) -> Result<bool> {
        // SAFETY: a domain.
        Ok(check(unsafe { c::virDomainIsPersistent(self.raw()) })? == 1)
    }

    /// Whether its memory is in a file, from which the next start goes on.
    pub(in crate::libvirt) fn has_managed_save(&self) -> Result<bool> {
        // SAFETY: a domain.
        Ok(check(unsafe { c::virDomainHasManagedSaveImage(self.raw(), 0) })? == 1)
    }

    /// The path of a storage volume of the domain's connection.
    pub(in crate::libvirt) fn volume_path(&self, pool: &str, volume: &str) -> Result<String> {
        // SAFETY: a domain. Its connection is borrowed: it stays open for as long as the domain's handle.
        let conn = unsafe { c::virDomainGetConnect(self.raw()) };
        if conn.is_null() {
            return Err(last_error());
        }
        // SAFETY: an open connection.
        unsafe { super::conn::volume_path(conn, pool, volume) }
    }

    pub(in crate::libvirt) fn autostart(&self) -> Result<bool> {
        let mut autostart = 0;
        // SAFETY: a domain and a place for the number.
        check(unsafe { c::virDomainGetAutostart(self.raw(), &mut autostart) })?;
        Ok(autostart != 0)
    }

    pub(in crate::libvirt) fn set_autostart(&self, autostart: bool) -> Result<()> {
        // SAFETY: a domain.
        check(unsafe { c::virDomainSetAutostart(self.raw(), c_int::from(autostart)) }).map(drop)
    }

    pub(in crate::libvirt) fn create(&self, flags: u32) -> Result<()> {
        // SAFETY: a domain.
        check(unsafe { c::virDomainCreateWithFlags(self.raw(), flags) }).map(drop)
    }

    pub(in crate::libvirt) fn resume(&self) -> Result<()> {
        // SAFETY: a domain.
        check(unsafe { c::virDomainResume(self.raw()) }).map(drop)
    }

    pub(in crate::libvirt) fn suspend(&self) -> Result<()> {
        // SAFETY: a domain.
        check(unsafe { c::virDomainSuspend(self.raw()) }).map(drop)
    }

    pub(in crate::libvirt) fn destroy(&self) -> Result<()> {
        // SAFETY: a domain; the handle stays valid.
        check(unsafe { c::virDomainDestroyFlags(self.raw(), 0) }).map(drop)
    }

    pub(in crate::libvirt) fn undefine(&self, flags: u32) -> Result<()> {
        // SAFETY: a domain; the handle stays valid.
        check(unsafe { c::virDomainUndefineFlags(self.raw(), flags) }).map(drop)
    }

    /// The disks with errors; `room` is the most that can be told.
    pub(in crate::libvirt) fn disk_errors(&self, room: usize) -> Result<Vec<BlockDevice>> {
        let mut errors = vec![c::virDomainDiskError { disk: ptr::null_mut(), error: 0 }; room];
        let len = c_uint::try_from(room).unwrap_or(0);
        if len == 0 {
            return Ok(Vec::new());
        }
        // SAFETY: a domain and an array of `len` places.
        let count = check(unsafe { c::virDomainGetDiskErrors(self.raw(), errors.as_mut_ptr(), len, 0) })?;
        let count = usize::try_from(count).unwrap_or(0).min(room);
        errors
            .iter()
            .take(count)
            // SAFETY: the first `count` places hold strings that are the caller's to free, once each.
            .map(|found| Ok((unsafe { take_string(found.disk) }?, found.error)))
            .collect()
    }

    /// Type of the job that runs (0: none).
    pub(in crate::libvirt) fn job_type(&self) -> Result<i32> {
        // SAFETY: the struct is plain numbers, for which all zeroes is a value.
        let mut info: c::virDomainJobInfo = unsafe { std::mem::zeroed() };
        // SAFETY: a domain and a place for the answer.
        check(unsafe { c::virDomainGetJobInfo(self.raw(), &mut info) })?;
        Ok(info.type_)
    }

    /// Type of the job that runs (0: none) and what is told of it.
    pub(in crate::libvirt) fn job_stats(&self) -> Result<(i32, Vec<(String, Value)>)> {
        let (mut kind, mut params, mut count) = (0, ptr::null_mut(), 0);
        // SAFETY: a domain and places for the answer.
        check(unsafe { c::virDomainGetJobStats(self.raw(), &mut kind, &mut params, &mut count, 0) })?;
        // SAFETY: on success the parameters are `count` long and the caller's to free.
        Ok((kind, unsafe { take_params(params, count) }))
    }

    pub(in crate::libvirt) fn abort_job(&self) -> Result<()> {
        // SAFETY: a domain.
        check(unsafe { c::virDomainAbortJob(self.raw()) }).map(drop)
    }

    pub(in crate::libvirt) fn backup_begin(&self, xml: &str, checkpoint: Option<&str>, flags: u32) -> Result<()> {
        let (xml, checkpoint) = (c_string(xml)?, checkpoint.map(c_string).transpose()?);
        let checkpoint = checkpoint.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        // SAFETY: a domain, a C string, and a C string or null.
        check(unsafe { c::virDomainBackupBegin(self.raw(), xml.as_ptr(), checkpoint, flags) }).map(drop)
    }

    pub(in crate::libvirt) fn backup_xml(&self) -> Result<String> {
        // SAFETY: a domain; the string is the caller's to free.
        unsafe { take_string(c::virDomainBackupGetXMLDesc(self.raw(), 0)) }
    }

    /// Begins to copy a disk to what `xml` describes; the copy is forgotten with the domain.
    pub(in crate::libvirt) fn block_copy(&self, disk: &str, xml: &str) -> Result<()> {
        let (disk, xml) = (c_string(disk)?, c_string(xml)?);
        let flags = c::VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB;
        // SAFETY: a domain and C strings; no parameters.
        check(unsafe { c::virDomainBlockCopy(self.raw(), disk.as_ptr(), xml.as_ptr(), ptr::null_mut(), 0, flags) })
            .map(drop)
    }

    /// How far the job of a disk is, and how far it has to go; none where there is no job.
    pub(in crate::libvirt) fn block_job(&self, disk: &str) -> Result<Option<(u64, u64)>> {
        let disk = c_string(disk)?;
        // SAFETY: the struct is plain numbers, for which all zeroes is a value.
        let mut info: c::virDomainBlockJobInfo = unsafe { std::mem::zeroed() };
        // SAFETY: a domain, a C string and a place for the answer.
        let found = check(unsafe { c::virDomainGetBlockJobInfo(self.raw(), disk.as_ptr(), &mut info, 0) })?;
        Ok((found == 1).then_some((info.cur, info.end)))
    }

    /// Ends the job of a disk; with `pivot` the domain goes on with the copy.
    pub(in crate::libvirt) fn end_block_job(&self, disk: &str, pivot: bool) -> Result<()> {
        let disk = c_string(disk)?;
        let flags = if pivot { c::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT } else { 0 };
        // SAFETY: a domain and a C string.
        check(unsafe { c::virDomainBlockJobAbort(self.raw(), disk.as_ptr(), flags) }).map(drop)
    }

    /// All checkpoints, parents before their children.
    pub(in crate::libvirt) fn checkpoints(&self) -> Result<Vec<Checkpoint>> {
        let mut list = ptr::null_mut();
        let flags = c::VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL;
        // SAFETY: a domain and a place for the list.
        let count = check(unsafe { c::virDomainListAllCheckpoints(self.raw(), &mut list, flags) })?;
        // SAFETY: on success the list has `count` handles and belongs to the caller, as they do.
        unsafe { take_list(list, count).into_iter().map(|handle| Checkpoint::from_raw(handle)).collect() }
    }

    pub(in crate::libvirt) fn checkpoint(&self, name: &str) -> Result<Checkpoint> {
        let name = c_string(name)?;
        // SAFETY: a domain and a C string; the handle is ours.
        unsafe { Checkpoint::from_raw(c::virDomainCheckpointLookupByName(self.raw(), name.as_ptr(), 0)) }
    }

    pub(in crate::libvirt) fn checkpoint_create(&self, xml: &str, flags: u32) -> Result<Checkpoint> {
        let xml = c_string(xml)?;
        // SAFETY: a domain and a C string; the handle is ours.
        unsafe { Checkpoint::from_raw(c::virDomainCheckpointCreateXML(self.raw(), xml.as_ptr(), flags)) }
    }

    /// QEMU's answer to a command of its monitor protocol. From libvirt-qemu, a library beside libvirt's
    /// own in the same package.
    pub(in crate::libvirt) fn monitor_command(&self, command: &str) -> Result<String> {
        let command = c_string(command)?;
        let mut answer = ptr::null_mut();
        // SAFETY: a domain, a C string, and a place for the answer.
        check(unsafe {
            c::virDomainQemuMonitorCommand(
                self.raw(),
                command.as_ptr(),
                &mut answer,
                c::VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT,
            )
        })?;
        // SAFETY: on success the answer is a C string, the caller's to free.
        unsafe { take_string(answer) }
    }

    /// The guest agent's answer to a command of its protocol, waited for at most `seconds`.
    pub(in crate::libvirt) fn agent_command(&self, command: &str, seconds: i32) -> Result<String> {
        let command = c_string(command)?;
        // SAFETY: a domain and a C string; the answer is a C string, the caller's to free, or null.
        unsafe { take_string(c::virDomainQemuAgentCommand(self.raw(), command.as_ptr(), seconds, 0)) }
    }

    /// Freezes the file systems mounted there, all of them if none is named; returns how many.
    pub(in crate::libvirt) fn freeze(&self, mountpoints: &[String]) -> Result<i32> {
        let owned = mountpoints.iter().map(|path| c_string(path)).collect::<Result<Vec<_>>>()?;
        let mut list: Vec<_> = owned.iter().map(|path| path.as_ptr()).collect();
        let pointer = if list.is_empty() { ptr::null_mut() } else { list.as_mut_ptr() };
        let count = c_uint::try_from(list.len()).unwrap_or(0);
        // SAFETY: a domain and a list of `count` C strings, or null with a count of zero.
        check(unsafe { c::virDomainFSFreeze(self.raw(), pointer, count, 0) })
    }

    /// Thaws everything; returns how many file systems.
    pub(in crate::libvirt) fn thaw(&self) -> Result<i32> {
        // SAFETY: a domain; no list means all.
        check(unsafe { c::virDomainFSThaw(self.raw(), ptr::null_mut(), 0, 0) })
    }

    /// How long the agent may take to answer; below zero the values that libvirt defines.
    pub(in crate::libvirt) fn set_agent_timeout(&self, seconds: i32) -> Result<()> {
        // SAFETY: a domain.
        check(unsafe { c::virDomainAgentSetResponseTimeout(self.raw(), seconds, 0) }).map(drop)
    }

    /// Everything that the agent tells of the guest.
    pub(in crate::libvirt) fn guest_info(&self) -> Result<Vec<(String, Value)>> {
        let (mut params, mut count) = (ptr::null_mut(), 0);
        // SAFETY: a domain and places for the answer; type 0 asks for all that the agent supports.
        check(unsafe { c::virDomainGetGuestInfo(self.raw(), 0, &mut params, &mut count, 0) })?;
        // SAFETY: on success the parameters are `count` long and the caller's to free.
        Ok(unsafe { take_params(params, count) })
    }
}

impl Drop for Dom {
    fn drop(&mut self) {
        // SAFETY: our reference, not used after this.
        unsafe { c::virDomainFree(self.raw()) };
    }
}
