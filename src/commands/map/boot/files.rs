//! The files of a domain that runs from a map, and who may use them.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::process::geteuid;
use tempfile::TempDir;

use crate::cli::Hypervisor;
use crate::commands::connect;
use crate::commands::restore::config::{firmware_key, original_name};
use crate::commands::restore::source::Source;
use crate::error::{Error, Kind, Result};
use crate::host::address;
use crate::libvirt::connection::Connection;
use crate::libvirt::domain_xml::DomainConfig;
use crate::set::config::ConfigFile;

/// The user that QEMU runs as, where that is another one than this.
///
/// # Errors
/// Of the connection.
pub fn qemu_user(connection: &Connection, hypervisor: &Hypervisor) -> Result<Option<u32>> {
    use std::os::unix::fs::MetadataExt;
    // A session daemon starts QEMU as the user that it runs as itself: this one, unless the URI names its socket.
    let owner = || {
        let socket = address::parameter(&connect::uri(hypervisor), "socket")?;
        std::fs::metadata(socket).ok().map(|found| found.uid())
    };
    let user = connection.qemu_user()?.or_else(owner);
    Ok(user.filter(|&user| user != geteuid().as_raw()))
}

/// Lets `user` read and write a file of ours, and nobody else.
///
/// # Errors
/// [`Kind::Io`] on a file system without access control lists, unless this is root.
pub fn grant(path: &Path, user: u32) -> Result<()> {
    if geteuid().is_root() {
        return chown(path, Some(user), None).map_err(|error| Error::io("give to QEMU's user", error).path(path));
    }
    let list = access_list(user);
    rustix::fs::setxattr(path, "system.posix_acl_access", &list, XattrFlags::empty()).map_err(|error| {
        Error::io("let QEMU's user in", error)
            .path(path)
            .hint("choose a socket on a local file system with --socket, or --listen 127.0.0.1:0; root needs neither")
    })
}

/// The access control list as the kernel takes it (acl(5), linux/posix_acl_xattr.h): the owner and `user` read and
/// write.
fn access_list(user: u32) -> Vec<u8> {
    const ANY: u32 = u32::MAX;
    let mut list = 2u32.to_le_bytes().to_vec();
    // Owner, a user by its number, group, the most that such users have, all others.
    for (tag, permissions, id) in [(1u16, 6u16, ANY), (2, 6, user), (4, 0, ANY), (0x10, 6, ANY), (0x20, 0, ANY)] {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

/// A directory for the socket and the files, which goes with the value. QEMU's user finds what it is told of in
/// it; nobody can list it.
///
/// # Errors
/// [`Kind::Io`].
pub fn directory() -> Result<TempDir> {
    let place = if geteuid().is_root() { PathBuf::from("/run") } else { std::env::temp_dir() };
    tempfile::Builder::new()
        .prefix("virtkeep-boot.")
        .permissions(std::fs::Permissions::from_mode(0o711))
        .tempdir_in(&place)
        .map_err(|error| Error::io("create a directory for the domain's files", error).path(place))
}

/// Files that are removed when this is dropped.
#[derive(Debug, Default)]
pub struct Removed(pub Vec<PathBuf>);

impl Removed {
    /// They stay.
    pub fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        for file in &self.0 {
            // It may not be there yet.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// The copies of the firmware's variables, the firmware, the kernel and the initial ramdisk.
#[derive(Debug, Default)]
pub struct Firmware {
    /// The firmware.
    pub loader: Option<PathBuf>,
    /// Its variables.
    pub nvram: Option<PathBuf>,
    /// Its variables, where QEMU keeps them itself.
    pub varstore: Option<PathBuf>,
    /// The kernel.
    pub kernel: Option<PathBuf>,
    /// The initial ramdisk.
    pub initrd: Option<PathBuf>,
    /// The files that there are.
    pub files: Vec<PathBuf>,
}

impl Firmware {
    /// Where they will be: what of them the set has, in `directory`. The kernel is the restore point's; so are the
    /// variables, which must not be shared. The firmware itself is the host's, if it is there.
    pub fn plan(source: &Source, config: &DomainConfig, directory: &Path, name: &str) -> Self {
        let mut plan = Self::default();
        for file in wanted(source, config) {
            let path = directory.join(original_name(file));
            match firmware_key(file.role) {
                Some("loader") => plan.loader = Some(path.clone()),
                Some("kernel") => plan.kernel = Some(path.clone()),
                Some("initrd") => plan.initrd = Some(path.clone()),
                Some("nvram") if config.varstore.is_some() => plan.varstore = Some(path.clone()),
                Some("nvram") => plan.nvram = Some(path.clone()),
                _ => continue,
            }
            plan.files.push(path);
        }
        // libvirt makes it from the template.
        if config.nvram.is_some() && plan.nvram.is_none() {
            let path = directory.join(format!("{name}_VARS.fd"));
            plan.files.push(path.clone());
            plan.nvram = Some(path);
        }
        plan
    }

    /// Writes them, for `user` where QEMU runs as another.
    ///
    /// # Errors
    /// [`Kind::Busy`] where one is there already; what is wrong with the set's files.
    pub fn write(source: &Source, config: &DomainConfig, directory: &Path, user: Option<u32>) -> Result<()> {
        for file in wanted(source, config) {
            let path = directory.join(original_name(file));
            let content = file.read()?;
            let key = firmware_key(file.role);
            create(&path, &content, if key == Some("nvram") { 0o600 } else { 0o644 })?;
            if let Some(user) = user.filter(|_| key == Some("nvram")) {
                grant(&path, user)?;
            }
        }
        Ok(())
    }
}

fn wanted<'s>(source: &'s Source, config: &'s DomainConfig) -> impl Iterator<Item = &'s ConfigFile> {
    source.files().iter().filter(|file| match firmware_key(file.role) {
        Some("loader") => config.loader.as_ref().is_some_and(|path| !path.exists()),
        Some(_) => true,
        None => false,
    })
}

fn create(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(content)).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::new(Kind::Busy, "exists already").path(path).hint("choose another directory with --copy-to")
        }
        _ => Error::io("write", error).path(path),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_list_is_the_kernels() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let list = access_list(12345);
        assert_eq!(list.len(), 44);
        rustix::fs::setxattr(file.path(), "system.posix_acl_access", &list, XattrFlags::empty()).unwrap();
        let mut found = [0; 64];
        let length = rustix::fs::getxattr(file.path(), "system.posix_acl_access", &mut found).unwrap();
        assert_eq!(&found[..length], list);
        // The group's bits show the most that anybody but the owner has.
        assert_eq!(file.path().metadata().unwrap().permissions().mode() & 0o777, 0o660);
    }
}
