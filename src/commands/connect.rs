//! Reaching the hypervisor as the options say.

use crate::cli::Hypervisor;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::address::{Address, SshOptions};
use crate::libvirt::connection::{Connection, Credentials};

/// Opens the connection that the options name, for what libvirt itself does: the machine's files are not got at.
pub fn open(args: &Hypervisor) -> Result<Connection> {
    let uri = uri(args);
    let credentials = Credentials { user: args.user.clone(), password: password(args)? };
    tracing::debug!("connecting to {uri}");
    Connection::open_by(&uri, &ssh(args), Some(&credentials))
}

/// As [`open`], and with the way to the machine's files: `known`, if there is one from before.
pub fn open_with_host(args: &Hypervisor, known: Option<&Host>) -> Result<Connection> {
    if let Some(known) = known {
        return Ok(open(args)?.on_host(known.clone()));
    }
    let uri = uri(args);
    if Address::parse(&uri).is_some_and(|address| address.is_ssh()) {
        // What ssh says of a failure is more than what libvirt passes on of it.
        let host = Host::of_uri(&uri, &ssh(args))?;
        return Ok(open(args)?.on_host(host));
    }
    let connection = open(args)?;
    Ok(connection.on_host(Host::of_uri(&uri, &ssh(args))?))
}

/// The other machine that the options name, for its files.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) where they name none; as for [`Host::of_uri`].
pub fn other_host(args: &Hypervisor) -> Result<Host> {
    let host = Host::of_uri(&uri(args), &ssh(args))?;
    match &host {
        Host::Ssh(_) => Ok(host),
        Host::Local => Err(Error::usage("--to-host is for another host, and the URI names none")
            .hint("name it: -U qemu+ssh://root@HOST/system; without --to-host the images are written here")),
        Host::Closed(_) => Err(Error::unsupported("images can't be written on a host whose files can't be got at")
            .hint("let ssh log in there, see the warning above")),
    }
}

/// Whether the options name another machine.
pub fn is_remote(args: &Hypervisor) -> bool {
    Address::parse(&uri(args)).is_some()
}

/// The same options with the URI and the password themselves. A password file can be a pipe, which is read once.
///
/// # Errors
/// Where that can't be read.
pub fn settled(args: &Hypervisor) -> Result<Hypervisor> {
    Ok(Hypervisor { uri: Some(uri(args)), password: password(args)?, password_file: None, ..args.clone() })
}

/// What the options say about ssh.
pub fn ssh(args: &Hypervisor) -> SshOptions {
    SshOptions { user: args.ssh_user.clone(), port: args.ssh_port, private_key: args.ssh_private_key.clone() }
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
