//! Reaching the hypervisor as the options say.

use anyhow::Result;

use crate::cli::Hypervisor;
use crate::error::Error;
use crate::libvirt::connection::{Connection, Credentials};

/// Opens the connection that the options name.
pub fn open(args: &Hypervisor) -> Result<Connection> {
    let uri = uri(args);
    let credentials = Credentials { user: args.user.clone(), password: password(args)? };
    tracing::debug!("connecting to {uri}");
    Ok(Connection::open(&uri, Some(&credentials))?)
}

/// The URI asked for, or the daemon that this user would talk to with virsh.
fn uri(args: &Hypervisor) -> String {
    args.uri.clone().unwrap_or_else(|| {
        let root = rustix::process::geteuid().is_root();
        if root { "qemu:///system" } else { "qemu:///session" }.to_owned()
    })
}

fn password(args: &Hypervisor) -> Result<Option<String>> {
    if let Some(password) = &args.password {
        return Ok(Some(password.clone()));
    }
    if let Some(path) = &args.password_file {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", error).path(path))?;
        return Ok(Some(text.lines().next().unwrap_or_default().to_owned()));
    }
    Ok(std::env::var("VIRTKEEP_PASSWORD").ok())
}
