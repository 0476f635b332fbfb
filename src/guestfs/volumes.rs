//! What is on the disks: file systems with the names that people give them, and operating systems.
//!
//! | libguestfs | here |
//! |---|---|
//! | `/dev/sda` | the disk's target: `vda` |
//! | `/dev/sda2` | `vda2` |
//! | `/dev/vg0/home` | `vg0/home` |
//! | `/dev/md127` | `md127` |
//! | `btrfsvol:/dev/sda2/@home` | `vda2/@home` |
//! | `/dev/mapper/…`, opened by us | the name of the encrypted volume below |

use std::collections::{BTreeMap, BTreeSet};

use super::shell::Shell;
use crate::error::{Error, Kind, Result};

/// A partition, logical volume, disk or subvolume with something on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// As people call it.
    pub name: String,
    /// As libguestfs calls it.
    pub device: String,
    /// What is on it: `ext4`, `swap`, `crypto_LUKS`.
    pub content: String,
    /// The label of the file system, where it has one.
    pub label: Option<String>,
    /// Bytes; not known of subvolumes.
    pub size: Option<u64>,
    /// Targets of the disks that it lies on; all of them where that can't be told.
    pub disks: BTreeSet<String>,
}

impl Volume {
    /// Whether it needs a key to be looked into.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.content.as_str(), "crypto_LUKS" | "BitLocker")
    }

    /// Whether there are files on it.
    pub fn has_files(&self) -> bool {
        !self.is_encrypted()
            && !matches!(self.content.as_str(), "swap" | "unknown" | "LVM2_member" | "linux_raid_member")
    }
}

/// An operating system on the disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// The device of its root file system.
    pub root: String,
    /// What it calls itself.
    pub name: String,
    /// Where it mounts what, shortest path first; devices are libguestfs's.
    pub mounts: Vec<(String, String)>,
}

/// Keys for encrypted volumes, by name.
pub type Keys = BTreeMap<String, Vec<u8>>;

/// The volumes on disks of these `targets`, which were attached in this order. Encrypted ones with a key are opened.
///
/// # Errors
/// [`Kind::NotFound`] for a key of a volume that is not there; where a key does not fit.
pub fn find(shell: &mut Shell, targets: &[String], keys: &Keys) -> Result<Vec<Volume>> {
    let mut naming = Naming { targets: targets.to_vec(), opened: BTreeMap::new(), groups: BTreeMap::new() };
    naming.find_groups(shell)?;
    let volumes = list(shell, &naming)?;
    for (name, key) in keys {
        let Some(volume) = volumes.iter().find(|volume| volume.name == *name && volume.is_encrypted()) else {
            let known: Vec<&str> =
                volumes.iter().filter(|volume| volume.is_encrypted()).map(|volume| volume.name.as_str()).collect();
            let hint = match known[..] {
                [] => "none on these disks is encrypted".to_owned(),
                _ => format!("encrypted are {}", known.join(", ")),
            };
            return Err(Error::new(Kind::NotFound, format!("--key: there is no encrypted volume {name:?}")).hint(hint));
        };
        let mapped = format!("opened{}", naming.opened.len());
        shell.open_encrypted(&volume.device, &mapped, key).map_err(|error| {
            Error::new(error.kind(), format!("{name}: it can't be opened with this key"))
                .caused_by(error)
                .hint("the first line of the key's file is the passphrase, or BitLocker's recovery key")
        })?;
        naming.opened.insert(format!("/dev/mapper/{mapped}"), volume.device.clone());
    }
    if keys.is_empty() {
        return Ok(volumes);
    }
    // There may be physical volumes in what was opened.
    shell.call("lvm-scan", &[b"true"])?;
    naming.find_groups(shell)?;
    list(shell, &naming)
}

