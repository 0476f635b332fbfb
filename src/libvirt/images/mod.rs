//! The images of a domain that is off, and the dirty bitmaps in them: what libvirt does only while QEMU has
//! them open. [`checkpoint`](super::checkpoint), [`bitmap`](super::bitmap) and [`probe`](super::probe) come
//! here for such a domain, so that nobody else has to know.
//!
//! No call here can meet a domain that was started since it was found off: QEMU's lock on its images keeps out
//! whatever changes them, and such a call fails.

mod below;

use std::collections::BTreeMap;
use std::path::PathBuf;

use self::below::{BackingChain, doubt};
use super::block_nodes::{Bitmap, Condition, DiskBitmaps, Layer};
use super::checkpoint::{Checkpoint, CheckpointDisk};
use super::domain::Domain;
use super::domain_xml::{Disk, DomainConfig};
use crate::error::{Error, Kind, Result};
use crate::qemu::{bitmap, img};
use crate::side_by_side;

/// The qcow2 images of a domain that is off, with the bitmaps that were in them when it was looked.
#[derive(Debug)]
pub struct Images<'d> {
    domain: &'d Domain,
    disks: Vec<DiskBitmaps>,
    /// Images that can't be looked at, by target, and why.
    unknown: Vec<(String, Error)>,
    /// Targets whose content is not certain without libvirt, and why.
    uncertain: Vec<(String, Error)>,
}

impl<'d> Images<'d> {
    /// Looks at the images; none of a domain that has a QEMU.
    ///
    /// # Errors
    /// By libvirt's code.
    pub fn of_stopped(domain: &'d Domain) -> Result<Option<Self>> {
        if domain.is_active()? {
            return Ok(None);
        }
        let xml = domain.xml(true)?;
        let config = DomainConfig::parse(&xml)?;
        let chains = BackingChain::all(&xml)?;
        let (mut disks, mut unknown, mut uncertain) = (Vec::new(), Vec::new(), Vec::new());
        let with_bitmaps = |disk: &&Disk| disk.eligibility().is_ok() && disk.driver_format.as_deref() == Some("qcow2");
        let with_bitmaps: Vec<_> = config.disks.iter().filter(with_bitmaps).collect();
        let look = |disk: &&Disk| domain.image(disk).and_then(|path| img::bitmaps(domain.host(), &path));
        let all = side_by_side::map(&with_bitmaps, img::LOOKS, look)?;
        for (disk, images) in with_bitmaps.into_iter().zip(all) {
            let target = disk.target.clone();
            match images {
                Ok(images) => {
                    let chain = chains.iter().find(|chain| chain.target == target);
                    if let Some(error) = doubt(&images, chain) {
                        uncertain.push((target.clone(), error));
                    }
                    disks.push(DiskBitmaps { target, layers: images.into_iter().map(layer).collect() });
                }
                Err(error) => unknown.push((target, error)),
            }
        }
        Ok(Some(Self { domain, disks, unknown, uncertain }))
    }

    /// The bitmaps of all disks.
    ///
    /// # Errors
    /// Of the first image that can't be looked at.
    pub fn into_bitmaps(self) -> Result<Vec<DiskBitmaps>> {
        match self.unknown.into_iter().next() {
            Some((target, error)) => Err(error.disk(&target)),
            None => Ok(self.disks),
        }
    }

    /// Refuses disks of which QEMU alone might read something else than libvirt would let the guest see.
    ///
    /// # Errors
    /// [`Kind::Unsupported`], with the remedy.
    pub fn refuse_unreadable(self, targets: &[String]) -> Result<Self> {
        let Self { domain, disks, unknown, uncertain } = self;
        let (mut refused, uncertain): (Vec<_>, Vec<_>) =
            uncertain.into_iter().partition(|(target, _)| targets.contains(target));
        match refused.pop() {
            Some((target, error)) => Err(error.disk(&target)),
            None => Ok(Self { domain, disks, unknown, uncertain }),
        }
    }

    /// The targets of a checkpoint on which its bitmap is good, in the one image that the guest writes to.
    ///
    /// Where images below that one have a bitmap of the name, libvirt merges them for a running domain;
    /// nobody does for one that is off.
    pub fn valid_targets(&self, checkpoint: &Checkpoint) -> Vec<String> {
        let is_valid = |disk: &&CheckpointDisk| match self.holders(&disk.target, &disk.bitmap).as_slice() {
            [Condition::Good] => true,
            [Condition::Good, ..] => {
                tracing::info!("{}: bitmap {} is spread over the images of a snapshot", disk.target, disk.bitmap);
                false
            }
            _ => false,
        };
        checkpoint.disks.iter().filter(is_valid).map(|disk| disk.target.clone()).collect()
    }

