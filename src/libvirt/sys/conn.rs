//! A connection to a libvirt daemon.

use std::ffi::{CStr, c_int, c_uint, c_ulong, c_void};
use std::ptr::{self, NonNull};

use virt_sys as c;

use super::{Dom, Result, c_string, check, initialize, last_error, strdup, take_list, take_string};

/// Seconds between keepalive messages, and how many may go unanswered: a host that is gone is noticed
/// after a minute, one that is merely busy is not given up.
const KEEPALIVE: (c_int, c_uint) = (10, 6);

/// An open connection; closed on drop.
pub(in crate::libvirt) struct Conn(NonNull<c::virConnect>);

// SAFETY: libvirt documents virConnectPtr as usable from any number of threads at once (it is reference
// counted and locks itself); errors are kept per thread.
unsafe impl Send for Conn {}
// SAFETY: as above.
unsafe impl Sync for Conn {}

/// What the daemon may be told when it asks who we are.
pub(in crate::libvirt) struct Answers {
    user: Option<std::ffi::CString>,
    password: Option<std::ffi::CString>,
}

impl Conn {
    /// Connects to `uri`; with neither user nor password no question can be answered.
    pub(in crate::libvirt) fn open(uri: &str, user: Option<&str>, password: Option<&str>) -> Result<Self> {
        initialize()?;
        let uri = c_string(uri)?;
        let mut answers =
            Answers { user: user.map(c_string).transpose()?, password: password.map(c_string).transpose()? };
        let mut types = [
            c::VIR_CRED_USERNAME as c_int,
            c::VIR_CRED_AUTHNAME as c_int,
            c::VIR_CRED_ECHOPROMPT as c_int,
            c::VIR_CRED_PASSPHRASE as c_int,
            c::VIR_CRED_NOECHOPROMPT as c_int,
        ];
        let mut auth = c::virConnectAuth {
            credtype: types.as_mut_ptr(),
            ncredtype: types.len() as c_uint,
            cb: Some(answer),
            cbdata: ptr::from_mut(&mut answers).cast(),
        };
        // SAFETY: the URI is a C string; `auth`, `types` and `answers` live until the call returns, and
        // libvirt does not keep them beyond it.
        let conn = unsafe { c::virConnectOpenAuth(uri.as_ptr(), &mut auth, 0) };
        let conn = Self(NonNull::new(conn).ok_or_else(last_error)?);
        // SAFETY: an open connection. The result does not matter: drivers in this process have no
        // keepalive and need none.
        unsafe { c::virConnectSetKeepAlive(conn.0.as_ptr(), KEEPALIVE.0, KEEPALIVE.1) };
        Ok(conn)
    }

    /// Whether the connection still works; a lost one never comes back.
    pub(in crate::libvirt) fn is_alive(&self) -> bool {
        // SAFETY: an open connection.
        unsafe { c::virConnectIsAlive(self.0.as_ptr()) == 1 }
    }

    /// The version of libvirt on the other side.
    pub(in crate::libvirt) fn daemon_version(&self) -> Result<u64> {
        let mut version: c_ulong = 0;
        // SAFETY: an open connection and a place for the number.
        check(unsafe { c::virConnectGetLibVersion(self.0.as_ptr(), &mut version) })?;
        Ok(version)
    }

    /// The version of the hypervisor on the other side.
    pub(in crate::libvirt) fn hypervisor_version(&self) -> Result<u64> {
        let mut version: c_ulong = 0;
        // SAFETY: an open connection and a place for the number.
        check(unsafe { c::virConnectGetVersion(self.0.as_ptr(), &mut version) })?;
        Ok(version)
    }

    /// The version of the C library in this process.
    pub(in crate::libvirt) fn library_version() -> Result<u64> {
        let mut version: c_ulong = 0;
        // SAFETY: a place for the number; the other two may be null.
        check(unsafe { c::virGetVersion(&mut version, ptr::null(), ptr::null_mut()) })?;
        Ok(version)
    }