fn list(shell: &mut Shell, naming: &Naming) -> Result<Vec<Volume>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in shell.text("list-filesystems", &[])?.lines() {
        // A subvolume may be called anything.
        if let Some((device, content)) = line.rsplit_once(": ") {
            found.push((device.to_owned(), content.to_owned()));
        }
    }
    // What is no file system for libguestfs: encrypted, or part of something larger.
    for command in ["list-partitions", "list-devices", "lvs", "list-md-devices"] {
        for device in shell.text(command, &[])?.lines() {
            let is_known = |(known, _): &(String, String)| known == device;
            let has_parts = |(known, _): &(String, String)| {
                known.strip_prefix(device).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            };
            if found.iter().any(is_known) || command == "list-devices" && found.iter().any(has_parts) {
                continue;
            }
            // It fails where there is nothing that is known.
            let content = shell.text("vfs-type", &[device.as_bytes()]).unwrap_or_default();
            if !content.is_empty() {
                found.push((device.to_owned(), content));
            }
        }
    }
    let mut volumes = Vec::new();
    for (device, content) in found {
        let Some(name) = naming.name(&device) else {
            tracing::debug!("{device:?}: left out, it is no name of a device");
            continue;
        };
        if naming.opened.values().any(|opened| *opened == device) {
            continue;
        }
        let is_subvolume = device.starts_with(SUBVOLUME);
        let mut ask = |command: &str| match is_subvolume {
            true => None,
            false => shell.text(command, &[device.as_bytes()]).ok().filter(|text| !text.is_empty()),
        };
        let label = ask("vfs-label");
        let size = ask("blockdev-getsize64").and_then(|text| text.parse().ok());
        volumes.push(Volume { name, disks: naming.disks(&device), device, content, label, size });
    }
    volumes.sort_by(|left, right| left.name.cmp(&right.name));
    volumes.dedup_by(|next, first| next.name == first.name);
    Ok(volumes)
}

/// The operating systems. They are looked for by mounting what is there: it takes seconds.
///
/// # Errors
/// Of guestfish's.
pub fn inspect(shell: &mut Shell) -> Result<Vec<System>> {
    let mut systems = Vec::new();
    for root in shell.text("inspect-os", &[])?.lines() {
        let mut mounts: Vec<(String, String)> = Vec::new();
        for line in shell.text("inspect-get-mountpoints", &[root.as_bytes()])?.lines() {
            match line.split_once(": ") {
                Some((place, device)) if place.starts_with('/') => mounts.push((place.to_owned(), device.to_owned())),
                _ => tracing::debug!("{line:?}: no mount point"),
            }
        }
        mounts.sort_by_key(|(place, _)| place.len());
        let name = shell.text("inspect-get-product-name", &[root.as_bytes()]).unwrap_or_default();
        let kind = shell.text("inspect-get-type", &[root.as_bytes()]).unwrap_or_default();
        let distro = shell.text("inspect-get-distro", &[root.as_bytes()]).unwrap_or_default();
        let name = match (name.as_str(), distro.as_str()) {
            ("" | "unknown", _) => kind,
            // Debian's product name is its version alone.
            (name, distro) if name.starts_with(|c: char| c.is_ascii_digit()) => format!("{distro} {name}"),
            _ => name,
        };
        systems.push(System { root: root.to_owned(), name, mounts });
    }
    Ok(systems)
}

const SUBVOLUME: &str = "btrfsvol:";

/// What devices are called.
struct Naming {
    targets: Vec<String>,
    /// Opened by us: the device, and the encrypted one below.
    opened: BTreeMap<String, String>,
    /// Volume groups and the devices that they lie on.
    groups: BTreeMap<String, Vec<String>>,
}

impl Naming {
    fn find_groups(&mut self, shell: &mut Shell) -> Result<()> {
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        for device in shell.text("pvs", &[])?.lines() {
            if let Ok(id) = shell.text("pvuuid", &[device.as_bytes()]) {
                owners.insert(id, device.to_owned());
            }
        }
        self.groups.clear();
        for group in shell.text("vgs", &[])?.lines() {
            let ids = shell.text("vgpvuuids", &[group.as_bytes()])?;
            let devices = ids.lines().filter_map(|id| owners.get(id).cloned()).collect();
            self.groups.insert(group.to_owned(), devices);
        }
        Ok(())
    }

    /// None for what looks like no device.
    fn name(&self, device: &str) -> Option<String> {
        if let Some(path) = device.strip_prefix(SUBVOLUME) {
            // The device is the longest begin that names one: /dev/sda2/@home, /dev/vg0/home/@.
            let (below, subvolume) = self.split_subvolume(path)?;
            return Some(format!("{}/{subvolume}", self.name(below)?));
        }
        if let Some(below) = self.opened.get(device) {
            return self.name(below);
        }
        let rest = device.strip_prefix("/dev/")?;
        if let Some((index, part)) = disk_of(rest) {
            return Some(format!("{}{part}", self.targets.get(index)?));
        }
        Some(rest.to_owned())
    }

