//! BitLocker's recovery keys, from a Windows guest: its disks are worth nothing without them, once its TPM
//! is another one.

use std::collections::BTreeSet;
use std::time::Duration;

use super::config::Extra;
use crate::cancel::Cancel;
use crate::error::{self, Result};
use crate::libvirt::domain::Domain;
use crate::libvirt::guest_exec;
use crate::set::manifest::Role;

/// Windows' own tool.
const TOOL: &str = "manage-bde";
/// It answers within a second or two; a busy guest takes longer.
const LIMIT: Duration = Duration::from_secs(30);
/// What the agent calls Windows.
const WINDOWS: &str = "mswindows";

/// The keys, as `manage-bde` prints them, a file for each volume that has any. What can't be had is a
/// warning.
pub fn keys(domain: &Domain, system: Option<&str>, ident: &str, cancel: &Cancel) -> Vec<Extra> {
    if let Some(other) = system.filter(|system| *system != WINDOWS) {
        tracing::info!("no BitLocker keys: the guest is no Windows ({other})");
        return Vec::new();
    }
    match volumes(domain, cancel) {
        Ok(volumes) => volumes.into_iter().filter_map(|volume| key(domain, volume, ident, cancel)).collect(),
        Err(error) => {
            tracing::warn!("the BitLocker recovery keys are not saved: {}", error::report(&error));
            Vec::new()
        }
    }
}

fn key(domain: &Domain, volume: char, ident: &str, cancel: &Cancel) -> Option<Extra> {
    let drive = format!("{volume}:");
    match guest_exec::run(domain, TOOL, &["-protectors", "-get", &drive], LIMIT, cancel) {
        Ok(executed) if executed.status == Some(0) => {
            tracing::info!("saved the BitLocker recovery keys of volume {drive}");
            Some(Extra::new(format!("bitlocker.recovery.key.{volume}.{ident}"), Role::RecoveryKeys, executed.output))
        }
        // That is how it tells that there are none.
        Ok(executed) => {
            tracing::info!("volume {drive} has no BitLocker keys ({TOOL}: {:?})", executed.status);
            None
        }
        Err(error) => {
            tracing::warn!("the BitLocker keys of volume {drive} are not saved: {}", error::report(&error));
            None
        }
    }
}

fn volumes(domain: &Domain, cancel: &Cancel) -> Result<BTreeSet<char>> {
    let status = guest_exec::run(domain, TOOL, &["-status"], LIMIT, cancel)?;
    Ok(drives_in(&String::from_utf8_lossy(&status.output)))
}

/// The drive letters in what `manage-bde -status` prints, in whatever language.
fn drives_in(text: &str) -> BTreeSet<char> {
    let letter = |word: &str| {
        let mut chars = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != ':').chars();
        match (chars.next(), chars.next(), chars.next()) {
            (Some(letter), Some(':'), None) if letter.is_ascii_uppercase() => Some(letter),
            _ => None,
        }
    };
    text.split_whitespace().filter_map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_are_found_in_any_language() {
        let english = "BitLocker Drive Encryption: Configuration Tool version 10.0.20348\r\n\r\nDisk volumes that can be \
                       protected with\r\nBitLocker Drive Encryption:\r\nVolume C: [System]\r\n[OS Volume]\r\n\r\n    \
                       Size:                 59.40 GB\r\nVolume D: [Data]\r\n";
        assert_eq!(drives_in(english), BTreeSet::from(['C', 'D']));
        assert_eq!(drives_in("Volume \"E:\" []\r\n    Gr\u{f6}\u{df}e: 1 GB\r\n"), BTreeSet::from(['E']));
        assert!(drives_in("").is_empty());
    }
}
