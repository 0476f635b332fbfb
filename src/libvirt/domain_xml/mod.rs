//! Domain XML: what a backup needs to know of it, and the changes that a restore makes to it.
//!
//! It comes from a daemon or from a backup set and is not trusted: target names become parts of file
//! names, so they are checked here, once, for everybody.

mod adjust;
mod boot;
mod boot_devices;
mod disk;
mod moved;

use std::path::PathBuf;

pub use adjust::{Adjusted, Adjustment, NewSource, adjust};
pub use boot::{Boot, Connect, NbdServer, boot, plainer};
pub use disk::{Device, Disk, Skip, Source};
pub use moved::moved;

use super::xml::{self, Element};
use crate::error::{Error, Kind, Result};

/// A domain as its XML describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainConfig {
    /// Its name.
    pub name: String,
    /// Its UUID; XML that was never defined may lack it.
    pub uuid: Option<String>,
    /// Its disks, in the order of the XML; targets are unique and safe as a part of a file name.
    pub disks: Vec<Disk>,
    /// The firmware image.
    pub loader: Option<PathBuf>,
    /// The firmware's variables.
    pub nvram: Option<Nvram>,
    /// The kernel of a direct boot.
    pub kernel: Option<PathBuf>,
    /// The initial ramdisk of a direct boot.
    pub initrd: Option<PathBuf>,
    /// The variables of firmware that keeps them through QEMU (`uefi-vars`).
    pub varstore: Option<PathBuf>,
    /// The TPM that a program on the host emulates, where there is one.
    pub tpm: Option<Tpm>,
}

/// A TPM that swtpm emulates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tpm {
    /// Its state is where libvirt keeps it.
    Usual,
    /// Its state is in a place of the user's choice.
    At(PathBuf),
}

/// Where UEFI firmware keeps its variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nvram {
    /// The file or device; libvirt makes up a path at the first start if there is none.
    pub path: Option<PathBuf>,
    /// What a new one is made from.
    pub template: Option<PathBuf>,
}

impl DomainConfig {
    /// Reads a domain's XML.
    ///
    /// # Errors
    /// [`Kind::Protocol`] if it isn't one, or a disk's target is missing, there twice, or no fit name.
    pub fn parse(text: &str) -> Result<Self> {
        let document = xml::parse(text, "domain")?;
        let root = &document.root;
        let name = root.child_text("name").filter(|name| !name.is_empty());
        let mut disks: Vec<Disk> = Vec::new();
        for element in disk_elements(root) {
            let disk = Disk::parse(element)?;
            if disks.iter().any(|other| other.target == disk.target) {
                return Err(bad(format!("two disks have the target {}", disk.target)));
            }
            disks.push(disk);
        }
        let os = root.child("os");
        let path = |name: &str| os.and_then(|os| os.child(name)).and_then(text_path);
        Ok(Self {
            name: name.ok_or_else(|| bad("no name"))?,
            uuid: root.child_text("uuid").map(|uuid| uuid.trim().to_owned()),
            disks,
            loader: path("loader"),
            nvram: os.and_then(|os| os.child("nvram")).map(|nvram| Nvram {
                path: text_path(nvram).or_else(|| Source::parse(nvram).and_then(Source::into_path)),
                template: nvram.attribute("template").map(PathBuf::from),
            }),
            kernel: path("kernel"),
            initrd: path("initrd"),
            varstore: os.and_then(|os| os.child("varstore")?.attribute("path")).map(PathBuf::from),
            tpm: root.child("devices").and_then(tpm),
        })
    }

    /// The disk with that target.
    pub fn disk(&self, target: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.target == target)
    }
}

fn disk_elements<'x, 'a>(root: &'x Element<'a>) -> impl Iterator<Item = &'x Element<'a>> {
    root.child("devices").into_iter().flat_map(Element::children).filter(|child| child.name() == "disk")
}

fn tpm(devices: &Element<'_>) -> Option<Tpm> {
    let mut backends = devices.children().filter(|child| child.name() == "tpm").filter_map(|tpm| tpm.child("backend"));
    let backend = backends.find(|backend| backend.attribute("type").as_deref() == Some("emulator"))?;
    // libvirt 10.10 and later.
    let place = backend.child("source").and_then(|source| source.attribute("path"));
    Some(place.map_or(Tpm::Usual, |path| Tpm::At(path.into())))
}

/// The text of an element as a path; white space alone, as around children, is none.
fn text_path(element: &Element<'_>) -> Option<PathBuf> {
    let text = element.text();
    (!text.trim().is_empty()).then(|| PathBuf::from(text))
}

