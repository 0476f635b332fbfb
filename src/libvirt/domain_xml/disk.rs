//! A disk of a domain, and whether it can be backed up.

use std::fmt;
use std::path::PathBuf;

use super::super::xml::Element;
use super::bad;
use crate::error::Result;

/// Linux has no longer device names; a file name holds this one several times over.
const MAX_TARGET: usize = 64;

/// A disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name in the guest (`vda`), unique in the domain; letters, digits, `-` and `_` only.
    pub target: String,
    /// What the guest sees.
    pub device: Device,
    /// The bus that it is on (`virtio`).
    pub bus: Option<String>,
    /// Where its content is.
    pub source: Source,
    /// Its image format (`qcow2`); libvirt takes one that is not given for raw.
    pub driver_format: Option<String>,
    /// The file with the content, where the image itself holds only metadata (qcow2 with a data file).
    /// libvirt before 10.10 does not tell: `qemu-img info` does.
    pub data_store: Option<Source>,
    /// Changes are thrown away when the domain stops.
    pub transient: bool,
    /// Several domains may write to it.
    pub shareable: bool,
    /// The guest can't write to it.
    pub readonly: bool,
    /// QEMU decrypts it: what a job exports is not what lies on the disk.
    pub encrypted: bool,
    /// It is an overlay: the XML names an image below it.
    pub has_backing_chain: bool,
    /// libvirt's name of the device.
    pub alias: Option<String>,
}

/// What a disk is for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A disk.
    Disk,
    /// A CD-ROM drive.
    Cdrom,
    /// A floppy drive.
    Floppy,
    /// A SCSI device that the guest talks to itself.
    Lun,
    /// Any other.
    Other(String),
}

/// Where the content of a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// On a block device.
    Block(PathBuf),
    /// In a volume of a storage pool.
    Volume {
        /// The pool's name.
        pool: String,
        /// The volume's name.
        volume: String,
    },
    /// On a server that QEMU itself talks to.
    Network {
        /// `rbd`, `nbd`, `iscsi` and others.
        protocol: String,
        /// The name of the image there.
        name: Option<String>,
    },
    /// Nowhere: an empty drive.
    Empty,
    /// Of another of libvirt's types, named here.
    Other(String),
}

/// Why a disk is left out of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// What stands against it.
    pub reason: String,
    /// What to do about it, in one line.
    pub remedy: String,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.remedy)
    }
}

impl Source {
    /// The source of a disk, a data store, or whatever else has a type and a source.
    pub(super) fn parse(holder: &Element<'_>) -> Option<Self> {
        let source = holder.child("source")?;
        let kind = holder.attribute("type").unwrap_or_else(|| "file".to_owned());
        let path = |key: &str| source.attribute(key).filter(|path| !path.is_empty()).map(PathBuf::from);
        Some(match kind.as_str() {
            "file" => path("file").map_or(Self::Empty, Self::File),
            "block" => path("dev").map_or(Self::Empty, Self::Block),
            "volume" => match (source.attribute("pool"), source.attribute("volume")) {
                (Some(pool), Some(volume)) => Self::Volume { pool, volume },
                _ => Self::Empty,
            },
            "network" => Self::Network {
                protocol: source.attribute("protocol").unwrap_or_default(),
                name: source.attribute("name"),
            },
            other => Self::Other(other.to_owned()),
        })
    }

    /// The path of a file or block device.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::File(path) | Self::Block(path) => Some(path),
            _ => None,
        }
    }

    pub(super) fn into_path(self) -> Option<PathBuf> {
        match self {
            Self::File(path) | Self::Block(path) => Some(path),
            _ => None,
        }
    }
}

impl Device {
    fn parse(name: Option<String>) -> Self {
        match name.as_deref() {
            None | Some("disk") => Self::Disk,
            Some("cdrom") => Self::Cdrom,
            Some("floppy") => Self::Floppy,
            Some("lun") => Self::Lun,
            Some(other) => Self::Other(other.to_owned()),
        }
    }
}

