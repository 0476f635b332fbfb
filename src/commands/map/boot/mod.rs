//! `--boot`: the machine of the backup runs from the map, as a domain of libvirt's that is forgotten when it ends.
//!
//! ```text
//! may it be called that? -> who is QEMU? -> files of the domain -> (the map listens) -> guard -> domain
//!   -> its agent, if that is waited for -> its disks are copied, when that is asked for, and it is let go
//!   -> else: until it shuts down, the command of --exec ends, or a signal -> the domain is ended
//! ```

mod copy;
pub(super) mod files;
pub mod guard;
mod guest;
mod keep;
pub(super) mod request;

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use uuid::Uuid;

use self::files::{Firmware, Removed};
use self::guard::{Guard, Orders};
pub use self::guest::Guest;
use super::place::Place;
use crate::cancel::Cancel;
use crate::cli::Hypervisor;
use crate::cli::map::Map;
use crate::commands::connect;
use crate::commands::link::Link;
use crate::commands::restore::config::no_xml;
use crate::commands::restore::source::Source;
use crate::error::{self, Error, Kind, Result};
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::libvirt::domain_xml::{Boot, Connect, NbdServer, boot, plainer};

/// Refuses what can't work before anything is opened.
///
/// # Errors
/// [`Kind::Usage`].
pub fn check(args: &Map) -> Result<()> {
    if args.boot.boot && connect::is_remote(&args.boot.hypervisor) {
        return Err(Error::usage("the machine would run on another host than the one with the map")
            .hint("run virtkeep on that host; or map with --listen and TLS there, and define a domain by hand"));
    }
    Ok(())
}

/// Everything that can be settled before the map listens.
pub struct Prepared {
    connection: Connection,
    hypervisor: Hypervisor,
    /// The original's XML.
    text: String,
    plan: Boot,
    uuid: String,
    user: Option<u32>,
    directory: TempDir,
    /// The files that are the domain's, and go with it.
    files: Removed,
    /// The set.
    sets: Vec<PathBuf>,
    /// Where the disks will be copied at once.
    images: Vec<(String, PathBuf)>,
    describe: String,
    detached: bool,
}

impl Prepared {
    /// Prepares the domain whose disks are `disks`, and writes the files that it needs beside them.
    ///
    /// # Errors
    /// [`Kind::Busy`] where a domain or a file is in the way; [`Kind::NotFound`] for a set without the domain's
    /// XML; of the connection.
    pub fn new(args: &Map, source: &Source, disks: &[String]) -> Result<Self> {
        let (text, config) = source.domain()?.ok_or_else(no_xml)?;
        let hypervisor = connect::settled(&args.boot.hypervisor)?;
        let connection = connect::open(&hypervisor)?;
        let name = args.boot.name.clone().unwrap_or_else(|| format!("{}-boot", config.name));
        let replaces = name == config.name;
        let kept = config.uuid.clone().filter(|_| replaces);
        refuse_existing(&connection, &name, kept.as_deref())?;
        let user = files::qemu_user(&connection, &hypervisor)?;
        let lacks = connection.lacks(&text)?;
        let directory = files::directory()?;
        let place = match &args.boot.copy_to {
            Some(place) => place_of(place)?,
            None => directory.path().to_owned(),
        };
        let sets: Vec<PathBuf> = args.chains.input.iter().filter_map(|input| input.canonicalize().ok()).collect();
        let images = match &args.boot.copy_to {
            Some(_) => {
                refuse_set(&sets, &place)?;
                images(&place, &name, disks)?
            }
            None => Vec::new(),
        };
        let firmware = Firmware::plan(source, &config, &place, &name);
        let plan = Boot {
            uuid: kept.is_none().then(|| Uuid::new_v4().to_string()),
            disks: disks.iter().cloned().collect(),
            memory: args.boot.memory,
            network: match &args.boot.network {
                Some(network) => Connect::Network(network.clone()),
                None if args.boot.original_network => Connect::AsBefore,
                None => Connect::Nothing,
            },
            emulate: lacks.kvm,
            drop_emulator: lacks.emulator,
            loader: firmware.loader,
            nvram: firmware.nvram,
            varstore: firmware.varstore,
            kernel: firmware.kernel,
            initrd: firmware.initrd,
            name,
        };
        let uuid = plan.uuid.clone().or(kept).unwrap_or_default();
        if let Some(there) = firmware.files.iter().find(|path| path.symlink_metadata().is_ok()) {
            let hint = "choose another directory with --copy-to";
            return Err(Error::new(Kind::Busy, "exists already").path(there).hint(hint));
        }
        let files = Removed(firmware.files);
        Firmware::write(source, &config, &place, user)?;
        Ok(Self {
            connection,
            hypervisor,
            text,
            plan,
            uuid,
            user,
            directory,
            files,
            sets,
            images,
            describe: source.describe(),
            detached: args.detach,
        })
    }

