//! How the data of the job comes to this machine, settled and tried before the guest is touched.
//!
//! | domain | way |
//! |---|---|
//! | on this machine | QEMU's Unix socket |
//! | on another one | that socket through the ssh connection; TCP or TLS only where asked for |

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use uuid::Uuid;

use super::plan::domain_uuid;
use super::socket;
use crate::cancel::Cancel;
use crate::cli::backup::{Backup, Network};
use crate::error::{self, Error, Kind};
use crate::host::Host;
use crate::host::address::Address;
use crate::host::serve::Served;
use crate::host::ssh::{Forward, Ssh};
use crate::libvirt::backup_job::Server;
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::nbd::client::Client;
use crate::nbd::uri;
use crate::units::KIB;

/// NBD's own port.
const NBD_PORT: u16 = 10809;
/// A host that is there answers at once, also that nothing listens yet.
const REACH_TIMEOUT: Duration = Duration::from_secs(10);
/// What an attempt to connect is tried on: a disk of zeroes.
const PROBE_SIZE: u64 = 64 * KIB;

/// The way of the data.
#[derive(Debug)]
pub enum Channel {
    /// A Unix socket of this machine.
    Socket(PathBuf),
    /// A Unix socket of another machine, through ssh.
    Ssh(Forward),
    /// A port of another machine.
    Tcp(Tcp),
}

/// A port of another machine.
#[derive(Debug)]
pub struct Tcp {
    /// The address that QEMU listens at.
    listen: IpAddr,
    port: u16,
    /// The name or address that is connected to, and proven with TLS.
    name: String,
    tls: bool,
    certificates: Option<PathBuf>,
}

impl Channel {
    /// Settles the way for the options, and tries as much of it as can be tried without a job.
    ///
    /// # Errors
    /// Why it does not work, with the other ways.
    pub fn choose(args: &Backup, connection: &Connection, domain: &Domain, run: Uuid) -> Result<Self> {
        let network = &args.network;
        let Some(address) = Address::parse(connection.requested_uri()) else {
            refuse_network(network)?;
            socket::refuse_other_user(domain_uuid(domain)?)?;
            return Ok(Self::Socket(socket::path(domain, args, run)?));
        };
        if network.nbd_port.is_some() || network.nbd_ip.is_some() || network.tls {
            return Ok(Self::Tcp(Tcp::choose(args, connection.host(), &address)?));
        }
        let Host::Ssh(ssh) = connection.host() else {
            let message = format!("the disks of {} can't be read through ssh: there is no way in", address.host);
            return Err(Error::unsupported(message)
                .hint("--tls reads them over TCP with TLS, -P PORT without; or let ssh log in, see the warning above")
                .into());
        };
        if !network.nbd_over_ssh {
            refuse_other_user(ssh, &address)?;
        }
        try_forward(ssh)?;
        let socket = socket::path(domain, args, run)?;
        Ok(Self::Ssh(ssh.forward(&socket)?))
    }

    /// Where the job serves.
    pub fn server(&self) -> Server {
        match self {
            Self::Socket(path) => Server::Unix(path.clone()),
            Self::Ssh(forward) => Server::Unix(forward.remote().to_owned()),
            Self::Tcp(tcp) => Server::Tcp { address: tcp.listen.to_string(), port: tcp.port, tls: tcp.tls },
        }
    }

    /// The job's socket, if it has one.
    pub fn socket(&self) -> Option<PathBuf> {
        match self.server() {
            Server::Unix(path) => Some(path),
            Server::Tcp { .. } => None,
        }
    }

    /// The NBD URI of an export.
    pub fn uri(&self, export: &str) -> String {
        match self {
            Self::Socket(path) => uri::unix(path, export),
            Self::Ssh(forward) => uri::unix(forward.local(), export),
            Self::Tcp(Tcp { name, port, tls: false, .. }) => uri::tcp(name, *port, export),
            Self::Tcp(Tcp { name, port, certificates, .. }) => uri::tls(name, *port, export, certificates.as_deref()),
        }
    }

    /// Says more of a failure to connect: which way it was, and which others there are.
    pub fn explain(&self, error: Error) -> Error {
        if error.kind() == Kind::Cancelled {
            return error;
        }
        match self {
            Self::Socket(_) => error,
            Self::Ssh(forward) => no_forward(forward.ssh(), error),
            Self::Tcp(tcp) => {
                let with = if tcp.tls { " with TLS" } else { "" };
                let hint = match tcp.tls {
                    true => {
                        "both sides need certificates of one authority, the host's with its name as it is in -I or -U: \
                         --tls-cert here, backup_tls_x509_cert_dir in qemu.conf there; through ssh none are needed"
                    }
                    false => "does a firewall let this machine in? -P names another port; through ssh none is needed",
                };
                Error::new(error.kind(), format!("no NBD connection to {} port {}{with}", tcp.name, tcp.port))
                    .hint(hint)
                    .caused_by(error)
            }
        }
    }
}

/// What only means something for another machine.
fn refuse_network(network: &Network) -> Result<()> {
    let given = [
        (network.nbd_over_ssh, "--nbd-over-ssh"),
        (network.nbd_port.is_some(), "-P/--nbd-port"),
        (network.nbd_ip.is_some(), "-I/--nbd-ip"),
        (network.tls, "--tls"),
    ];
    match given.iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, option)) => Err(Error::usage(format!("{option} is for domains on another host"))
            .hint(format!("leave {option} away, or name the host: -U qemu+ssh://root@HOST/system"))
            .into()),
    }
}

