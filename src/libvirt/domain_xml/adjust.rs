//! The changes that a restore makes to a domain's XML. All that is not named here stays as it was.
//!
//! | part | change |
//! |---|---|
//! | name, UUID, MAC addresses | as asked for |
//! | restored disks | the new file in place of the old source, format, backing chain and data store |
//! | disks that were not restored | removed and reported, since their images belong to the old domain |
//! | CD-ROM and floppy drives | kept, with their media where these are there |
//! | generation ID | a new one: the guest's time has gone back |
//! | loader, NVRAM, kernel, initial ramdisk | the restored files |
//! | traces of a running domain (aliases, labels) | removed |

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::super::xml::{self, Element, path_text};
use super::disk::{Device, Disk};
use crate::error::Result;

/// What to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adjustment {
    /// The new name.
    pub name: Option<String>,
    /// Let libvirt make a new UUID.
    pub drop_uuid: bool,
    /// Let libvirt make new MAC addresses.
    pub drop_mac: bool,
    /// The restored disks, by target.
    pub disks: BTreeMap<String, NewSource>,
    /// Drives whose media are not there, by target.
    pub eject: BTreeSet<String>,
    /// The restored firmware image.
    pub loader: Option<PathBuf>,
    /// The restored firmware variables.
    pub nvram: Option<PathBuf>,
    /// The restored kernel.
    pub kernel: Option<PathBuf>,
    /// The restored initial ramdisk.
    pub initrd: Option<PathBuf>,
    /// The restored variables of `uefi-vars`.
    pub varstore: Option<PathBuf>,
}

/// The image that a disk was restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSource {
    /// Its path, absolute.
    pub path: PathBuf,
    /// Its format: `qcow2` or `raw`.
    pub format: String,
    /// It is a block device.
    pub block: bool,
    /// Its data file, if it has one, and whether that is a block device.
    pub data_file: Option<(PathBuf, bool)>,
}

impl NewSource {
    /// A file without a data file apart.
    pub fn file(path: impl Into<PathBuf>, format: &str) -> Self {
        Self { path: path.into(), format: format.to_owned(), block: false, data_file: None }
    }

    /// Whether the image or its data file is at `path`.
    pub fn is_at(&self, path: &std::path::Path) -> bool {
        self.path == path || self.data_file.as_ref().is_some_and(|(data, _)| data == path)
    }
}

/// The changed XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjusted {
    /// The XML.
    pub xml: String,
    /// The targets of the disks that are not in it any more.
    pub removed: Vec<String>,
    /// A sentence for each other thing that a user should know of.
    pub notes: Vec<String>,
}

/// Changes a domain's XML as `plan` says.
///
/// # Errors
/// [`Kind::Protocol`](crate::error::Kind::Protocol) if it is no domain XML,
/// [`Kind::Usage`](crate::error::Kind::Usage) or [`Kind::Unsupported`](crate::error::Kind::Unsupported) for
/// names and paths that XML can't carry.
pub fn adjust(text: &str, plan: &Adjustment) -> Result<Adjusted> {
    // What is not readable as a domain is not made into one.
    super::DomainConfig::parse(text)?;
    let mut document = xml::parse(text, "domain")?;
    let (mut removed, mut notes) = (Vec::new(), Vec::new());
    let root = &mut document.root;
    adjust_identity(root, plan)?;
    remove_dynamic_labels(root);
    // libvirt makes a new one for an empty element: guests notice by it that they went back in time.
    if let Some(generation) = root.child_mut("genid") {
        generation.set_text("")?;
    }
    if let Some(os) = root.child_mut("os") {
        adjust_boot_files(os, plan, &mut notes)?;
    }
    if let Some(devices) = root.child_mut("devices") {
        removed = adjust_disks(devices, plan, &mut notes)?;
        devices.children_mut().for_each(remove_aliases);
        if plan.drop_mac {
            devices.children_mut().filter(|device| device.name() == "interface").for_each(|interface| {
                interface.remove_children("mac");
            });
        }
    }
    Ok(Adjusted { xml: document.to_text()?, removed, notes })
}

fn adjust_identity(root: &mut Element<'_>, plan: &Adjustment) -> Result<()> {
    if let (Some(name), Some(element)) = (&plan.name, root.child_mut("name")) {
        element.set_text(name)?;
    }
    if plan.drop_uuid {
        drop_uuid(root);
    }
    Ok(())
}

