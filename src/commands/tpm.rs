//! Where libvirt keeps the state of a domain's emulated TPM, and that state as one file.
//!
//! libvirt gives swtpm the directory `swtpm/UUID/tpm2` or `tpm1.2` below its own
//! (`src/qemu/qemu_tpm.c`); swtpm replaces the one file in it that lasts, `tpm2-00.permall`, by renaming.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::set::config::MAX_SIZE;

/// The files of the state, by their paths below the domain's directory.
pub const FILES: [&str; 2] = ["tpm2/tpm2-00.permall", "tpm1.2/tpm-00.permall"];

/// The system daemon's.
const SYSTEM: &str = "/var/lib/libvirt/swtpm";

/// The directory of the domain `uuid` of the daemon at `uri`; none where that can't be known: of a session
/// daemon of another user or on another machine.
pub fn directory(uri: &str, uuid: &str) -> Option<PathBuf> {
    // It becomes part of a path.
    let uuid = uuid::Uuid::parse_str(uuid).ok()?;
    let (_, place) = uri.split_once("://")?;
    let (host, path) = place.split_once('/')?;
    let base = match path.split('?').next()? {
        "system" => PathBuf::from(SYSTEM),
        "session" if host.is_empty() => {
            let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
            let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
            config.join("libvirt/qemu/swtpm")
        }
        _ => return None,
    };
    Some(base.join(uuid.to_string()))
}

/// Whether `directory` is on this machine, for a daemon at `uri`.
pub fn is_local(uri: &str) -> bool {
    uri.split_once("://").is_some_and(|(_, place)| place.starts_with('/'))
}

/// The files in a tar.
///
/// # Errors
/// None that is known: it is made in memory.
pub fn pack(files: &[(&str, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        archive
            .append_data(&mut header, name, content.as_slice())
            .map_err(|error| Error::io("make a tar", error).path(name))?;
    }
    archive.into_inner().map_err(|error| Error::io("make a tar", error))
}

/// The files in a tar of [`pack`]'s: these names alone, and plain files.
///
/// # Errors
/// [`Kind::Corrupt`](crate::error::Kind::Corrupt) for any other tar.
pub fn unpack(content: &[u8]) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let bad = |error| Error::corrupt("no tar of a TPM's state").caused_by(error);
    let mut files = Vec::new();
    for entry in tar::Archive::new(content).entries().map_err(bad)? {
        let entry = entry.map_err(bad)?;
        let path = entry.path().map_err(bad)?;
        let name = FILES.into_iter().find(|name| Path::new(name) == path);
        let Some(name) = name.filter(|_| entry.header().entry_type().is_file()) else {
            return Err(Error::corrupt(format!("{:?} is no file of a TPM's state", path.display().to_string())));
        };
        let mut content = Vec::new();
        entry.take(MAX_SIZE).read_to_end(&mut content).map_err(bad)?;
        files.push((name, content));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    const UUID: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

    #[test]
    fn places_are_known_by_the_daemon() {
        let system = Some(Path::new(SYSTEM).join(UUID));
        for uri in ["qemu:///system", "qemu+ssh://root@host/system", "qemu:///system?socket=/x/y"] {
            assert_eq!(directory(uri, UUID), system, "{uri}");
        }
        for uri in ["qemu+ssh://host/session", "test:///default", "qemu", ""] {
            assert_eq!(directory(uri, UUID), None, "{uri}");
        }
        assert_eq!(directory("qemu:///system", "../../x"), None);
        assert!(is_local("qemu+unix:///system") && !is_local("qemu+ssh://host/system"));
    }

    #[test]
    fn only_files_of_a_tpm_are_unpacked() {
        let files = [(FILES[0], vec![7; 5000]), (FILES[1], Vec::new())];
        let packed = pack(&files).unwrap();
        assert_eq!(unpack(&packed).unwrap(), files);
        for name in ["tpm2/other", "etc/passwd"] {
            assert_eq!(unpack(&pack(&[(name, vec![1])]).unwrap()).unwrap_err().kind(), Kind::Corrupt, "{name}");
        }
        assert_eq!(unpack(&packed[..700]).unwrap_err().kind(), Kind::Corrupt);
        let mut link = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        link.append_link(&mut header, FILES[0], "/etc/passwd").unwrap();
        assert_eq!(unpack(&link.into_inner().unwrap()).unwrap_err().kind(), Kind::Corrupt);
    }
}