/// QEMU's socket is its user's and root's. A user's own daemon runs as that user.
fn refuse_other_user(ssh: &Ssh, address: &Address) -> Result<()> {
    if address.is_session() {
        return Ok(());
    }
    let id = ssh.run("exec id -u", &[], Duration::from_secs(20), KIB)?;
    if String::from_utf8_lossy(&id.stdout).trim() == "0" {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "the user who logs in at {} is not root: QEMU's socket can't be opened",
        ssh.name()
    ))
    .hint(
        "log in as root (-U qemu+ssh://root@HOST/system, --ssh-user root), or read over TCP: --tls, or -P PORT \
             without encryption; --nbd-over-ssh tries it all the same",
    )
    .into())
}

/// Reads a byte through a forwarded socket: that sshd forwards them at all is settled before there is a job.
fn try_forward(ssh: &Arc<Ssh>) -> Result<()> {
    let cancel = Cancel::new();
    let arguments = ["--read-only", "--image-opts", "--", &format!("driver=null-co,size={PROBE_SIZE},read-zeroes=on")]
        .map(Into::into);
    let server = match Served::start(ssh, &arguments, &cancel) {
        Ok(server) => server,
        // What is needed for the attempt is not needed for the run.
        Err(error) => {
            tracing::debug!("sockets through ssh can't be tried beforehand: {}", error::report(&error));
            return Ok(());
        }
    };
    let tried = Client::connect(&server.uri(), &[], &cancel).and_then(|mut client| client.read_at(&mut [0; 512], 0));
    Ok(tried.map_err(|error| no_forward(ssh, error))?)
}

fn no_forward(ssh: &Ssh, error: Error) -> Error {
    let words = ssh.last_words().map(|words| format!(" ({words})")).unwrap_or_default();
    Error::new(error.kind(), format!("no NBD connection through ssh to {}{words}", ssh.name()))
        .hint(
            "sshd there must allow it (AllowStreamLocalForwarding, AllowTcpForwarding), and the user must be able to \
             open QEMU's socket; other ways are --tls, and -P PORT without encryption",
        )
        .caused_by(error)
}

impl Tcp {
    fn choose(args: &Backup, host: &Host, address: &Address) -> Result<Self> {
        let network = &args.network;
        if let Some(socket) = &args.places.socketfile {
            return Err(Error::usage("a job that serves over TCP has no socket")
                .path(socket)
                .hint("leave -f away")
                .into());
        }
        socket::check_scratch(host, args)?;
        if let Some(directory) = &network.tls_cert {
            check_certificates(directory)?;
        }
        let port = network.nbd_port.unwrap_or(NBD_PORT);
        let of_uri = || match host {
            Host::Ssh(ssh) if address.is_ssh() => ssh.real_name(),
            _ => address.host.clone(),
        };
        let given = network.nbd_ip.as_deref();
        let everywhere = given.and_then(|text| text.parse::<IpAddr>().ok()).filter(IpAddr::is_unspecified);
        let name = given.filter(|_| everywhere.is_none()).map_or_else(of_uri, str::to_owned);
        let reached = reach(&name, port)?;
        Ok(Self {
            listen: everywhere.unwrap_or(reached),
            port,
            name,
            tls: network.tls,
            certificates: network.tls_cert.as_ref().map(std::path::absolute).transpose()?,
        })
    }
}

/// The address by which `name` is reached: the one where something says that nobody listens.
fn reach(name: &str, port: u16) -> Result<IpAddr> {
    let other = "-I names another address of the host, -P another port; through ssh none is needed";
    let addresses: Vec<SocketAddr> = (name, port)
        .to_socket_addrs()
        .map_err(|error| {
            Error::new(Kind::NotFound, format!("{name:?} has no address"))
                .hint("-I names the host's address")
                .caused_by(error)
        })?
        .collect();
    let mut last = None;
    for address in &addresses {
        match TcpStream::connect_timeout(address, REACH_TIMEOUT) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(address.ip()),
            Err(error) => last = Some(error),
            Ok(_) => {
                let message = format!("somebody listens at port {port} of {name} already: another backup, perhaps");
                return Err(Error::new(Kind::Busy, message).hint("-P names another port").into());
            }
        }
    }
    let error = Error::new(Kind::Io, format!("port {port} of {name} can't be reached"))
        .hint(format!("is there a firewall? {other}"));
    Err(match last {
        Some(cause) => error.caused_by(cause).into(),
        None => error.into(),
    })
}

/// What `--tls-cert` needs.
fn check_certificates(directory: &Path) -> error::Result<()> {
    let open = |name: &str| {
        let path = directory.join(name);
        std::fs::File::open(&path).map(drop).map_err(|error| {
            Error::io("open", error)
                .path(path)
                .hint("--tls-cert takes a directory with ca-cert.pem, client-cert.pem and client-key.pem")
        })
    };
    open("ca-cert.pem")?;
    // A host that does not verify its clients needs none of theirs; half of a pair is a mistake.
    match (open("client-cert.pem"), open("client-key.pem")) {
        (Err(one), Err(other)) if one.kind() == Kind::NotFound && other.kind() == Kind::NotFound => Ok(()),
        (one, other) => one.and(other),
    }
}
