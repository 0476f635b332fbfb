//! Checkpoints of a domain: libvirt's names for moments, each with a dirty bitmap per disk that records
//! from that moment on.
//!
//! Every bitmap records on its own until it is deleted, so an increment from any checkpoint is right,
//! whatever was deleted around it. What libvirt knows of a checkpoint (its metadata) and the bitmap in
//! the image can be lost one without the other:
//!
//! ```text
//!              bitmap good        bitmap missing or broken
//! metadata     usable             is_valid() says false; discard() cleans up
//! none         redefine()         nothing to do
//! ```

use std::thread;
use std::time::Duration;

use virt_sys as c;

use super::images::Images;
use super::xml::{self, Element};
use super::{Domain, LibvirtError, code};
use crate::error::{Error, Kind, Result};

/// How often to ask again for a list that can't be given at the moment, and how long to wait before.
const LIST_TRIES: u32 = 100;
const LIST_PAUSE: Duration = Duration::from_millis(100);

/// A checkpoint as libvirt or a backup set describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its name, unique within the domain.
    pub name: String,
    /// The XML it was read from, without the domain's.
    pub xml: String,
    /// The checkpoint that was current when this one was made.
    pub parent: Option<String>,
    /// Free text of whoever made it.
    pub description: Option<String>,
    /// Seconds since 1970.
    pub creation_time: u64,
    /// The disks that have a bitmap for it.
    pub disks: Vec<CheckpointDisk>,
}

/// A disk of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointDisk {
    /// The disk's target name.
    pub target: String,
    /// The name of the dirty bitmap, which is that of the checkpoint unless somebody chose otherwise.
    pub bitmap: String,
}

/// What [`delete`] takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteMode {
    /// Metadata and bitmaps; the domain must be active ([`discard`] knows another way).
    Whole,
    /// What libvirt knows of it; bitmaps stay in the images.
    MetadataOnly,
}

/// All checkpoints of a domain, parents before their children.
///
/// # Errors
/// By libvirt's code; [`Kind::Protocol`] if its XML makes no sense.
pub fn list(domain: &Domain) -> Result<Vec<Checkpoint>> {
    let mut handles = domain.sys.checkpoints();
    for _ in 0..LIST_TRIES {
        if !handles.as_ref().is_err_and(is_being_made) {
            break;
        }
        thread::sleep(LIST_PAUSE);
        handles = domain.sys.checkpoints();
    }
    let handles = domain.during("list the checkpoints", handles)?;
    let mut checkpoints = Vec::with_capacity(handles.len());
    for handle in handles {
        match handle.xml(c::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN) {
            Ok(xml) => checkpoints.push(Checkpoint::parse(&xml)?),
            // Deleted by somebody else since it was listed.
            Err(error) if error.code == code::NO_DOMAIN_CHECKPOINT => {}
            Err(error) => return domain.during("read a checkpoint", Err(error)),
        }
    }
    Ok(checkpoints)
}

/// While libvirt makes a checkpoint, its list has one without a name, and can't be given.
fn is_being_made(error: &LibvirtError) -> bool {
    error.code == code::INVALID_ARG && error.message.contains("virGetDomainCheckpoint")
}

/// Deletes a checkpoint; its children become children of its parent.
///
/// # Errors
/// [`Kind::NotFound`] if there is none of that name; else by libvirt's code. A bitmap that is missing
/// makes [`DeleteMode::Whole`] fail and leaves everything as it was, see [`discard`].
pub fn delete(domain: &Domain, name: &str, mode: DeleteMode) -> Result<()> {
    let flags = match mode {
        DeleteMode::Whole => 0,
        DeleteMode::MetadataOnly => c::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY,
    };
    let result = domain.sys.checkpoint(name).and_then(|handle| handle.delete(flags));
    domain.during(&format!("delete checkpoint {name}"), result)
}

/// Tells libvirt of a checkpoint whose bitmaps are in the images already, or corrects what it knows of
/// one. With `validate` the bitmaps are looked at, for which the domain must be active.
///
/// # Errors
/// By libvirt's code: [`code::CHECKPOINT_INCONSISTENT`] for a missing or broken bitmap, with `validate`.
pub fn redefine(domain: &Domain, xml: &str, validate: bool) -> Result<()> {
    let validate = if validate { c::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE } else { 0 };
    let result = domain.sys.checkpoint_create(xml, c::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE | validate);
    domain.during("redefine a checkpoint", result).map(drop)
}