    fn split_subvolume<'p>(&self, path: &'p str) -> Option<(&'p str, &'p str)> {
        let rest = path.strip_prefix("/dev/")?;
        let (first, behind) = rest.split_once('/')?;
        let is_pair = self.groups.contains_key(first) || first == "mapper";
        let tail = if is_pair { behind.split_once('/')?.1 } else { behind };
        path.split_at_checked(path.len() - tail.len()).map(|(device, _)| (device.trim_end_matches('/'), tail))
    }

    fn disks(&self, device: &str) -> BTreeSet<String> {
        let all = || self.targets.iter().cloned().collect();
        if let Some(path) = device.strip_prefix(SUBVOLUME) {
            return self.split_subvolume(path).map_or_else(all, |(below, _)| self.disks(below));
        }
        if let Some(below) = self.opened.get(device) {
            return self.disks(below);
        }
        let Some(rest) = device.strip_prefix("/dev/") else { return all() };
        if let Some((index, _)) = disk_of(rest) {
            return self.targets.get(index).cloned().into_iter().collect();
        }
        match rest.split_once('/').and_then(|(group, _)| self.groups.get(group)) {
            Some(devices) if !devices.is_empty() => devices.iter().flat_map(|device| self.disks(device)).collect(),
            _ => all(),
        }
    }
}

/// `sda2`: the first disk, `2`.
fn disk_of(name: &str) -> Option<(usize, &str)> {
    let rest = name.strip_prefix("sd")?;
    let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
    let (letters, part) = rest.split_at(letters);
    if letters.is_empty() || letters.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = letters.bytes().fold(0, |number, byte| number * 26 + usize::from(byte - b'a') + 1);
    Some((number - 1, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming() -> Naming {
        Naming {
            targets: vec!["vda".into(), "vdb".into()],
            opened: BTreeMap::from([("/dev/mapper/opened0".into(), "/dev/sdb3".into())]),
            groups: BTreeMap::from([
                ("vg0".into(), vec!["/dev/sda3".into(), "/dev/sdb1".into()]),
                ("secret".into(), vec!["/dev/mapper/opened0".into()]),
            ]),
        }
    }

    #[test]
    fn devices_have_the_names_that_people_give_them() {
        for (device, name, disks) in [
            ("/dev/sda", "vda", &["vda"][..]),
            ("/dev/sda12", "vda12", &["vda"]),
            ("/dev/sdb1", "vdb1", &["vdb"]),
            ("/dev/vg0/home", "vg0/home", &["vda", "vdb"]),
            ("/dev/secret/x", "secret/x", &["vdb"]),
            ("/dev/mapper/opened0", "vdb3", &["vdb"]),
            ("btrfsvol:/dev/sdb2/@home/x", "vdb2/@home/x", &["vdb"]),
            ("btrfsvol:/dev/vg0/data/sub", "vg0/data/sub", &["vda", "vdb"]),
            ("btrfsvol:/dev/mapper/opened0/@", "vdb3/@", &["vdb"]),
            ("/dev/md127", "md127", &["vda", "vdb"]),
        ] {
            assert_eq!(naming().name(device).as_deref(), Some(name), "{device}");
            assert_eq!(naming().disks(device), disks.iter().map(|&disk| disk.to_owned()).collect(), "{device}");
        }
        for device in ["sda", "/dev/sdc1", "", "btrfsvol:/dev/sda1", "btrfsvol:x"] {
            assert_eq!(naming().name(device), None, "{device}");
        }
    }

    #[test]
    fn disks_are_counted_in_letters() {
        assert_eq!(disk_of("sda"), Some((0, "")));
        assert_eq!(disk_of("sdz9"), Some((25, "9")));
        assert_eq!(disk_of("sdaa1"), Some((26, "1")));
        assert_eq!(disk_of("sd1"), None);
        assert_eq!(disk_of("sdab/home"), None);
    }
}