    /// Where the map listens by default.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("nbd.sock")
    }

    /// The user that must be able to connect to it, where that is not this one.
    pub fn user(&self) -> Option<u32> {
        self.user
    }

    /// Starts the domain; the map is served at `place`.
    ///
    /// # Errors
    /// By libvirt's code.
    pub fn start(self, place: &Place, stop: &Cancel) -> Result<Guest> {
        stop.check()?;
        let adjusted = boot(&self.text, &self.plan, &server(place)?)?;
        for target in &adjusted.removed {
            tracing::warn!("disk {target} is not part of the map: the domain runs without it");
        }
        for note in &adjusted.notes {
            tracing::info!("{note}");
        }
        let mut guard = Guard::start(&self.hypervisor, self.detached)?;
        let images = self.images.iter().map(|(_, path)| path);
        let orders = Orders {
            domain: Some(self.uuid.clone()),
            files: self.files.0.iter().chain(images).cloned().collect(),
            directory: Some(self.directory.path().to_owned()),
        };
        guard.order(&orders)?;
        let domain = self.create(&adjusted.xml)?;
        let link = Link::open_without_files(&self.hypervisor, domain.uuid())?;
        Ok(Guest::new(self, link, guard, orders))
    }

    /// Starts it as it is; if that fails, without what the host may lack.
    fn create(&self, xml: &str) -> Result<Domain> {
        let first = match self.connection.create(xml) {
            Ok(domain) => return Ok(domain),
            Err(error) => error,
        };
        tracing::debug!("{}", error::report(&first));
        if let Some(domain) = plainer(xml)?.and_then(|plain| self.connection.create(&plain).ok()) {
            tracing::warn!(
                "started with another model of the processor, and without network cards that have no network: {}",
                error::report(&first)
            );
            return Ok(domain);
        }
        Err(first.hint(
            "a host of another kind may lack the machine type; where the socket is refused, QEMU's user must be able to \
             reach it: see \"Running the machine\" in docs/map.md",
        ))
    }
}

fn server(place: &Place) -> Result<NbdServer> {
    match (place.path(), place.address()) {
        (Some(path), _) => Ok(NbdServer::Unix(path.to_owned())),
        (None, Some(mut address)) => {
            if address.ip().is_unspecified() {
                address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            Ok(NbdServer::Tcp(address))
        }
        (None, None) => Err(Error::usage("the map listens nowhere")),
    }
}

fn refuse_existing(connection: &Connection, name: &str, uuid: Option<&str>) -> Result<()> {
    for known in [Some(name), uuid].into_iter().flatten() {
        match connection.domain(known) {
            Ok(domain) => {
                let hint = format!(
                    "choose another name with --name; one that an earlier map left goes with `virsh destroy {}`",
                    domain.name()
                );
                return Err(Error::new(Kind::Busy, format!("domain {} exists already", domain.name())).hint(hint));
            }
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The directory for the copies, absolute; it is there.
fn place_of(directory: &Path) -> Result<PathBuf> {
    match directory.canonicalize() {
        Ok(place) if place.is_dir() => Ok(place),
        Ok(_) => Err(Error::usage("is no directory").path(directory).hint("--copy-to takes a directory")),
        Err(error) => Err(Error::io("find the directory for the copies", error).path(directory)),
    }
}

/// Refuses a directory that is the set.
fn refuse_set(sets: &[PathBuf], place: &Path) -> Result<()> {
    if sets.iter().any(|set| set == place) {
        return Err(Error::usage("the copies must not lie in the set").path(place).hint("choose another directory"));
    }
    Ok(())
}

/// The images of the copies of the domain's disks.
fn images(place: &Path, name: &str, disks: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let image = |disk: &String| {
        let path = place.join(format!("{}-{disk}.qcow2", name.replace('/', "_")));
        match path.symlink_metadata() {
            Ok(_) => Err(Error::new(Kind::Busy, "exists already")
                .path(path)
                .hint("choose another directory with --copy-to, or another name with --name")),
            Err(_) => Ok((disk.clone(), path)),
        }
    };
    disks.iter().map(image).collect()
}
