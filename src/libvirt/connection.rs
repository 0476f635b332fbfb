//! A connection to a libvirt daemon, local or remote.

use std::fmt;
use std::path::{Path, PathBuf};

use super::domain::Domain;
use super::{LibvirtError, code, sys};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::host::address::{self, Address, SshOptions};

/// errno of a socket that the user may not use.
const EACCES: i32 = 13;

/// What to answer when the daemon asks who we are.
#[derive(Clone, Default)]
pub struct Credentials {
    /// User name.
    pub user: Option<String>,
    /// Password; shown nowhere.
    pub password: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "(hidden)");
        f.debug_struct("Credentials").field("user", &self.user).field("password", &password).finish()
    }
}

/// An open connection; may be used from several threads at once. Domains keep it open.
pub struct Connection {
    sys: sys::Conn,
    uri: String,
    host: Host,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects to the daemon that `uri` names. Never asks the user anything.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where no daemon listens, [`Kind::Usage`] for a URI that makes no sense, else
    /// [`Kind::Io`]; each with a remedy.
    pub fn open(uri: &str, credentials: Option<&Credentials>) -> Result<Self> {
        Self::open_by(uri, &SshOptions::default(), credentials)
    }

    /// As [`Connection::open`]; where the URI goes through ssh, that is told what `ssh` says. The host of a daemon
    /// on another machine is not known until [`Connection::on_host`] names it.
    ///
    /// # Errors
    /// As for [`Connection::open`].
    pub fn open_by(uri: &str, ssh: &SshOptions, credentials: Option<&Credentials>) -> Result<Self> {
        refuse_missing_authfile(uri)?;
        let user = credentials.and_then(|given| given.user.as_deref());
        let password = credentials.and_then(|given| given.password.as_deref());
        let address = Address::parse(uri);
        let exact = address.as_ref().map_or_else(|| uri.to_owned(), |address| address.libvirt_uri(uri, ssh));
        let sys = sys::Conn::open(&exact, user, password).map_err(|error| open_error(uri, address.as_ref(), error))?;
        Ok(Self { sys, uri: uri.to_owned(), host: Host::Local })
    }

    /// With `host` as the daemon's machine.
    pub fn on_host(mut self, host: Host) -> Self {
        self.host = host;
        self
    }

    /// The daemon's machine, which is that of its domains.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The URI that was asked for.
    pub fn requested_uri(&self) -> &str {
        &self.uri
    }

    /// The URI that libvirt settled on.
    ///
    /// # Errors
    /// [`Kind::Io`] when the connection is lost.
    pub fn uri(&self) -> Result<String> {
        self.sys.uri().map_err(|error| error.during("ask for the connection's URI"))
    }

    /// Version of the daemon on the other side, which need not be that of our library: 9.1.2 is 9001002.
    ///
    /// # Errors
    /// [`Kind::Io`] when the connection is lost.
    pub fn daemon_version(&self) -> Result<u64> {
        self.sys.daemon_version().map_err(|error| error.during("ask for libvirt's version"))
    }

    /// Version of the hypervisor on the other side, in the same form.
    ///
    /// # Errors
    /// [`Kind::Io`] when the connection is lost or no QEMU is installed there.
    pub fn hypervisor_version(&self) -> Result<u64> {
        self.sys.hypervisor_version().map_err(|error| error.during("ask for the hypervisor's version"))
    }

    /// Version of the libvirt library in this process, in the same form.
    ///
    /// # Errors
    /// [`Kind::Io`], which no library is known to give.
    pub fn library_version() -> Result<u64> {
        sys::Conn::library_version().map_err(|error| error.during("ask for the library's version"))
    }

    /// The name of the host that the daemon runs on.
    ///
    /// # Errors
    /// [`Kind::Io`] when the connection is lost.
    pub fn hostname(&self) -> Result<String> {
        self.sys.hostname().map_err(|error| error.during("ask for the host's name"))
    }

    /// Whether the connection still works; a lost one never comes back. A host that went away without a
    /// word is noticed after a minute.
    pub fn is_alive(&self) -> bool {
        self.sys.is_alive()
    }

    /// The domain of that name, or else of that UUID.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none.
    pub fn domain(&self, name_or_uuid: &str) -> Result<Domain> {
        let found = self.sys.domain_by_name(name_or_uuid).or_else(|error| {
            let is_uuid = uuid::Uuid::try_parse(name_or_uuid).is_ok();
            if is_uuid && error.code == code::NO_DOMAIN { self.sys.domain_by_uuid(name_or_uuid) } else { Err(error) }
        });
        match found {
            Ok(sys) => Domain::new(sys, self.host.clone()),
            Err(error) if error.code == code::NO_DOMAIN => Err(error
                .during(format!("no domain {name_or_uuid:?} on {}", self.uri))
                .hint(format!("`virsh -c '{}' list --all` shows the domains", self.uri))),
            Err(error) => Err(error.during(format!("look up domain {name_or_uuid:?}"))),
        }
    }

