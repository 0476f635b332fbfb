//! The state of an emulated TPM, put back for the domain that was defined.

use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use super::source::Source;
use crate::commands::tpm;
use crate::error::{self, Error, Kind, Result};
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::set::layout::write_atomically;
use crate::set::manifest::Role;

/// What the state is called beside the images.
pub const FILE: &str = "tpm-state.tar";

/// Debian's and Fedora's user for swtpm, and libvirt's default.
const USER: &str = "tss";

/// Puts the state where libvirt will look for it, unless there is one: that may be newer. What goes wrong
/// is a warning, since the disks and the domain are restored.
pub fn put_back(source: &Source, connection: &Connection, domain: &Domain) {
    let Some(file) = source.files().iter().find(|file| file.role == Role::TpmState) else { return };
    let result = file.read().and_then(|tar| {
        let uri = connection.requested_uri();
        let place = tpm::directory(uri, domain.uuid()).filter(|_| tpm::is_local(uri));
        let place = place.ok_or_else(|| Error::new(Kind::NotFound, "where libvirt looks for it is not known"))?;
        write(&tpm::unpack(&tar)?, &place)
    });
    match result {
        Ok(true) => tracing::info!("the TPM's state is restored"),
        Ok(false) => {
            tracing::info!("the TPM's state on this host is kept: the set's is in {}", file.file.path().display())
        }
        Err(error) => tracing::warn!(
            "the TPM's state is not restored, unpack {} yourself before the domain starts: {}",
            file.file.path().display(),
            error::report(&error)
        ),
    }
}

/// Writes the files, if none of them is there.
fn write(files: &[(&str, Vec<u8>)], place: &Path) -> Result<bool> {
    for name in tpm::FILES {
        let path = place.join(name);
        if path.try_exists().map_err(|error| Error::io("look for", error).path(&path))? {
            return Ok(false);
        }
    }
    let owner = owner(place)?;
    for (name, content) in files {
        let path = place.join(name);
        let directory = path.parent().unwrap_or(place);
        make(place, 0o711, owner)?;
        make(directory, 0o700, owner)?;
        write_atomically(&path, content)?;
        own(&path, owner)?;
    }
    Ok(true)
}

fn make(directory: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(directory);
    made.map_err(|error| Error::io("create directory", error).path(directory))?;
    own(directory, owner)
}

fn own(path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let Some((user, group)) = owner else { return Ok(()) };
    chown(path, Some(user), Some(group)).map_err(|error| Error::io("change the owner", error).path(path))
}

/// Whose the files must be: swtpm's user where the system's daemon starts it, else that of the folder above.
fn owner(place: &Path) -> Result<Option<(u32, u32)>> {
    use std::os::unix::fs::MetadataExt;
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let above = place.ancestors().skip(1).find_map(|above| above.metadata().ok());
    let above = above.map(|metadata| (metadata.uid(), metadata.gid()));
    if above.is_some_and(|(user, _)| user != 0) {
        return Ok(above);
    }
    let passwd =
        std::fs::read_to_string("/etc/passwd").map_err(|error| Error::io("read", error).path("/etc/passwd"))?;
    Ok(user_in(&passwd, USER))
}

fn user_in(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields =
        passwd.lines().map(|line| line.split(':')).find_map(|mut fields| (fields.next()? == name).then_some(fields))?;
    Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swtpm_s_user_is_found() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\ntss:x:101:102:TPM:/var/lib/tpm:/bin/false\n";
        assert_eq!(user_in(passwd, USER), Some((101, 102)));
        assert_eq!(user_in("nottss:x:1:1::\ntss\n", USER), None);
    }

    #[test]
    fn a_state_that_is_there_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("swtpm/uuid");
        let files = [(tpm::FILES[0], b"old".to_vec())];
        assert!(write(&files, &place).unwrap());
        assert!(!write(&[(tpm::FILES[1], b"new".to_vec())], &place).unwrap());
        assert_eq!(std::fs::read(place.join(tpm::FILES[0])).unwrap(), b"old");
        assert!(!place.join(tpm::FILES[1]).exists());
    }
}
