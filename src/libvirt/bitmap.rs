//! Dirty bitmaps in a domain's images that no checkpoint goes with: made, checked and removed by way of a
//! checkpoint of their name that libvirt knows for a moment only; in the images themselves while the domain is
//! off.

use super::Domain;
use super::checkpoint::{self, Checkpoint, CheckpointDisk, DeleteMode};
use super::images::Images;
use super::probe::Probe;
use crate::error::{Kind, Result};

/// Makes a bitmap on each of `disks`, which records from now on; `others` are all other disks of the domain.
/// What a crash in the middle leaves is a checkpoint `name` with `description`.
///
/// # Errors
/// By libvirt's code: one of the disks has a bitmap of that name.
pub fn create(domain: &Domain, name: &str, description: &str, disks: &[String], others: &[String]) -> Result<()> {
    if let Some(images) = Images::of_stopped(domain)? {
        return images.add(name, disks);
    }
    let xml = checkpoint::new_xml(name, description, disks, others)?;
    domain.during(&format!("make bitmap {name}"), domain.sys.checkpoint_create(&xml, 0)).map(drop)?;
    checkpoint::delete(domain, name, DeleteMode::MetadataOnly)
}

/// Those of `targets` that have a good bitmap of that name.
///
/// # Errors
/// By libvirt's code.
pub fn valid(domain: &Domain, name: &str, description: &str, targets: &[String]) -> Result<Vec<String>> {
    let mut made_up = made_up(domain, name, description, targets)?;
    made_up.xml = made_up.redefine_xml()?;
    let probe = Probe::of(domain)?;
    let valid = probe.valid_targets(&made_up);
    if !probe.is_of_stopped() {
        forget(domain, name)?;
    }
    valid
}

/// Removes the bitmaps called `name` on those of `targets` that have one, whole or broken, which libvirt must
/// not know as a checkpoint. Returns these targets. What a crash in the middle leaves is a checkpoint
/// `name` with `description`.
///
/// # Errors
/// By libvirt's code; of a domain that is off [`Kind::Busy`] where an image is in use.
pub fn remove(domain: &Domain, name: &str, description: &str, targets: &[String]) -> Result<Vec<String>> {
    if let Some(images) = Images::of_stopped(domain)? {
        return images.remove(name, targets);
    }
    let found = checkpoint::discard_disk_by_disk(domain, &made_up(domain, name, description, targets)?)?;
    Ok(found.into_iter().map(|index| targets[index].clone()).collect())
}

/// Makes libvirt forget a checkpoint; its bitmaps stay.
///
/// # Errors
/// By libvirt's code; that there is none is no error.
pub fn forget(domain: &Domain, name: &str) -> Result<()> {
    match checkpoint::delete(domain, name, DeleteMode::MetadataOnly) {
        Err(error) if error.kind() != Kind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A checkpoint that lasts a moment. It stands below the newest one: when it goes, that is the current one
/// again, and the parent of the next.
fn made_up(domain: &Domain, name: &str, description: &str, targets: &[String]) -> Result<Checkpoint> {
    let disk = |target: &String| CheckpointDisk { target: target.clone(), bitmap: name.to_owned() };
    Ok(Checkpoint {
        name: name.to_owned(),
        xml: String::new(),
        parent: checkpoint::list(domain)?.pop().map(|newest| newest.name).filter(|newest| newest != name),
        description: Some(description.to_owned()),
        // libvirt asks for one.
        creation_time: 1,
        disks: targets.iter().map(disk).collect(),
    })
}