    /// Whether all bitmaps of a checkpoint are as libvirt wants them for a running domain.
    pub fn is_valid(&self, checkpoint: &Checkpoint) -> bool {
        let good = |disk: &CheckpointDisk| {
            let conditions = self.disk(&disk.target).map(DiskBitmaps::conditions).unwrap_or_default();
            conditions.get(&disk.bitmap) == Some(&Condition::Good)
        };
        checkpoint.disks.iter().all(good)
    }

    /// Adds a bitmap to the image that the guest writes to, of each of `targets`. It records from now on.
    ///
    /// # Errors
    /// [`Kind::Busy`] for an image in use, that of a domain that was started meanwhile, too; one that has a
    /// bitmap of that name.
    pub fn add(&self, name: &str, targets: &[String]) -> Result<()> {
        for target in targets {
            let image = self.top(target)?;
            bitmap::add(self.domain.host(), &image, name).map_err(|error| self.started(error).disk(target))?;
        }
        Ok(())
    }

    /// Removes a bitmap, whole or broken, from the images of those of `targets` that have one. Like libvirt it
    /// leaves an image alone that lies below one without it. Returns the targets.
    ///
    /// # Errors
    /// As for [`Images::add`]. An image that is not there has no bitmap.
    pub fn remove(&self, name: &str, targets: &[String]) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for target in targets {
            if let Some((_, error)) = self.unknown.iter().find(|(unknown, _)| unknown == target) {
                if error.kind() == Kind::NotFound {
                    continue;
                }
                let message = format!("bitmap {name} can't be removed: {}", crate::error::report(error));
                return Err(Error::new(error.kind(), message).disk(target));
            }
            let layers = self.disk(target).map(|disk| disk.layers.as_slice()).unwrap_or_default();
            let with_it = layers.iter().take_while(|layer| condition(layer, name).is_some());
            let images: Vec<&PathBuf> = with_it.filter_map(|layer| layer.image.as_ref()).collect();
            for image in &images {
                let result = bitmap::remove(self.domain.host(), image, name);
                result.map_err(|error| self.started(error).disk(target))?;
            }
            if !images.is_empty() {
                removed.push(target.clone());
            }
        }
        Ok(removed)
    }

    /// Removes the bitmaps of a checkpoint.
    ///
    /// # Errors
    /// As for [`Images::remove`].
    pub fn remove_all_of(&self, checkpoint: &Checkpoint) -> Result<()> {
        let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for disk in &checkpoint.disks {
            by_name.entry(&disk.bitmap).or_default().push(disk.target.clone());
        }
        by_name.into_iter().try_for_each(|(name, targets)| self.remove(name, &targets).map(drop))
    }

    fn disk(&self, target: &str) -> Option<&DiskBitmaps> {
        self.disks.iter().find(|disk| disk.target == target)
    }

    fn top(&self, target: &str) -> Result<PathBuf> {
        let image = self.disk(target).and_then(|disk| disk.layers.first()?.image.clone());
        image.ok_or_else(|| Error::new(Kind::NotFound, "no qcow2 image").disk(target))
    }

    /// What the images of a disk say of a bitmap, from the top down to the first that lacks it.
    fn holders(&self, target: &str, name: &str) -> Vec<Condition> {
        let layers = self.disk(target).map(|disk| disk.layers.as_slice()).unwrap_or_default();
        layers.iter().map_while(|layer| condition(layer, name)).collect()
    }

    /// Tells a domain that was started meanwhile from another program that uses the image.
    fn started(&self, error: Error) -> Error {
        started_meanwhile(self.domain, error)
    }
}

/// `error`, of a call that met an image of `domain` in use: whether that is the domain itself.
pub fn started_meanwhile(domain: &Domain, error: Error) -> Error {
    if error.kind() != Kind::Busy || !domain.is_active().unwrap_or(false) {
        return error;
    }
    was_started(domain).caused_by(error)
}

/// The error for a domain that is not off any more.
pub fn was_started(domain: &Domain) -> Error {
    Error::new(Kind::Busy, format!("domain {} was started meanwhile", domain.name()))
        .hint("run it again: a domain that runs is read through QEMU")
}

fn layer(image: img::ImageBitmaps) -> Layer {
    Layer {
        image: Some(image.filename.into()),
        node: None,
        bitmaps: image.bitmaps.into_iter().map(of_stored).collect(),
    }
}

fn condition(layer: &Layer, name: &str) -> Option<Condition> {
    layer.bitmaps.iter().find(|bitmap| bitmap.name == name).map(|bitmap| bitmap.condition)
}

fn of_stored(bitmap: img::StoredBitmap) -> Bitmap {
    let has = |flag: &str| bitmap.flags.iter().any(|other| other == flag);
    let condition = match (has("in-use"), has("auto")) {
        (true, _) => Condition::Broken,
        (false, true) => Condition::Good,
        (false, false) => Condition::Disabled,
    };
    Bitmap { name: bitmap.name, condition }
}