impl Disk {
    /// Reads a `<disk>`.
    pub(super) fn parse(element: &Element<'_>) -> Result<Self> {
        let target = element.child("target");
        let name = target.and_then(|target| target.attribute("dev")).ok_or_else(|| bad("a disk without a target"))?;
        check_target(&name)?;
        let source = element.child("source");
        let data_store = source.and_then(|source| source.child("dataStore"));
        let encryption = source.and_then(|source| source.child("encryption"));
        Ok(Self {
            target: name,
            device: Device::parse(element.attribute("device")),
            bus: target.and_then(|target| target.attribute("bus")),
            source: Source::parse(element).unwrap_or(Source::Empty),
            driver_format: element.child("driver").and_then(|driver| driver.attribute("type")),
            data_store: data_store.map(|store| Source::parse(store).unwrap_or(Source::Empty)),
            transient: element.child("transient").is_some(),
            shareable: element.child("shareable").is_some(),
            readonly: element.child("readonly").is_some(),
            encrypted: encryption.or(element.child("encryption")).is_some(),
            // The end of a chain is an empty <backingStore/>.
            has_backing_chain: element.child("backingStore").is_some_and(|below| below.child("source").is_some()),
            alias: element.child("alias").and_then(|alias| alias.attribute("name")),
        })
    }

    /// Whether its image is raw.
    pub fn is_raw(&self) -> bool {
        matches!(self.driver_format.as_deref(), Some("raw") | None)
    }

    /// Whether libvirt can back it up with checkpoints.
    ///
    /// # Errors
    /// Why not, and what to do about it.
    pub fn eligibility(&self) -> Result<(), Skip> {
        self.exportable()?;
        match self.driver_format.as_deref() {
            Some("qcow2") => Ok(()),
            Some("raw") | None => skip(
                "it is raw: there is no place for dirty bitmaps",
                "full and copy runs take it with -r; for increments convert it (qemu-img convert -O qcow2), or put a \
                 qcow2 with data_file_raw=on over it",
            ),
            Some(format) => {
                skip(&format!("its format {format} has no dirty bitmaps"), "convert it: qemu-img convert -O qcow2")
            }
        }
    }

    /// Whether it is raw and can be copied as it is.
    ///
    /// # Errors
    /// Why not, and what to do about it.
    pub fn raw_eligibility(&self) -> Result<(), Skip> {
        self.exportable()?;
        if !self.is_raw() {
            return self.eligibility();
        }
        if self.shareable {
            return skip(
                "it is raw and shared: what other domains write while the backup runs would get into it",
                "back it up on the storage, or remove <shareable/> where no other domain uses it",
            );
        }
        if self.encrypted {
            return skip(
                "it is raw and encrypted, and its content would lie in the set in the clear",
                "back up the encrypted image itself while the domain is off, or in the guest",
            );
        }
        Ok(())
    }

    /// Whether a job can export it.
    fn exportable(&self) -> Result<(), Skip> {
        match &self.device {
            Device::Disk => {}
            Device::Cdrom => {
                return skip("it is a CD-ROM drive", "--include-cdrom saves a small medium as it is");
            }
            Device::Floppy => {
                return skip("it is a floppy drive", "--include-cdrom saves its medium as it is");
            }
            Device::Lun => {
                return skip(
                    "it is a SCSI LUN that the guest talks to past QEMU",
                    "attach it with device='disk' as a qcow2 image, or back it up on the storage or in the guest",
                );
            }
            Device::Other(kind) => {
                return skip(&format!("it is a device of type {kind}"), "back it up in the guest");
            }
        }
        // libvirt refuses a whole job for one of these two in it.
        if self.readonly {
            return skip("it is read-only for the guest, and libvirt refuses to back it up", "copy its image once");
        }
        if self.transient {
            return skip(
                "it is transient: what the guest writes is thrown away when it stops",
                "copy its image once, or remove <transient/>",
            );
        }
        match &self.source {
            Source::File(_) | Source::Block(_) | Source::Volume { .. } => Ok(()),
            Source::Network { protocol, .. } => skip(
                &format!("it is a network disk ({protocol}), for which libvirt makes no checkpoints"),
                "back it up on the storage or in the guest",
            ),
            Source::Empty => skip("it has no medium", "nothing to do"),
            Source::Other(kind) => skip(
                &format!("its storage is of type {kind}, for which libvirt makes no checkpoints"),
                "back it up on the storage or in the guest",
            ),
        }
    }
}

fn skip(reason: &str, remedy: &str) -> Result<(), Skip> {
    Err(Skip { reason: reason.to_owned(), remedy: remedy.to_owned() })
}