    /// The names of all domains, running or not, sorted.
    ///
    /// # Errors
    /// [`Kind::Io`] when the connection is lost.
    pub fn domains(&self) -> Result<Vec<String>> {
        let list = || -> sys::Result<Vec<String>> { self.sys.domains()?.iter().map(sys::Dom::name).collect() };
        let mut names = list().map_err(|error| error.during("list the domains"))?;
        names.sort();
        Ok(names)
    }

    /// What the hypervisor offers to domains of that kind (`virsh domcapabilities`), as XML; what is not given
    /// is the hypervisor's choice.
    ///
    /// # Errors
    /// By libvirt's code: there is no such emulator.
    pub fn domain_capabilities(
        &self,
        emulator: Option<&str>,
        arch: Option<&str>,
        machine: Option<&str>,
        kind: Option<&str>,
    ) -> Result<String> {
        let text = self.sys.domain_capabilities(emulator, arch, machine, kind);
        text.map_err(|error| error.during("ask for the domain capabilities"))
    }

    /// All domains, running or not, in no order.
    ///
    /// # Errors
    /// [`Kind::Io`] when the connection is lost.
    pub fn all_domains(&self) -> Result<Vec<Domain>> {
        let list = self.sys.domains().map_err(|error| error.during("list the domains"))?;
        list.into_iter().map(|sys| Domain::new(sys, self.host.clone())).collect()
    }

    /// The path of a volume in a storage pool.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such volume, or its pool is not active.
    pub fn volume_path(&self, pool: &str, volume: &str) -> Result<PathBuf> {
        volume_found(pool, volume, self.sys.volume_path(pool, volume))
    }

    /// Makes the storage pool whose directory is `path` look again at what it holds; returns whether there is
    /// one.
    ///
    /// # Errors
    /// By libvirt's code: the pool is not active.
    pub fn refresh_pool_at(&self, path: &Path) -> Result<bool> {
        match self.sys.refresh_pool_at(&path.to_string_lossy()) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.code, code::NO_STORAGE_POOL | code::NO_SUPPORT) => Ok(false),
            Err(error) => Err(error.during(format!("refresh the storage pool of {}", path.display()))),
        }
    }

    /// Starts a domain that is forgotten when it ends.
    ///
    /// # Errors
    /// By libvirt's code: the XML is not one, the host lacks what it asks for, the name is taken.
    pub fn create(&self, xml: &str) -> Result<Domain> {
        let sys = self.sys.create(xml).map_err(|error| error.during("start the domain"))?;
        Domain::new(sys, self.host.clone())
    }

    /// What the host is like (`virsh capabilities`), as XML.
    ///
    /// # Errors
    /// [`Kind::Io`] when the connection is lost.
    pub fn capabilities(&self) -> Result<String> {
        self.sys.capabilities().map_err(|error| error.during("ask for the host's capabilities"))
    }

    /// Defines a persistent domain from its XML; one of the same name and UUID is redefined.
    ///
    /// # Errors
    /// By libvirt's code: the XML is not one, or a domain of that name has another UUID.
    pub fn define(&self, xml: &str) -> Result<Domain> {
        let sys = self.sys.define(xml).map_err(|error| {
            error
                .during("define the domain")
                .hint("give it another name with --name, or undefine the one that is there")
        })?;
        Domain::new(sys, self.host.clone())
    }
}

/// Says which volume was looked for.
pub(super) fn volume_found(pool: &str, volume: &str, found: sys::Result<String>) -> Result<PathBuf> {
    found.map(PathBuf::from).map_err(|error| {
        error
            .during(format!("find volume {volume:?} in storage pool {pool:?}"))
            .hint(format!("`virsh pool-start {pool}` if the pool is not active"))
    })
}

/// libvirt 9.0 says "the cause is unknown" of a file with credentials that is not there.
fn refuse_missing_authfile(uri: &str) -> Result<()> {
    let Some(path) = address::parameter(uri, "authfile").map(PathBuf::from) else { return Ok(()) };
    std::fs::File::open(&path).map(drop).map_err(|error| {
        Error::io("open the file with credentials", error)
            .path(&path)
            .hint("authfile= in the URI names it; https://libvirt.org/auth.html has its format")
    })
}