    /// The URI that libvirt settled on.
    pub(in crate::libvirt) fn uri(&self) -> Result<String> {
        // SAFETY: an open connection; the string is the caller's to free.
        unsafe { take_string(c::virConnectGetURI(self.0.as_ptr())) }
    }

    /// The name of the host the daemon runs on.
    pub(in crate::libvirt) fn hostname(&self) -> Result<String> {
        // SAFETY: an open connection; the string is the caller's to free.
        unsafe { take_string(c::virConnectGetHostname(self.0.as_ptr())) }
    }

    /// The domain of that name.
    pub(in crate::libvirt) fn domain_by_name(&self, name: &str) -> Result<Dom> {
        let name = c_string(name)?;
        // SAFETY: an open connection and a C string; the handle is ours.
        unsafe { Dom::from_raw(c::virDomainLookupByName(self.0.as_ptr(), name.as_ptr())) }
    }

    /// The domain of that UUID, in its usual text form.
    pub(in crate::libvirt) fn domain_by_uuid(&self, uuid: &str) -> Result<Dom> {
        let uuid = c_string(uuid)?;
        // SAFETY: an open connection and a C string; the handle is ours.
        unsafe { Dom::from_raw(c::virDomainLookupByUUIDString(self.0.as_ptr(), uuid.as_ptr())) }
    }

    /// All domains, running or not.
    pub(in crate::libvirt) fn domains(&self) -> Result<Vec<Dom>> {
        let mut list = ptr::null_mut();
        // SAFETY: an open connection and a place for the list.
        let count = check(unsafe { c::virConnectListAllDomains(self.0.as_ptr(), &mut list, 0) })?;
        // SAFETY: on success the list has `count` handles and belongs to the caller, as they do.
        unsafe { take_list(list, count).into_iter().map(|handle| Dom::from_raw(handle)).collect() }
    }

    /// Defines (or redefines) a persistent domain.
    pub(in crate::libvirt) fn define(&self, xml: &str) -> Result<Dom> {
        let xml = c_string(xml)?;
        // SAFETY: an open connection and a C string; the handle is ours.
        unsafe { Dom::from_raw(c::virDomainDefineXMLFlags(self.0.as_ptr(), xml.as_ptr(), 0)) }
    }

    /// Starts a domain that is forgotten when it ends.
    pub(in crate::libvirt) fn create(&self, xml: &str) -> Result<Dom> {
        let xml = c_string(xml)?;
        // SAFETY: an open connection and a C string; the handle is ours.
        unsafe { Dom::from_raw(c::virDomainCreateXML(self.0.as_ptr(), xml.as_ptr(), 0)) }
    }

    /// What the host is like, as XML.
    pub(in crate::libvirt) fn capabilities(&self) -> Result<String> {
        // SAFETY: an open connection; the string is the caller's to free.
        unsafe { take_string(c::virConnectGetCapabilities(self.0.as_ptr())) }
    }

    /// The path of a storage volume.
    pub(in crate::libvirt) fn volume_path(&self, pool: &str, volume: &str) -> Result<String> {
        // SAFETY: an open connection.
        unsafe { volume_path(self.0.as_ptr(), pool, volume) }
    }

    /// What the hypervisor offers to domains of that kind; what is not given is the hypervisor's choice.
    pub(in crate::libvirt) fn domain_capabilities(
        &self,
        emulator: Option<&str>,
        arch: Option<&str>,
        machine: Option<&str>,
        kind: Option<&str>,
    ) -> Result<String> {
        let [emulator, arch, machine, kind] =
            [emulator, arch, machine, kind].map(|text| text.map(c_string).transpose());
        let texts = [emulator?, arch?, machine?, kind?];
        let [emulator, arch, machine, kind] =
            [0, 1, 2, 3].map(|index| texts[index].as_ref().map_or(ptr::null(), |text| text.as_ptr()));
        // SAFETY: an open connection; the texts are C strings that live until the call returns, or null; the
        // result is the caller's to free.
        unsafe { take_string(c::virConnectGetDomainCapabilities(self.0.as_ptr(), emulator, arch, machine, kind, 0)) }
    }
}

