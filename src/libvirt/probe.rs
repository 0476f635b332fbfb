//! What is true of a domain's disks and bitmaps now: sizes, how much changed, which bitmaps are good.

use virt_sys as c;

use super::checkpoint::{self, Checkpoint};
use super::domain::Domain;
use super::images::Images;
use super::xml;
use super::{code, code_of};
use crate::error::{Error, Kind, Result};

impl Domain {
    /// Virtual size of a disk in bytes.
    ///
    /// # Errors
    /// By libvirt's code.
    pub fn disk_size(&self, target: &str) -> Result<u64> {
        Ok(self.during(&format!("ask for the size of {target}"), self.sys.block_info(target))?.0)
    }

    /// Bytes that a disk's image takes on the host.
    ///
    /// # Errors
    /// By libvirt's code.
    pub fn disk_allocation(&self, target: &str) -> Result<u64> {
        Ok(self.during(&format!("ask for the size of {target}"), self.sys.block_info(target))?.1)
    }
}

/// How many bytes of each disk changed since a checkpoint, as QEMU estimates it. The domain must be
/// active.
///
/// # Errors
/// By libvirt's code; [`Kind::Protocol`] for XML without sizes.
pub fn changed_sizes(domain: &Domain, checkpoint: &str) -> Result<Vec<(String, u64)>> {
    let operation = format!("ask how much changed since {checkpoint}");
    let handle = domain.during(&operation, domain.sys.checkpoint(checkpoint))?;
    let flags = c::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN | c::VIR_DOMAIN_CHECKPOINT_XML_SIZE;
    let text = domain.during(&operation, handle.xml(flags))?;
    let document = xml::parse(&text, "domaincheckpoint")?;
    let disks = document.root.child("disks").map(|disks| disks.children().collect::<Vec<_>>()).unwrap_or_default();
    let mut sizes = Vec::new();
    for disk in disks {
        if let (Some(target), Some(size)) = (disk.attribute("name"), disk.attribute("size")) {
            let size = size.parse().map_err(|_| Error::new(Kind::Protocol, format!("{size:?} is no size")))?;
            sizes.push((target, size));
        }
    }
    Ok(sizes)
}

/// Looks at bitmaps: QEMU's of a domain that runs, those in the images of one that is off.
#[derive(Debug)]
pub struct Probe<'d> {
    domain: &'d Domain,
    /// Of a domain that is off, as they were when this was made: only QEMU changes them.
    images: Option<Images<'d>>,
}

impl<'d> Probe<'d> {
    /// For the domain as it is now, running or not.
    ///
    /// # Errors
    /// By libvirt's code.
    pub fn of(domain: &'d Domain) -> Result<Self> {
        Ok(Self { domain, images: Images::of_stopped(domain)? })
    }

    /// Whether the domain is off.
    pub fn is_of_stopped(&self) -> bool {
        self.images.is_some()
    }

    /// The targets on which a checkpoint's bitmap is there and in order.
    ///
    /// libvirt checks a checkpoint as a whole. Where it finds fault, each disk is checked by a definition
    /// of that disk alone; the full definition is put back afterwards.
    ///
    /// # Errors
    /// By libvirt's code.
    pub fn valid_targets(&self, checkpoint: &Checkpoint) -> Result<Vec<String>> {
        match &self.images {
            Some(images) => Ok(images.valid_targets(checkpoint)),
            None => valid_targets_of_running(self.domain, checkpoint),
        }
    }

    /// Tells libvirt of a checkpoint whose bitmaps are in the images already, if all of them are in order.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where one is not, by libvirt's code.
    pub fn redefine_valid(&self, checkpoint: &Checkpoint) -> Result<()> {
        match &self.images {
            Some(images) if !images.is_valid(checkpoint) => {
                Err(Error::new(Kind::NotFound, "one of its bitmaps is missing or broken"))
            }
            images => checkpoint::redefine(self.domain, &checkpoint.redefine_xml()?, images.is_none()),
        }
    }
}

fn valid_targets_of_running(domain: &Domain, checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let all = || checkpoint.disks.iter().map(|disk| disk.target.clone()).collect::<Vec<_>>();
    if checkpoint::is_valid(domain, checkpoint)? {
        return Ok(all());
    }
    if checkpoint.disks.len() < 2 {
        return Ok(Vec::new());
    }
    let mut valid = Vec::new();
    let mut result = Ok(());
    for disk in &checkpoint.disks {
        let alone = Checkpoint { disks: vec![disk.clone()], ..checkpoint.clone() };
        match alone.redefine_xml().and_then(|xml| checkpoint::redefine(domain, &xml, true)) {
            Ok(()) => valid.push(disk.target.clone()),
            Err(error) if code_of(&error) == Some(code::CHECKPOINT_INCONSISTENT) => {}
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    checkpoint::redefine(domain, &checkpoint.xml, false)?;
    result.map(|()| valid)
}
