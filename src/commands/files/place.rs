//! `vda:/etc/fstab`: which file system is meant, and the path in it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::guest::Guest;
use super::text::shown;
use crate::error::{Error, Kind, Result};
use crate::guestfs::volumes::{System, Volume};

/// A path in a restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Disk, partition, logical volume; none for the only operating system.
    pub name: Option<String>,
    /// The path, absolute; no slash at its end but of the root.
    pub path: Vec<u8>,
    /// A slash stood at its end: a link is followed.
    pub is_directory: bool,
}

impl Place {
    /// Takes what was typed apart.
    ///
    /// # Errors
    /// [`Kind::Usage`].
    pub fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let (name, path) = match bytes.iter().position(|&byte| byte == b':') {
            _ if bytes.first() == Some(&b'/') => (None, bytes),
            Some(colon) if colon > 0 => (Some(&bytes[..colon]), &bytes[colon + 1..]),
            _ => {
                return Err(Error::usage(format!("{text:?} is no place in a restore point"))
                    .hint("it is NAME:PATH, such as vda:/etc/fstab; `virtkeep ls` without a path lists the names"));
            }
        };
        let name = match name.map(std::str::from_utf8).transpose() {
            Ok(name) => name.map(str::to_owned),
            Err(_) => return Err(Error::usage(format!("{text:?}: the name before the colon is no text"))),
        };
        let is_directory = path.last().is_none_or(|&byte| byte == b'/');
        let mut whole = Vec::new();
        for part in path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
            whole.push(b'/');
            whole.extend(part);
        }
        if whole.is_empty() {
            whole.push(b'/');
        }
        Ok(Self { name, path: whole, is_directory })
    }

    /// What a copy of it is called: the last part of the path, or of the name.
    ///
    /// # Errors
    /// [`Kind::Usage`] where that is no name.
    pub fn file_name(&self) -> Result<&[u8]> {
        let last = self.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let last = match (last, &self.name) {
            (b"", Some(name)) => name.rsplit('/').next().unwrap_or_default().as_bytes(),
            (b"", None) => b"",
            (last, _) => last,
        };
        match last {
            b"" | b"." | b".." => Err(Error::usage(format!("{}: a copy of it has no name", self.shown()))
                .hint("give the copy a new name, or the path without ..")),
            last => Ok(last),
        }
    }

    /// Fails where the name can only be that of a disk, or of a partition of one, that is not among `targets`.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn refuse_unknown_disk(&self, targets: &[String]) -> Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        let disk = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let letters = ["vd", "sd", "hd", "xvd", "fd"].iter().find_map(|bus| disk.strip_prefix(bus));
        let is_disk =
            letters.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase()));
        if !is_disk || targets.iter().any(|target| target == disk || target == name) {
            return Ok(());
        }
        let message = format!("{name:?} is no disk and no file system of the restore point");
        Err(Error::new(Kind::NotFound, message).hint(format!("the point has the disks {}", targets.join(", "))))
    }

    /// For messages.
    pub fn shown(&self) -> String {
        let name = self.name.as_ref().map(|name| format!("{name}:")).unwrap_or_default();
        format!("{}{}", shown(name.as_bytes()), shown(&self.path))
    }
}

/// What is to be mounted, and where, for a place: the root first.
///
/// # Errors
/// As for [`Guest::enter`].
pub fn mounts(guest: &mut Guest, place: &Place) -> Result<Vec<(String, String)>> {
    let root = |volume: &Volume| vec![("/".to_owned(), volume.device.clone())];
    if let Some(name) = &place.name {
        if let Some(volume) = guest.volumes.iter().find(|volume| volume.name == *name) {
            return usable(volume).map(|()| root(volume));
        }
        if !guest.targets.contains(name) {
            return Err(Error::new(
                Kind::NotFound,
                format!("{name:?} is no disk and no file system of the restore point"),
            )
            .hint(choices(&guest.volumes)));
        }
    }
    let on_disk =
        |disks: &std::collections::BTreeSet<String>| place.name.as_ref().is_none_or(|name| disks.contains(name));
    let here: Vec<Volume> = guest.volumes.iter().filter(|volume| on_disk(&volume.disks)).cloned().collect();
    let with_files: Vec<&Volume> = here.iter().filter(|volume| volume.has_files()).collect();
    // The only file system is meant whether it is of an operating system or not.
    if let ([volume], true) = (&with_files[..], guest.volumes.iter().filter(|volume| volume.has_files()).count() == 1) {
        return Ok(root(volume));
    }
    let volumes = guest.volumes.clone();
    let of_root = |system: &System| volumes.iter().find(|volume| volume.device == system.root);
    let is_here = |system: &&System| of_root(system).is_some_and(|volume| on_disk(&volume.disks));
    let systems: Vec<System> = guest.systems()?.iter().filter(is_here).cloned().collect();
    let what = place.name.as_ref().map_or("the restore point".to_owned(), |name| format!("disk {name}"));
    match (&systems[..], &with_files[..]) {
        ([system], _) => Ok(of_system(system, &volumes)),
        ([], [volume]) => Ok(root(volume)),
        ([], []) => {
            let encrypted: Vec<&str> =
                here.iter().filter(|volume| volume.is_encrypted()).map(|volume| volume.name.as_str()).collect();
            let error = Error::new(Kind::NotFound, format!("{what} has no file system that can be looked into"));
            Err(match encrypted.first() {
                Some(name) => error.hint(format!("{} is encrypted: --key {name}=FILE opens it", encrypted.join(", "))),
                None => error.hint("`virtkeep ls` without a path shows what is on the disks"),
            })
        }
        ([], _) => Err(Error::usage(format!("{what} has several file systems and no operating system that is known"))
            .hint(choices(&here))),
        _ => {
            let roots: Vec<String> = systems.iter().map(|system| guest.name_of(&system.root)).collect();
            Err(Error::usage(format!("{what} has several operating systems")).hint(format!(
                "name the file system: {}:{}",
                roots.join(":/…, "),
                shown(&place.path)
            )))
        }
    }
}

