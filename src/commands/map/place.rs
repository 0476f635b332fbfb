//! Where a map listens.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::{geteuid, umask};
use tempfile::TempDir;

use super::boot::{Prepared, files};
use crate::cli::map::Map;
use crate::error::{Error, Kind, Result};
use crate::nbd::server::listener::Listener;
use crate::nbd::uri::{self, MAX_SOCKET_PATH};

/// A listening socket; dropped, its file goes.
#[derive(Debug)]
pub struct Place {
    listener: Listener,
    address: Address,
    /// A directory made for the socket.
    _directory: Option<TempDir>,
}

#[derive(Debug)]
enum Address {
    Unix {
        path: PathBuf,
        /// Device and inode of our socket: another map may have taken the path.
        identity: Option<(u64, u64)>,
    },
    Tcp {
        address: SocketAddr,
        tls: bool,
    },
}

impl Place {
    /// Listens where the options say; for a domain by default where its QEMU can reach it.
    ///
    /// # Errors
    /// [`Kind::Busy`] where somebody listens; [`Kind::Usage`], [`Kind::Io`].
    pub fn listen(args: &Map, guest: Option<&Prepared>) -> Result<Self> {
        if let Some(address) = args.listen {
            return Self::tcp(address, args.tls_cert.is_some());
        }
        let (path, directory) = match (&args.socket, guest) {
            (Some(path), _) => (std::path::absolute(path).map_err(|error| Error::io("find", error).path(path))?, None),
            (None, Some(guest)) => (guest.socket(), None),
            (None, None) => default_path()?,
        };
        let listener = bind(&path)?;
        if let Some(user) = guest.and_then(Prepared::user) {
            files::grant(&path, user)?;
        }
        let identity = path.symlink_metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
        let address = Address::Unix { path, identity };
        Ok(Self { listener: Listener::Unix(listener), address, _directory: directory })
    }

    fn tcp(address: SocketAddr, tls: bool) -> Result<Self> {
        let failed = |error: std::io::Error| {
            let kind = if error.kind() == std::io::ErrorKind::AddrInUse { Kind::Busy } else { Kind::Io };
            Error::new(kind, format!("listen on {address}")).caused_by(error)
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if !tls {
            let who =
                if address.ip().is_loopback() { "every user of this machine" } else { "everybody who reaches it" };
            tracing::warn!(
                "{address}: {who} can read the disks; --tls-cert serves known clients only, a socket you alone"
            );
        }
        Ok(Self { listener: Listener::Tcp(listener), address: Address::Tcp { address, tls }, _directory: None })
    }

    /// The socket.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// The path, of a Unix socket.
    pub fn path(&self) -> Option<&Path> {
        match &self.address {
            Address::Unix { path, .. } => Some(path),
            Address::Tcp { .. } => None,
        }
    }

    /// The address, of TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.address {
            Address::Unix { .. } => None,
            Address::Tcp { address, .. } => Some(*address),
        }
    }

    /// The URI of `export`.
    pub fn uri(&self, export: &str) -> String {
        match &self.address {
            Address::Unix { path, .. } => uri::unix(path, export),
            Address::Tcp { address, tls: true } => uri::tls(&address.ip().to_string(), address.port(), export, None),
            Address::Tcp { address, tls: false } => uri::tcp(&address.ip().to_string(), address.port(), export),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Address::Unix { path, identity } = &self.address {
            let found = path.symlink_metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
            if found.is_some() && found == *identity {
                // It may be gone at this moment.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// A path that nobody else uses, in a directory that nobody else can enter.
fn default_path() -> Result<(PathBuf, Option<TempDir>)> {
    let name = format!("map.{}.sock", std::process::id());
    let user = geteuid();
    let run = match std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty()) {
        Some(directory) => PathBuf::from(directory),
        None if user.is_root() => PathBuf::from("/run"),
        None => PathBuf::from(format!("/run/user/{}", user.as_raw())),
    };
    if run.is_dir() {
        let directory = run.join("virtkeep");
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        let path = directory.join(&name);
        if made.is_ok() && path.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok((path, None));
        }
    }
    let directory = tempfile::Builder::new()
        .prefix("virtkeep.")
        .tempdir()
        .map_err(|error| Error::io("create a directory for the socket", error))?;
    Ok((directory.path().join(name), Some(directory)))
}

/// Binds a socket that this user alone may open. A dead socket is replaced.
fn bind(path: &Path) -> Result<UnixListener> {
    let refused = |message: &str, kind: Kind| Error::new(kind, message).path(path);
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(refused("the path is too long for a socket", Kind::Usage).hint("--socket takes a shorter one"));
    }
    if let Ok(metadata) = path.symlink_metadata() {
        if !metadata.file_type().is_socket() {
            return Err(refused("exists, and is no socket", Kind::Busy).hint("--socket takes a new path"));
        }
        match UnixStream::connect(path) {
            Ok(_) => {
                let hint = format!("`virtkeep unmap {}` ends a map; or choose another path", path.display());
                return Err(refused("somebody listens there", Kind::Busy).hint(hint));
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|error| Error::io("remove the dead socket", error).path(path))?;
            }
            Err(error) => return Err(Error::io("look at the socket there", error).path(path)),
        }
    }
    // Between bind and chmod anybody could connect.
    let before = umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener.map_err(|error| Error::io("listen", error).path(path))
}