/// Whether all bitmaps of a checkpoint that libvirt knows are there and in order. The domain must be
/// active.
///
/// # Errors
/// By libvirt's code: [`code::OPERATION_INVALID`] for a domain that is off.
pub fn is_valid(domain: &Domain, checkpoint: &Checkpoint) -> Result<bool> {
    let flags = c::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE | c::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE;
    match domain.sys.checkpoint_create(&checkpoint.xml, flags) {
        Ok(_) => Ok(true),
        Err(error) if error.code == code::CHECKPOINT_INCONSISTENT => Ok(false),
        Err(error) => domain.during(&format!("validate checkpoint {}", checkpoint.name), Err(error)),
    }
}

/// Gets rid of a checkpoint in whatever state it is: whole, with bitmaps that are missing on some disks or
/// on all, broken ones. Returns whether libvirt knew it: nothing is removed that it does not know.
///
/// # Errors
/// By libvirt's code, if not even the metadata could be deleted; of a domain that is off [`Kind::Busy`] where
/// an image is in use.
pub fn discard(domain: &Domain, checkpoint: &Checkpoint) -> Result<bool> {
    let name = &checkpoint.name;
    if let Some(images) = Images::of_stopped(domain)? {
        if !list(domain)?.iter().any(|known| known.name == *name) {
            return Ok(false);
        }
        // The metadata last: it says whose they are.
        images.remove_all_of(checkpoint)?;
        return found(delete(domain, name, DeleteMode::MetadataOnly));
    }
    match delete(domain, name, DeleteMode::Whole) {
        // "bitmap not found in backing chain" has no code of its own.
        Err(error) if super::code_of(&error) == Some(code::INTERNAL_ERROR) => {
            tracing::debug!(domain = domain.name(), checkpoint = %name, "a bitmap is missing: disk by disk");
            // As libvirt has it now: its parent may have been deleted since it was listed.
            let current = list(domain)?.into_iter().find(|known| known.name == *name);
            discard_disk_by_disk(domain, current.as_ref().unwrap_or(checkpoint))?;
            Ok(true)
        }
        other => found(other),
    }
}

/// Whether there was what was to be deleted.
fn found(deleted: Result<()>) -> Result<bool> {
    match deleted {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == Kind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// libvirt deletes all bitmaps of a checkpoint or none: each disk in turn is made its only one. Returns
/// the positions of the disks that had a bitmap.
pub(super) fn discard_disk_by_disk(domain: &Domain, checkpoint: &Checkpoint) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for index in 0..checkpoint.disks.len() {
        redefine(domain, &checkpoint.redefine_xml_with(|disk| disk == index)?, false)?;
        match delete(domain, &checkpoint.name, DeleteMode::Whole) {
            Ok(()) => found.push(index),
            Err(error) if super::code_of(&error) == Some(code::INTERNAL_ERROR) => {}
            Err(error) => return Err(error),
        }
    }
    match delete(domain, &checkpoint.name, DeleteMode::MetadataOnly) {
        Err(error) if error.kind() != Kind::NotFound => Err(error),
        _ => Ok(found),
    }
}

/// The XML of a checkpoint to be made together with a backup job: bitmaps on `disks`, none on `others`,
/// which must be all the other disks of the domain.
///
/// # Errors
/// [`Kind::Usage`] for a name that XML can't carry.
pub fn new_xml(name: &str, description: &str, disks: &[String], others: &[String]) -> Result<String> {
    let mut list = Element::new("disks");
    for target in disks {
        list = list.with_child(disk_element(target, Some(name))?);
    }
    for target in others {
        list = list.with_child(disk_element(target, None)?);
    }
    Element::new("domaincheckpoint")
        .with_child(Element::new("name").with_text(name)?)
        .with_child(Element::new("description").with_text(description)?)
        .with_child(list)
        .into_text()
}

fn disk_element(target: &str, bitmap: Option<&str>) -> Result<Element<'static>> {
    let disk = Element::new("disk").with("name", target)?;
    match bitmap {
        Some(bitmap) => disk.with("checkpoint", "bitmap")?.with("bitmap", bitmap),
        None => disk.with("checkpoint", "no"),
    }
}

impl Checkpoint {
    /// Reads a checkpoint's XML, libvirt's own or one saved in a backup set (then maybe with the whole
    /// domain inside, which is left out).
    ///
    /// # Errors
    /// [`Kind::Protocol`] if it isn't one.
    pub fn parse(text: &str) -> Result<Self> {
        let mut document = xml::parse(text, "domaincheckpoint")?;
        let bad = |what| Error::new(Kind::Protocol, format!("checkpoint XML: {what}"));
        document.root.remove_children("domain");
        let root = &document.root;
        let name = root.child_text("name").filter(|name| !name.is_empty()).ok_or_else(|| bad("no name"))?;
        let creation_time = root.child_text("creationTime").unwrap_or_default();
        let creation_time = creation_time.trim().parse().map_err(|_| bad("no creation time"))?;
        let mut disks = Vec::new();
        for disk in root.child("disks").into_iter().flat_map(Element::children).filter(|disk| disk.name() == "disk") {
            let target = disk.attribute("name").ok_or_else(|| bad("a disk without a name"))?;
            if disk.attribute("checkpoint").is_none_or(|kind| kind == "bitmap") {
                disks.push(CheckpointDisk { target, bitmap: disk.attribute("bitmap").unwrap_or_else(|| name.clone()) });
            }
        }
        Ok(Self {
            parent: root.child("parent").and_then(|parent| parent.child_text("name")),
            description: root.child_text("description"),
            creation_time,
            disks,
            xml: document.to_text()?,
            name,
        })
    }

