//! Reaching the hypervisor as the options say.

use crate::cli::Hypervisor;
use crate::error::{Error, Result};
use crate::libvirt::connection::{Connection, Credentials};

/// Opens the connection that the options name.
pub fn open(args: &Hypervisor) -> Result<Connection> {
    let uri = uri(args);
    let credentials = Credentials { user: args.user.clone(), password: password(args)? };
    tracing::debug!("connecting to {uri}");
    Connection::open(&uri, Some(&credentials))
}

/// Refuses a daemon on another machine: the disks are read through a socket in its file system.
///
/// # Errors
/// [`Kind::Unsupported`].
pub fn require_local(connection: &Connection) -> Result<()> {
    let uri = connection.requested_uri();
    match remote_host(uri) {
        None => Ok(()),
        Some(host) => Err(Error::unsupported(format!("{host} is another machine: its disks can't be read from here"))
            .hint("run virtkeep there, onto a directory that both can reach")),
    }
}

/// The host in a URI; none where the daemon is reached on this machine.
fn remote_host(uri: &str) -> Option<&str> {
    let (_, rest) = uri.split_once("://")?;
    let host = rest.split(['/', '?']).next()?;
    (!host.is_empty()).then_some(host)
}

/// The URI asked for, or the daemon that this user would talk to with virsh.
pub fn uri(args: &Hypervisor) -> String {
    args.uri.clone().unwrap_or_else(|| {
        let root = rustix::process::geteuid().is_root();
        if root { "qemu:///system" } else { "qemu:///session" }.to_owned()
    })
}

/// The password as the options give it.
///
/// # Errors
/// Where its file can't be read.
pub fn password(args: &Hypervisor) -> Result<Option<String>> {
    if let Some(password) = &args.password {
        return Ok(Some(password.clone()));
    }
    if let Some(path) = &args.password_file {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", error).path(path))?;
        return Ok(Some(text.lines().next().unwrap_or_default().to_owned()));
    }
    Ok(std::env::var("VIRTKEEP_PASSWORD").ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_in_uris() {
        for local in ["qemu:///system", "qemu:///session?socket=/a//b", "qemu+unix:///system", "test:///default"] {
            assert_eq!(remote_host(local), None, "{local}");
        }
        for (uri, host) in [("qemu+ssh://root@h/system", "root@h"), ("qemu+tcp://h:1/system", "h:1"), ("qemu://h", "h")]
        {
            assert_eq!(remote_host(uri), Some(host));
        }
    }
}