pub(super) fn drop_uuid(root: &mut Element<'_>) {
    root.remove_children("uuid");
    // libvirt refuses a domain whose SMBIOS tables tell another UUID.
    for sysinfo in root.children_mut().filter(|child| child.name() == "sysinfo") {
        for system in sysinfo.children_mut().filter(|child| child.name() == "system") {
            system.retain_children(|entry| entry.attribute("name").as_deref() != Some("uuid"));
        }
    }
}

/// Labels that the old host chose for the running domain; what the user chose is kept.
fn remove_dynamic_labels(root: &mut Element<'_>) {
    let is_dynamic = |label: &Element<'_>| {
        label.name() == "seclabel" && label.attribute("type").is_none_or(|kind| kind == "dynamic")
    };
    root.retain_children(|child| !is_dynamic(child) || child.child("baselabel").is_some());
    for label in root.children_mut().filter(|child| is_dynamic(child)) {
        label.retain_children(|child| child.name() == "baselabel");
    }
}

fn adjust_boot_files(os: &mut Element<'_>, plan: &Adjustment, notes: &mut Vec<String>) -> Result<()> {
    for (name, path) in [("loader", &plan.loader), ("kernel", &plan.kernel), ("initrd", &plan.initrd)] {
        if let (Some(path), Some(element)) = (path, os.child_mut(name)) {
            element.set_text(path_text(path)?)?;
        }
    }
    if let (Some(path), Some(element)) = (&plan.varstore, os.child_mut("varstore")) {
        element.set_attribute("path", path_text(path)?)?;
    }
    let Some(nvram) = os.child_mut("nvram") else { return Ok(()) };
    match &plan.nvram {
        Some(path) => {
            nvram.remove_attribute("type")?;
            nvram.set_text(path_text(path)?)?;
        }
        // Two domains must not share their variables: libvirt makes new ones.
        None if plan.name.is_some() => {
            notes.push("the firmware's variables (NVRAM) are new: none were restored".to_owned());
            if nvram.attribute("template").is_some() {
                nvram.remove_attribute("type")?;
                nvram.set_text("")?;
            } else {
                os.remove_children("nvram");
            }
        }
        None => {}
    }
    Ok(())
}

/// Gives the restored disks their new sources; returns the targets of those that were taken away.
fn adjust_disks(devices: &mut Element<'_>, plan: &Adjustment, notes: &mut Vec<String>) -> Result<Vec<String>> {
    let (mut removed, mut found) = (Vec::new(), BTreeSet::new());
    devices.retain_children(|child| {
        if child.name() != "disk" {
            return true;
        }
        let Ok(disk) = Disk::parse(child) else { return true };
        let keep = plan.disks.contains_key(&disk.target) || matches!(disk.device, Device::Cdrom | Device::Floppy);
        if !keep {
            removed.push(disk.target);
        }
        keep
    });
    for element in devices.children_mut().filter(|child| child.name() == "disk") {
        let disk = Disk::parse(element)?;
        match plan.disks.get(&disk.target) {
            Some(new) => set_source(element, new).map_err(|error| error.disk(&disk.target))?,
            None => {
                element.remove_children("backingStore");
                if plan.eject.contains(&disk.target) {
                    eject(element)?;
                    let medium = disk.source.path().map(|path| path.display().to_string()).unwrap_or_default();
                    notes.push(format!("drive {} is empty now: its medium {medium} is not here", disk.target));
                }
            }
        }
        found.insert(disk.target);
    }
    for target in plan.disks.keys().filter(|target| !found.contains(*target)) {
        notes.push(format!(
            "disk {target} is not in the domain's XML, since it was attached to the running domain only: attach its \
             image by hand"
        ));
    }
    Ok(removed)
}

fn eject(drive: &mut Element<'_>) -> Result<()> {
    drive.set_attribute("type", "file")?;
    drive.remove_children("source");
    Ok(())
}