    /// The XML without the parent: that of a root.
    ///
    /// # Errors
    /// [`Kind::Protocol`] if [`Checkpoint::xml`] isn't a checkpoint's.
    pub fn root_xml(&self) -> Result<String> {
        let mut document = xml::parse(&self.xml, "domaincheckpoint")?;
        document.root.remove_children("parent");
        document.to_text()
    }

    /// The smallest XML to [`redefine`] it with. Its parent, if it has one, must be known to libvirt by
    /// then: set [`Checkpoint::parent`] to `None` to make it a root.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a name that XML can't carry.
    pub fn redefine_xml(&self) -> Result<String> {
        self.redefine_xml_with(|_| true)
    }

    fn redefine_xml_with(&self, has_bitmap: impl Fn(usize) -> bool) -> Result<String> {
        let mut root = Element::new("domaincheckpoint").with_child(Element::new("name").with_text(&self.name)?);
        if let Some(description) = &self.description {
            root = root.with_child(Element::new("description").with_text(description)?);
        }
        if let Some(parent) = &self.parent {
            root = root.with_child(Element::new("parent").with_child(Element::new("name").with_text(parent)?));
        }
        let mut disks = Element::new("disks");
        for (index, disk) in self.disks.iter().enumerate() {
            let bitmap = has_bitmap(index).then_some(disk.bitmap.as_str());
            disks = disks.with_child(disk_element(&disk.target, bitmap)?);
        }
        root.with_child(Element::new("creationTime").with_text(&self.creation_time.to_string())?)
            .with_child(disks)
            .into_text()
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn bad_checkpoints_are_refused() {
        for text in [
            "",
            "<domain/>",
            "<domaincheckpoint/>",
            "<domaincheckpoint><name>a</name></domaincheckpoint>",
            "<domaincheckpoint><name>a</name><creationTime>-1</creationTime></domaincheckpoint>",
            "<domaincheckpoint><name/><creationTime>1</creationTime></domaincheckpoint>",
            "<domaincheckpoint><name>a</name><creationTime>1</creationTime><disks><disk/></disks></domaincheckpoint>",
        ] {
            assert_eq!(Checkpoint::parse(text).unwrap_err().kind(), Kind::Protocol, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = "<domaincheckpoint><name>a&amp;b</name><description>run 1</description>\
                    <parent><name>p</name></parent><creationTime>17</creationTime><disks>\
                    <disk name='vda' checkpoint='bitmap'/><disk name='vdb' checkpoint='no'/>\
                    <disk name='vdc' checkpoint='bitmap' bitmap='x'/></disks>\
                    <domain><name>d</name></domain></domaincheckpoint>";
        let checkpoint = Checkpoint::parse(text).unwrap();
        assert_eq!(checkpoint.name, "a&b");
        assert_eq!(checkpoint.parent.as_deref(), Some("p"));
        assert_eq!(checkpoint.description.as_deref(), Some("run 1"));
        let bitmaps: Vec<_> = checkpoint.disks.iter().map(|disk| (&*disk.target, &*disk.bitmap)).collect();
        assert_eq!(bitmaps, [("vda", "a&b"), ("vdc", "x")]);
        assert!(!checkpoint.xml.contains("<domain>"));
        let again = Checkpoint::parse(&checkpoint.redefine_xml().unwrap()).unwrap();
        assert_eq!(Checkpoint { xml: String::new(), ..again }, Checkpoint { xml: String::new(), ..checkpoint });
    }

    #[test]
    fn new_checkpoints_name_all_disks() {
        let xml = new_xml("cp<1>", "a 'b'", &["vda".into()], &["hdx".into()]).unwrap();
        assert_eq!(
            xml,
            "<domaincheckpoint><name>cp&lt;1&gt;</name><description>a &apos;b&apos;</description><disks>\
             <disk name=\"vda\" checkpoint=\"bitmap\" bitmap=\"cp&lt;1&gt;\"/><disk name=\"hdx\" checkpoint=\"no\"/>\
             </disks></domaincheckpoint>"
        );
    }
}