/// What a system mounts, of what is there. Its fstab may name anything.
fn of_system(system: &System, volumes: &[Volume]) -> Vec<(String, String)> {
    let mut mounts = vec![("/".to_owned(), system.root.clone())];
    for (place, device) in system.mounts.iter().filter(|(place, _)| place != "/") {
        match volumes.iter().find(|volume| volume.device == *device) {
            Some(volume) if volume.has_files() => mounts.push((place.clone(), device.clone())),
            _ => tracing::warn!("{}: what the guest mounts there is not on these disks", shown(place.as_bytes())),
        }
    }
    mounts
}

fn usable(volume: &Volume) -> Result<()> {
    let name = &volume.name;
    if volume.is_encrypted() {
        return Err(Error::unsupported(format!("{name} is encrypted ({})", volume.content))
            .hint(format!("--key {name}=FILE opens it, with the passphrase in FILE")));
    }
    if !volume.has_files() {
        return Err(Error::unsupported(format!("{name} holds no files: it is {}", volume.content))
            .hint("`virtkeep ls` without a path shows what is on the disks"));
    }
    Ok(())
}

fn choices(volumes: &[Volume]) -> String {
    let names: Vec<&str> =
        volumes.iter().filter(|volume| volume.has_files()).map(|volume| volume.name.as_str()).collect();
    match names[..] {
        [] => "no file system was found: `virtkeep ls` without a path shows what is on the disks".to_owned(),
        _ => format!("file systems are {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        Place::parse(OsStr::new(text)).unwrap()
    }

    #[test]
    fn disks_that_there_are_not_are_refused_before_the_appliance_starts() {
        let targets = ["vda".to_owned(), "sdb".to_owned()];
        for known in ["vda:/", "vda2:/", "sdb12:/", "/etc", "vg0/home:/", "md0:/", "vdata:/x/y"] {
            let refused = place(known).refuse_unknown_disk(&targets).is_err();
            assert_eq!(refused, known == "vdata:/x/y", "{known}");
        }
        for unknown in ["vdz:/", "vdb1:/etc", "sda:"] {
            assert_eq!(place(unknown).refuse_unknown_disk(&targets).unwrap_err().kind(), Kind::NotFound, "{unknown}");
        }
    }

    #[test]
    fn places_are_taken_apart() {
        for (text, name, path) in [
            ("vda:/etc/fstab", Some("vda"), "/etc/fstab"),
            ("vda2:etc//./fstab/", Some("vda2"), "/etc/fstab"),
            ("vg0/home:/anna", Some("vg0/home"), "/anna"),
            ("/a:b", None, "/a:b"),
            ("vda:", Some("vda"), "/"),
            ("vda:/a:b", Some("vda"), "/a:b"),
        ] {
            let place = place(text);
            assert_eq!((place.name.as_deref(), place.path.as_slice()), (name, path.as_bytes()), "{text}");
        }
        for text in ["", "vda", "etc/fstab", ":/etc"] {
            assert_eq!(Place::parse(OsStr::new(text)).unwrap_err().kind(), Kind::Usage, "{text:?}");
        }
        assert!(place("vda:/bin/").is_directory && place("vda:").is_directory && !place("vda:/bin").is_directory);
    }

    #[test]
    fn copies_have_names() {
        for (text, name) in [("vda:/etc/fstab", "fstab"), ("vg0/home:/", "home"), ("vda:", "vda"), ("/x/", "x")] {
            assert_eq!(place(text).file_name().unwrap(), name.as_bytes(), "{text}");
        }
        for text in ["/", "vda:/..", "vda:/a/..", "..:/"] {
            assert!(place(text).file_name().is_err(), "{text}");
        }
    }
}