/// Why no connection came about, and what to do about it.
fn open_error(uri: &str, address: Option<&Address>, error: LibvirtError) -> Error {
    let no_daemon = "is libvirtd running there? `systemctl status libvirtd virtqemud.socket`; \
                     another daemon is named with -U/--uri";
    let refused = "run as root, or as a member of group libvirt; a session daemon is named with -U qemu:///session";
    let (kind, hint) = match error.code {
        code::OPERATION_DENIED | code::ACCESS_DENIED => (Kind::Io, refused),
        code::AUTH_FAILED | code::AUTH_CANCELLED | code::AUTH_UNAVAILABLE => (
            Kind::Io,
            "name the user with --user and the password with --password-file or VIRTKEEP_PASSWORD, or both in \
              a file: ?authfile=/PATH in the URI",
        ),
        code::NO_CONNECT | code::INVALID_ARG | code::NO_SUPPORT => {
            (Kind::Usage, "-U/--uri takes a libvirt URI: qemu:///system, qemu+ssh://USER@HOST/system")
        }
        // No code of its own.
        code::INTERNAL_ERROR if error.message.contains("parse URI") => {
            (Kind::Usage, "-U/--uri takes a libvirt URI: qemu:///system, qemu+ssh://USER@HOST/system")
        }
        code::SYSTEM_ERROR if error.os_error == Some(EACCES) => (Kind::Io, refused),
        // As for ssh itself see `host::trouble`: this is what comes after a login.
        _ if address.is_some_and(Address::is_ssh) => (
            Kind::Io,
            "`ssh HOST virsh list` must work: libvirtd runs there, the user may use it, and there is \
              virt-ssh-helper or nc (Debian: libvirt-daemon, netcat-openbsd)",
        ),
        code::SYSTEM_ERROR if address.is_some() => (
            Kind::Io,
            "is the host reachable, and does libvirtd listen there? qemu+ssh://USER@HOST/system needs sshd alone",
        ),
        // No code of its own, either.
        _ if error.message.to_lowercase().contains("certificate") => (
            Kind::Io,
            "TLS needs certificates of one authority on both sides, and the host's name as it is in its \
              certificate: https://libvirt.org/kbase/tlscerts.html; ?pkipath=/DIR in the URI names the directory",
        ),
        code::SYSTEM_ERROR | code::RPC => (Kind::NotFound, no_daemon),
        _ => (Kind::Io, no_daemon),
    };
    Error::new(kind, format!("cannot connect to libvirt at {uri}")).hint(hint).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::code_of;

    #[test]
    fn passwords_are_not_shown() {
        let credentials = Credentials { user: Some("u".into()), password: Some("secret".into()) };
        let text = format!("{credentials:?}");
        assert!(text.contains("\"u\"") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn each_failure_to_connect_names_its_remedy() {
        for (uri, kind, hint) in [
            ("qemu:///system?socket=/nonexistent/sock", Kind::NotFound, "systemctl"),
            ("qemu+tcp://127.0.0.1:1/system", Kind::Io, "reachable"),
            ("::", Kind::Usage, "-U"),
        ] {
            let error = Connection::open(uri, None).unwrap_err();
            assert_eq!(error.kind(), kind, "{uri}: {}", crate::error::report(&error));
            assert!(error.hint_text().unwrap().contains(hint), "{uri}: {error:?}");
            assert!(code_of(&error).is_some(), "{uri}");
        }
    }

    #[test]
    fn the_test_driver_answers() {
        let connection = Connection::open("test:///default", None).unwrap();
        assert!(connection.is_alive());
        assert_eq!(connection.domains().unwrap(), ["test"]);
        assert_eq!(connection.uri().unwrap(), "test:///default");
        assert!(Connection::library_version().unwrap() >= 9_000_000);
        assert!(connection.daemon_version().unwrap() >= 9_000_000);
        assert!(!connection.hostname().unwrap().is_empty());
        let domain = connection.domain("test").unwrap();
        assert_eq!(connection.domain(domain.uuid()).unwrap().name(), "test");
    }

    #[test]
    fn unknown_names_are_not_found() {
        let connection = Connection::open("test:///default", None).unwrap();
        for name in ["nope", "6695eb01-f6a4-8304-79aa-97f2502e0000", "", "a\u{e9}"] {
            let error = connection.domain(name).unwrap_err();
            assert_eq!(error.kind(), Kind::NotFound, "{name}");
            assert_eq!(code_of(&error), Some(code::NO_DOMAIN));
            assert!(error.hint_text().unwrap().contains("virsh -c"));
        }
        assert!(connection.domain("a\0b").is_err());
        let error = connection.volume_path("default-pool", "nope").unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(connection.volume_path("nope", "nope").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_connection_is_shared_by_threads() {
        let connection = Connection::open("test:///default", None).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        assert!(connection.domain("test").unwrap().is_active().unwrap());
                        assert!(connection.domain("nope").is_err());
                    }
                });
            }
        });
    }
}
