//! The media in a domain's removable drives: the seeds of cloud-init, as a rule, without which the guest's
//! first boot can't be done again.

use super::config::Extra;
use crate::commands::link::Reached;
use crate::error;
use crate::libvirt::domain_xml::{Device, DomainConfig, Source};
use crate::set::config::MAX_SIZE;
use crate::set::manifest::Role;
use crate::units::format_bytes;

/// The media, as they are. What can't be read, or is too large to be a seed, is a warning.
pub fn images(reached: &Reached, config: &DomainConfig, ident: &str) -> Vec<Extra> {
    let drives = config.disks.iter().filter(|disk| matches!(disk.device, Device::Cdrom | Device::Floppy));
    let filled = drives.filter(|disk| disk.source != Source::Empty);
    filled
        .filter_map(|disk| {
            let medium = reached.image(disk).and_then(|path| Ok((reached.host().read(&path, MAX_SIZE)?, path)));
            match medium {
                Ok((content, path)) => {
                    let (target, size) = (&disk.target, content.len() as u64);
                    tracing::info!("{target}: saved its medium {} ({})", path.display(), format_bytes(size));
                    let mut extra = Extra::new(format!("{target}.{ident}.medium"), Role::Medium, content);
                    extra.record = extra.record.of_disk(target).copied_from(&path.to_string_lossy());
                    Some(extra)
                }
                Err(error) => {
                    tracing::warn!("{}: its medium is not saved: {}", disk.target, error::report(&error));
                    None
                }
            }
        })
        .collect()
}
