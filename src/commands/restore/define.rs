//! Defining the restored domain.

use anyhow::Result;

use super::config::no_xml;
use super::phrases;
use super::source::Source;
use super::tpm;
use crate::cli::read::Restore;
use crate::commands::connect;
use crate::error::{self, Error, Kind};
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::libvirt::domain_xml::DomainConfig;
use crate::phrases::OWN;
use crate::set::manifest::Role;

/// Makes sure, before the first disk is written, that the domain can be defined where that is asked for.
///
/// # Errors
/// [`Kind::Busy`] where one of its name or UUID is in the way; why the hypervisor can't be reached.
pub fn check(args: &Restore, source: &Source) -> Result<()> {
    if args.define {
        let (_, config) = source.domain()?.ok_or_else(no_xml)?;
        refuse_existing(args, &connect::open(&args.hypervisor)?, &config)?;
    }
    Ok(())
}

/// Defines the domain.
pub fn define(args: &Restore, source: &Source, xml: &str) -> Result<()> {
    let connection = connect::open(&args.hypervisor)?;
    // Writing the disks took a while: it may have been started meanwhile.
    refuse_existing(args, &connection, &DomainConfig::parse(xml)?)?;
    phrases::defining();
    let domain = connection.define(xml).map_err(|error| {
        phrases::not_defined(&error::report(&error));
        error.hint("the images and the adjusted XML are restored: correct the XML and `virsh define` it, or choose a free name with -N")
    })?;
    if source.files().iter().any(|file| file.role == Role::Autostart) {
        match args.name {
            None => domain.set_autostart(true)?,
            Some(_) => tracing::info!("the copy is not started with the host, as the original is"),
        }
    }
    tpm::put_back(source, &connection, &domain);
    refresh_pool(args, &connection);
    tracing::info!(target: OWN, "domain {} is defined", domain.name());
    phrases::defined(domain.name());
    Ok(())
}

/// Lets libvirt see the new images as volumes, where their directory is a storage pool.
fn refresh_pool(args: &Restore, connection: &Connection) {
    let Some(output) = &args.output else { return };
    let refreshed = std::path::absolute(output)
        .map_err(|error| Error::io("resolve", error).path(output))
        .and_then(|directory| connection.refresh_pool_at(&directory));
    match refreshed {
        Ok(true) => tracing::info!("the storage pool of {} is refreshed", output.display()),
        Ok(false) => {}
        Err(error) => tracing::warn!("the new images are not shown as volumes yet: {}", error::report(&error)),
    }
}

fn refuse_existing(args: &Restore, connection: &Connection, config: &DomainConfig) -> error::Result<()> {
    if let Some(name) = &args.name {
        // It gets a new UUID, so libvirt would refuse it.
        return match find(connection, name)? {
            Some(_) => Err(busy(name, "exists already", "choose a free name with -N/--name")),
            None => Ok(()),
        };
    }
    if let Some(domain) = find(connection, &config.name)? {
        refuse_running(&domain)?;
        if config.uuid.as_deref().is_none_or(|uuid| !uuid.eq_ignore_ascii_case(domain.uuid())) {
            let hint = "choose a free name with -N/--name, or undefine the one that is there";
            return Err(busy(domain.name(), "exists already and is another one, by its UUID", hint));
        }
        if !args.force {
            let hint = "redefine it with --force, or choose a free name with -N/--name";
            return Err(busy(domain.name(), "exists already", hint));
        }
        return Ok(());
    }
    match config.uuid.as_deref().map(|uuid| find(connection, uuid)).transpose()?.flatten() {
        Some(domain) => {
            let message = format!("has the UUID of the restored domain {}", config.name);
            Err(busy(domain.name(), &message, "restore it as another domain with -N/--name"))
        }
        None => Ok(()),
    }
}

fn refuse_running(domain: &Domain) -> error::Result<()> {
    if domain.is_active()? {
        let hint = "shut it down first, or restore under another name with -N/--name";
        return Err(busy(domain.name(), "is running", hint));
    }
    Ok(())
}

fn busy(name: &str, message: &str, hint: &str) -> Error {
    Error::new(Kind::Busy, format!("domain {name} {message}")).hint(hint)
}

fn find(connection: &Connection, name_or_uuid: &str) -> error::Result<Option<Domain>> {
    match connection.domain(name_or_uuid) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