fn set_source(disk: &mut Element<'_>, new: &NewSource) -> Result<()> {
    let named_data_file = disk.child("source").is_some_and(|source| source.child("dataStore").is_some());
    disk.set_attribute("type", kind(new.block))?;
    // A file is no SCSI device that the guest could talk to itself.
    if disk.attribute("device").as_deref() == Some("lun") {
        disk.set_attribute("device", "disk")?;
    }
    for name in ["rawio", "sgio"] {
        disk.remove_attribute(name)?;
    }
    let mut source = place(&new.path, new.block)?;
    // A libvirt that does not know data files finds them by itself.
    if let Some((path, block)) = new.data_file.as_ref().filter(|_| named_data_file) {
        let format = Element::new("format").with("type", "raw")?;
        let store = Element::new("dataStore").with("type", kind(*block))?.with_child(format);
        source = source.with_child(store.with_child(place(path, *block)?));
    }
    disk.put_child(source);
    // What belonged to the old place; encryption too, as the restored image has none.
    for name in ["backingStore", "mirror", "auth", "encryption"] {
        disk.remove_children(name);
    }
    match disk.child_mut("driver") {
        Some(driver) => adjust_driver(driver, &new.format)?,
        None => disk.put_child(Element::new("driver").with("name", "qemu")?.with("type", &new.format)?),
    }
    Ok(())
}

fn kind(block: bool) -> &'static str {
    if block { "block" } else { "file" }
}

fn place(path: &std::path::Path, block: bool) -> Result<Element<'static>> {
    Element::new("source").with(if block { "dev" } else { "file" }, path_text(path)?)
}

fn adjust_driver(driver: &mut Element<'_>, format: &str) -> Result<()> {
    driver.set_attribute("type", format)?;
    if format != "qcow2" {
        // libvirt refuses these with any other format.
        driver.remove_attribute("discard_no_unref")?;
        driver.remove_children("metadata_cache");
    }
    Ok(())
}