/// Targets become parts of file names, export names and bitmap names.
fn check_target(name: &str) -> Result<()> {
    let fits = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
    if name.is_empty() || name.len() > MAX_TARGET || !name.chars().all(fits) {
        let shown: String = name.chars().take(MAX_TARGET).collect();
        return Err(bad(format!("{shown:?} is no fit name for a disk's target")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::DomainConfig;
    use super::super::tests::fixture;
    use super::*;

    #[test]
    fn each_disk_that_is_left_out_says_why() {
        let config = DomainConfig::parse(&fixture("sources.xml")).unwrap();
        for (target, reason) in [
            ("sda", "CD-ROM"),
            ("fda", "floppy"),
            ("sdb", "LUN"),
            ("vdd", "network disk (rbd)"),
            ("vde", "raw"),
            ("vdf", "raw"),
            ("vdg", "nvme"),
            ("vdh", "vmdk"),
            ("vdi", "no medium"),
            ("vdj", "read-only"),
            ("vdk", "transient"),
        ] {
            let skip = config.disk(target).unwrap().eligibility().unwrap_err();
            assert!(skip.reason.contains(reason), "{target}: {skip}");
            assert!(!skip.remedy.is_empty() && !skip.remedy.contains('\n'), "{target}: {skip}");
        }
        for target in ["vda", "vdb", "vdc"] {
            assert_eq!(config.disk(target).unwrap().eligibility(), Ok(()), "{target}");
        }
        assert_eq!(config.disks.len(), 14);
    }

    #[test]
    fn raw_disks_are_copied_where_that_is_right() {
        let config = DomainConfig::parse(&fixture("sources.xml")).unwrap();
        let disk = config.disk("vde").unwrap();
        assert!(disk.is_raw());
        assert_eq!(disk.raw_eligibility(), Ok(()));
        assert_eq!(config.disk("vda").unwrap().raw_eligibility(), Ok(()));
        for (other, reason) in [
            (Disk { shareable: true, ..disk.clone() }, "shared"),
            (Disk { encrypted: true, ..disk.clone() }, "encrypted"),
            (Disk { readonly: true, ..disk.clone() }, "read-only"),
            (Disk { transient: true, ..disk.clone() }, "transient"),
            (Disk { device: Device::Lun, ..disk.clone() }, "LUN"),
            (Disk { source: Source::Network { protocol: "rbd".into(), name: None }, ..disk.clone() }, "network"),
            (Disk { driver_format: Some("vmdk".into()), ..disk.clone() }, "vmdk"),
        ] {
            let skip = other.raw_eligibility().unwrap_err();
            assert!(skip.reason.contains(reason), "{skip}");
        }
    }

    #[test]
    fn encryption_is_seen_at_both_places() {
        for xml in [
            "<disk type='file'><source file='/a'><encryption format='luks'/></source><target dev='vda'/></disk>",
            "<disk type='file'><source file='/a'/><encryption format='luks'/><target dev='vda'/></disk>",
        ] {
            let domain = format!("<domain><name>d</name><devices>{xml}</devices></domain>");
            assert!(DomainConfig::parse(&domain).unwrap().disk("vda").unwrap().encrypted, "{xml}");
        }
    }

    #[test]
    fn sources_are_told_apart() {
        let config = DomainConfig::parse(&fixture("sources.xml")).unwrap();
        let source = |target: &str| config.disk(target).unwrap().source.clone();
        assert_eq!(source("vda"), Source::File("/srv/vm/a.qcow2".into()));
        assert_eq!(source("vdb"), Source::Block("/dev/vg0/b".into()));
        assert_eq!(source("vdc"), Source::Volume { pool: "default".into(), volume: "c & d.qcow2".into() });
        assert_eq!(source("vdd"), Source::Network { protocol: "rbd".into(), name: Some("pool/image".into()) });
        assert_eq!(source("vdg"), Source::Other("nvme".into()));
        assert_eq!(source("vdi"), Source::Empty);
        let flags = |target: &str| {
            let disk = config.disk(target).unwrap();
            (disk.readonly, disk.shareable, disk.transient)
        };
        assert_eq!((flags("vdj"), flags("vdk")), ((true, true, false), (false, false, true)));
        assert_eq!(config.disk("vdb").unwrap().bus.as_deref(), Some("virtio"));
    }

    #[test]
    fn a_data_store_makes_a_raw_disk_fit() {
        let config = DomainConfig::parse(&fixture("data-store.xml")).unwrap();
        let disk = config.disk("vda").unwrap();
        assert_eq!(disk.data_store, Some(Source::Block("/dev/vg0/data".into())));
        assert_eq!(disk.eligibility(), Ok(()));
    }
}
