//! The state of a domain's emulated TPM: what BitLocker and others have sealed is lost without it.

use crate::commands::tpm;
use crate::error::{self, Error, Kind, Result};
use crate::host::Host;
use crate::libvirt::domain_xml::{DomainConfig, Tpm};
use crate::set::config::MAX_SIZE;
use crate::set::manifest::Role;

use super::config::Extra;

/// The state as a tar; none of a domain without an emulated TPM. What can't be read is a warning.
pub fn state(host: &Host, uri: &str, config: &DomainConfig, ident: &str) -> Option<Extra> {
    let result = match config.tpm.as_ref()? {
        Tpm::Usual => read(host, uri, config),
        Tpm::At(path) => {
            Err(Error::unsupported("the TPM's state is in a place of its own, which is not known well enough")
                .path(path))
        }
    };
    match result {
        Ok(content) => {
            let mut extra = Extra::new(format!("tpm-state.{ident}.tar"), Role::TpmState, content);
            extra.record = extra.record.copied_from(&tpm::directory(uri, config.uuid.as_deref()?)?.to_string_lossy());
            Some(extra)
        }
        Err(error) => {
            tracing::warn!(
                "the TPM's state is not saved, what the guest has sealed with it can't be opened after a restore: {}",
                error::report(&error)
            );
            None
        }
    }
}

fn read(host: &Host, uri: &str, config: &DomainConfig) -> Result<Vec<u8>> {
    let unknown = || Error::new(Kind::NotFound, format!("where the daemon at {uri} keeps it is not known"));
    let uuid = config.uuid.as_deref().ok_or_else(unknown)?;
    let directory = tpm::directory(uri, uuid).ok_or_else(unknown)?;
    let mut files = Vec::new();
    for name in tpm::FILES {
        match host.read(&directory.join(name), MAX_SIZE) {
            Ok(content) => files.push((name, content)),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if files.is_empty() {
        return Err(Error::new(Kind::NotFound, "holds no state of a TPM").path(directory));
    }
    tpm::pack(&files)
}
