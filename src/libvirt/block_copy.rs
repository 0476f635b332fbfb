//! Copying the disks of a running domain to new images, which it then goes on with: libvirt's block copy.

use std::collections::BTreeMap;
use std::path::Path;

use super::Domain;
use super::xml::{self, Element, path_text};
use crate::error::{Error, Kind, Result};

/// How far the copy of a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copying {
    /// Bytes copied.
    pub done: u64,
    /// Bytes to copy; grows with what the guest writes meanwhile.
    pub total: u64,
    /// From here on both get what the guest writes.
    pub ready: bool,
}

impl Domain {
    /// Begins to copy a disk to a new qcow2 image, which the hypervisor makes at `path`.
    ///
    /// # Errors
    /// By libvirt's code: QEMU's user can't write there, the file exists.
    pub fn copy_disk(&self, target: &str, path: &Path) -> Result<()> {
        let driver = Element::new("driver").with("type", "qcow2")?;
        let source = Element::new("source").with("file", path_text(path)?)?;
        let disk = Element::new("disk").with("type", "file")?.with_child(driver).with_child(source).into_text()?;
        let copied = self.during("copy a disk", self.sys.block_copy(target, &disk));
        copied.map_err(|error| error.disk(target).path(path))
    }

    /// How far the copies of these disks are.
    ///
    /// # Errors
    /// [`Kind::Io`] where one has ended before it was complete; by libvirt's code: the domain is gone.
    pub fn copying(&self, targets: &[&str]) -> Result<BTreeMap<String, Copying>> {
        let text = self.xml(false)?;
        let mut found = BTreeMap::new();
        for &target in targets {
            let job = self.during("ask for the copy of a disk", self.sys.block_job(target))?;
            let Some((done, total)) = job else {
                return Err(Error::new(Kind::Io, "the copy of the disk ended before it was complete")
                    .disk(target)
                    .hint("a damaged block is told above; else, is the file system of the copy full?"));
            };
            found.insert(target.to_owned(), Copying { done, total, ready: is_ready(&text, target)? });
        }
        Ok(found)
    }

    /// Ends the copy of a disk, which is ready: from here on the domain runs from it.
    ///
    /// # Errors
    /// By libvirt's code.
    pub fn use_copy(&self, target: &str) -> Result<()> {
        let ended = self.during("change to the copy of a disk", self.sys.end_block_job(target, true));
        ended.map_err(|error| error.disk(target))
    }

    /// Ends the copy of a disk, which goes on as it was.
    ///
    /// # Errors
    /// By libvirt's code: there is no copy.
    pub fn drop_copy(&self, target: &str) -> Result<()> {
        let ended = self.during("end the copy of a disk", self.sys.end_block_job(target, false));
        ended.map_err(|error| error.disk(target))
    }
}

/// Whether the XML of a running domain says that the copy of a disk has all that the disk has.
fn is_ready(text: &str, target: &str) -> Result<bool> {
    let document = xml::parse(text, "domain")?;
    let mut disks = document.root.child("devices").into_iter().flat_map(Element::children).filter(|child| {
        child.name() == "disk"
            && child.child("target").and_then(|place| place.attribute("dev")).as_deref() == Some(target)
    });
    let mirror = disks.find_map(|disk| disk.child("mirror"));
    Ok(mirror.and_then(|mirror| mirror.attribute("ready")).as_deref() == Some("yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_ready_when_libvirt_says_so() {
        let text = |mirror: &str| {
            format!(
                "<domain><devices><disk><target dev='vda'/></disk><disk>{mirror}<target dev='vdb'/></disk></devices></domain>"
            )
        };
        for (mirror, ready) in [
            ("", false),
            ("<mirror type='file' job='copy'/>", false),
            ("<mirror type='file' job='copy' ready='abort'/>", false),
            ("<mirror type='file' job='copy' ready='yes'/>", true),
        ] {
            assert_eq!(is_ready(&text(mirror), "vdb").unwrap(), ready, "{mirror}");
            assert!(!is_ready(&text(mirror), "vda").unwrap());
        }
    }
}