/// Names that libvirt gave the devices of the running domain; those that a user gave start with `ua-`.
pub(super) fn remove_aliases(device: &mut Element<'_>) {
    device.retain_children(|child| {
        child.name() != "alias" || child.attribute("name").is_some_and(|name| name.starts_with("ua-"))
    });
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::super::{DomainConfig, Source};
    use super::*;

    fn plan(disks: &[(&str, &str, &str)]) -> Adjustment {
        let disks = disks.iter().map(|(target, path, format)| {
            let new = NewSource { path: (*path).into(), format: (*format).to_owned(), block: false, data_file: None };
            ((*target).to_owned(), new)
        });
        Adjustment { disks: disks.collect(), ..Adjustment::default() }
    }

    #[test]
    fn a_restore_under_the_same_name_changes_the_disks_only() {
        let adjusted = adjust(&fixture("live.xml"), &plan(&[("vda", "/new/a & b.qcow2", "qcow2")])).unwrap();
        assert_eq!(adjusted.xml, fixture("live.adjusted.xml"));
        assert_eq!(adjusted.removed, ["vdb"]);
        assert!(adjusted.notes.is_empty());
    }

    #[test]
    fn a_copy_shares_nothing_with_the_original() {
        let plan = Adjustment {
            name: Some("copy & 2".into()),
            drop_uuid: true,
            drop_mac: true,
            ..plan(&[("vda", "/new/a.raw", "raw")])
        };
        let adjusted = adjust(&fixture("q35-uefi.xml"), &plan).unwrap();
        let config = DomainConfig::parse(&adjusted.xml).unwrap();
        assert_eq!((config.name.as_str(), config.uuid), ("copy & 2", None));
        assert_eq!(config.nvram.unwrap().path, None);
        for gone in ["4dea22b3", "<mac", "web1_VARS", "metadata_cache", "discard_no_unref"] {
            assert!(!adjusted.xml.contains(gone), "{gone}\n{}", adjusted.xml);
        }
        assert!(adjusted.xml.contains("<entry name='manufacturer'>"), "{}", adjusted.xml);
        assert!(adjusted.xml.contains("qemu:commandline"));
        assert_eq!(adjusted.notes.len(), 1);
    }

    #[test]
    fn restored_boot_files_are_used() {
        let plan = Adjustment {
            nvram: Some("/new/nv".into()),
            kernel: Some("/new/k".into()),
            initrd: Some("/new/i".into()),
            loader: Some("/new/l".into()),
            ..plan(&[("vda", "/new/a.qcow2", "qcow2")])
        };
        let config = DomainConfig::parse(&adjust(&fixture("special.xml"), &plan).unwrap().xml).unwrap();
        assert_eq!(config.nvram.unwrap().path, plan.nvram);
        assert_eq!((config.kernel, config.initrd, config.loader), (plan.kernel, plan.initrd, plan.loader));
    }

    #[test]
    fn every_kind_of_source_becomes_a_file() {
        let targets = ["vda", "vdb", "vdc", "vdd", "vde", "vdf", "vdg", "vdh"];
        let disks: Vec<_> = targets.iter().map(|target| (*target, "/new/x.qcow2", "qcow2")).collect();
        let adjusted = adjust(&fixture("sources.xml"), &plan(&disks)).unwrap();
        let config = DomainConfig::parse(&adjusted.xml).unwrap();
        for target in targets {
            let disk = config.disk(target).unwrap();
            assert_eq!(disk.source, Source::File("/new/x.qcow2".into()), "{target}");
            assert_eq!(disk.driver_format.as_deref(), Some("qcow2"), "{target}");
            assert!(disk.data_store.is_none() && !disk.has_backing_chain);
        }
        assert_eq!(adjusted.removed, ["vdi", "vdj", "vdk", "sdb"]);
        assert_eq!(config.disk("sda").unwrap().source, Source::File("/iso/debian.iso".into()));
        assert!(!adjusted.xml.contains("<auth") && !adjusted.xml.contains("<encryption"), "{}", adjusted.xml);
    }

    #[test]
    fn data_stores_move() {
        for (block, attribute) in [(false, "file"), (true, "dev")] {
            let mut plan = plan(&[("vda", "/new/a.qcow2", "qcow2")]);
            plan.disks.get_mut("vda").unwrap().data_file = Some(("/new/a & b.data".into(), block));
            let adjusted = adjust(&fixture("data-store.xml"), &plan).unwrap();
            let store = format!("<source {attribute}='/new/a &amp; b.data'/>").replace('\'', "\"");
            assert!(adjusted.xml.replace('\'', "\"").contains(&store), "{}", adjusted.xml);
            let disk = DomainConfig::parse(&adjusted.xml).unwrap().disk("vda").unwrap().clone();
            assert_eq!(disk.source, Source::File("/new/a.qcow2".into()));
            let expected = if block { Source::Block } else { Source::File };
            assert_eq!(disk.data_store, Some(expected("/new/a & b.data".into())));
            assert!(!adjusted.xml.contains("/dev/vg0/data"), "{}", adjusted.xml);
            // Where libvirt did not show it there is none.
            plan.disks.insert("vdz".into(), plan.disks["vda"].clone());
            assert!(!adjust(&fixture("sources.xml"), &plan).unwrap().xml.contains("dataStore"));
        }
    }

    #[test]
    fn devices_become_block_sources() {
        let mut plan = plan(&[("vda", "/dev/vg0/new", "raw")]);
        plan.disks.get_mut("vda").unwrap().block = true;
        let adjusted = adjust(&fixture("live.xml"), &plan).unwrap();
        let config = DomainConfig::parse(&adjusted.xml).unwrap();
        assert_eq!(config.disk("vda").unwrap().source, Source::Block("/dev/vg0/new".into()));
        assert!(config.disk("vda").unwrap().is_raw());
    }

    #[test]
    fn drives_whose_media_are_gone_are_empty() {
        let plan =
            Adjustment { eject: ["sda".to_owned()].into(), ..plan(&[("vda", "/n", "qcow2"), ("vdz", "/z", "raw")]) };
        let adjusted = adjust(&fixture("sources.xml"), &plan).unwrap();
        assert_eq!(DomainConfig::parse(&adjusted.xml).unwrap().disk("sda").unwrap().source, Source::Empty);
        assert!(adjusted.notes[0].contains("sda") && adjusted.notes[0].contains("/iso/debian.iso"), "{adjusted:?}");
        assert!(adjusted.notes[1].contains("disk vdz is not in"), "{adjusted:?}");
    }

    #[test]
    fn a_guest_learns_that_it_went_back() {
        let text = "<domain><name>a</name><genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid></domain>";
        let adjusted = adjust(text, &Adjustment::default()).unwrap().xml;
        assert!(adjusted.contains("<genid") && !adjusted.contains("43dc0cf8"), "{adjusted}");
    }

    #[test]
    fn data_stores_go() {
        let adjusted = adjust(&fixture("data-store.xml"), &plan(&[("vda", "/n", "qcow2")])).unwrap();
        assert!(!adjusted.xml.contains("dataStore"), "{}", adjusted.xml);
    }

    #[test]
    fn paths_that_xml_cannot_carry_are_refused() {
        let error = adjust(&fixture("live.xml"), &plan(&[("vda", "/new/\x01", "qcow2")])).unwrap_err();
        assert!(error.to_string().contains("disk vda"), "{error}");
    }
}