fn bad(message: impl std::fmt::Display) -> Error {
    Error::new(Kind::Protocol, format!("domain XML: {message}"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// A file of `tests/fixtures/domain-xml`.
    pub fn fixture(name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/domain-xml").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    }

    #[test]
    fn bad_domains_are_refused() {
        let disk = |inside: &str| format!("<domain><name>a</name><devices>{inside}</devices></domain>");
        let disk_with_target = |target: &str| disk(&format!("<disk type='file'><target dev='{target}'/></disk>"));
        for text in [
            "<domain/>".to_owned(),
            "<domain><name/></domain>".to_owned(),
            "<network><name>a</name></network>".to_owned(),
            disk("<disk/>"),
            disk("<disk type='file'><target/></disk>"),
            disk_with_target(""),
            disk_with_target("../vda"),
            disk_with_target("."),
            disk_with_target("vd a"),
            disk_with_target("vda&#10;"),
            disk_with_target(&"v".repeat(65)),
            disk("<disk><target dev='vda'/></disk><disk><target dev='vda'/></disk>"),
        ] {
            assert_eq!(DomainConfig::parse(&text).unwrap_err().kind(), Kind::Protocol, "{text}");
        }
    }

    #[test]
    fn uefi_domain_is_read() {
        let config = DomainConfig::parse(&fixture("q35-uefi.xml")).unwrap();
        assert_eq!(config.name, "web1");
        assert_eq!(config.uuid.as_deref(), Some("4dea22b3-1d52-d8f3-2516-782e98ab3fa0"));
        assert_eq!(config.loader.as_deref(), Some(Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd")));
        let nvram = config.nvram.unwrap();
        assert_eq!(nvram.path.as_deref(), Some(Path::new("/var/lib/libvirt/qemu/nvram/web1_VARS.fd")));
        assert_eq!(nvram.template.as_deref(), Some(Path::new("/usr/share/OVMF/OVMF_VARS_4M.fd")));
        let targets: Vec<_> = config.disks.iter().map(|disk| disk.target.as_str()).collect();
        assert_eq!(targets, ["vda", "sda"]);
        let disk = &config.disks[0];
        assert_eq!(disk.source, Source::File("/var/lib/libvirt/images/web1.qcow2".into()));
        assert_eq!(disk.alias.as_deref(), Some("virtio-disk0"));
        assert!(disk.has_backing_chain);
        assert!(!config.disks[1].has_backing_chain);
    }

    #[test]
    fn emulated_tpms_are_found() {
        let tpm = |inside: &str| {
            let text = format!("<domain><name>a</name><devices><tpm model='tpm-tis'>{inside}</tpm></devices></domain>");
            DomainConfig::parse(&text).unwrap().tpm
        };
        assert_eq!(tpm("<backend type='passthrough'><device path='/dev/tpm0'/></backend>"), None);
        assert_eq!(tpm("<backend type='emulator' version='2.0'/>"), Some(Tpm::Usual));
        let own = "<backend type='emulator' version='2.0'><source type='dir' path='/srv/tpm'/></backend>";
        assert_eq!(tpm(own), Some(Tpm::At("/srv/tpm".into())));
    }

    #[test]
    fn direct_boot_and_nvram_as_source_are_read() {
        let config = DomainConfig::parse(&fixture("special.xml")).unwrap();
        assert_eq!(config.kernel.as_deref(), Some(Path::new("/boot/vmlinuz <test> & 'co'")));
        assert_eq!(config.initrd.as_deref(), Some(Path::new("/boot/initrd \u{e9}.img")));
        assert_eq!(config.nvram.unwrap().path.as_deref(), Some(Path::new("/var/lib/nv ram.fd")));
        assert_eq!(config.disks[0].source, Source::File("/srv/vm/a \"b\" & 'c' <d> \u{e4}\u{1f4be}.qcow2".into()));
        assert_eq!(config.name, "sp\u{e9}cial & co");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = DomainConfig::parse(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn mutated_domains_never_panic(
            which in 0usize..5,
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0usize..8), 1..6),
        ) {
            let name = ["q35-uefi.xml", "special.xml", "sources.xml", "data-store.xml", "live.xml"][which];
            let mut bytes = fixture(name).into_bytes();
            for (at, byte, cut) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                let end = (at + cut).min(bytes.len());
                bytes.drain(at..end);
                if bytes.is_empty() {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            let plan = Adjustment { name: Some("new".into()), drop_uuid: true, ..Adjustment::default() };
            if let Ok(adjusted) = adjust(&text, &plan) {
                prop_assert!(DomainConfig::parse(&adjusted.xml).is_ok(), "{}", adjusted.xml);
            }
        }
    }
}