/// The path of a storage volume.
///
/// # Safety
/// `conn` must be an open connection.
pub(super) unsafe fn volume_path(conn: c::virConnectPtr, pool: &str, volume: &str) -> Result<String> {
    let (pool, volume) = (c_string(pool)?, c_string(volume)?);
    // SAFETY: an open connection and a C string.
    let pool = unsafe { c::virStoragePoolLookupByName(conn, pool.as_ptr()) };
    if pool.is_null() {
        return Err(last_error());
    }
    // SAFETY: a pool and a C string.
    let volume = unsafe { c::virStorageVolLookupByName(pool, volume.as_ptr()) };
    let path = if volume.is_null() {
        Err(last_error())
    } else {
        // SAFETY: a volume; the string is the caller's to free.
        let path = unsafe { take_string(c::virStorageVolGetPath(volume)) };
        // SAFETY: our reference, not used after this.
        unsafe { c::virStorageVolFree(volume) };
        path
    };
    // SAFETY: our reference, not used after this.
    unsafe { c::virStoragePoolFree(pool) };
    path
}

impl Conn {
    /// Makes the storage pool whose directory is `path` look again at what it holds.
    pub(in crate::libvirt) fn refresh_pool_at(&self, path: &str) -> Result<()> {
        let path = c_string(path)?;
        // SAFETY: an open connection and a C string.
        let pool = unsafe { c::virStoragePoolLookupByTargetPath(self.0.as_ptr(), path.as_ptr()) };
        if pool.is_null() {
            return Err(last_error());
        }
        // SAFETY: a pool.
        let result = check(unsafe { c::virStoragePoolRefresh(pool, 0) }).map(drop);
        // SAFETY: our reference, not used after this.
        unsafe { c::virStoragePoolFree(pool) };
        result
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // SAFETY: our reference, not used after this. Domains hold references of their own.
        unsafe { c::virConnectClose(self.0.as_ptr()) };
    }
}

/// Answers the questions of the daemon; what was not given makes the authentication fail.
unsafe extern "C" fn answer(credentials: c::virConnectCredentialPtr, count: c_uint, data: *mut c_void) -> c_int {
    if credentials.is_null() || data.is_null() {
        return -1;
    }
    // SAFETY: `data` is the `Answers` that `Conn::open` passed, alive until that call returns.
    let answers = unsafe { &*data.cast::<Answers>() };
    // SAFETY: libvirt passes `count` questions, for this call alone.
    let credentials = unsafe { std::slice::from_raw_parts_mut(credentials, count as usize) };
    for credential in credentials {
        let text = match credential.type_ as c_uint {
            c::VIR_CRED_PASSPHRASE | c::VIR_CRED_NOECHOPROMPT => answers.password.as_deref(),
            // On whose behalf: without an answer on one's own. Who one is may stand in the URI's `authfile`.
            c::VIR_CRED_USERNAME => Some(answers.user.as_deref().unwrap_or(c"")),
            c::VIR_CRED_AUTHNAME | c::VIR_CRED_ECHOPROMPT => answers.user.as_deref(),
            _ => None,
        };
        let Some(text) = text else { return -1 };
        let Some((copy, len)) = duplicate(text) else { return -1 };
        credential.result = copy;
        credential.resultlen = len;
    }
    0
}

/// A copy that libvirt frees, and its length.
fn duplicate(text: &CStr) -> Option<(*mut std::ffi::c_char, c_uint)> {
    // SAFETY: a C string.
    let copy = unsafe { strdup(text.as_ptr()) };
    (!copy.is_null()).then_some((copy, c_uint::try_from(text.count_bytes()).ok()?))
}
