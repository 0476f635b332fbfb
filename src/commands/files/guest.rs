//! The disks of a restore point in a running appliance.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use super::place::{self, Place};
use crate::cancel::Cancel;
use crate::chain_device::ChainDevice;
use crate::cli::files::Point;
use crate::commands::Session;
use crate::commands::chains;
use crate::error::{self, Error, Kind};
use crate::guestfs::shell::Shell;
use crate::guestfs::volumes::{self, Keys, System, Volume};
use crate::host::temporary;
use crate::mapped::{Cache, MappedDisk};
use crate::nbd::server::export::{Exports, Named};
use crate::nbd::server::listener::{self, Listener};
use crate::nbd::uri;
use crate::units::{MIB, format_bytes};

/// Memory for blocks that were read.
const CACHE: usize = 48 * MIB as usize;
/// Most that a file with a key holds.
const MAX_KEY: u64 = 64 << 10;

/// A restore point that can be looked into.
pub struct Guest {
    /// The appliance.
    pub shell: Shell,
    /// Targets of its disks.
    pub targets: Vec<String>,
    /// What is on them.
    pub volumes: Vec<Volume>,
    systems: Option<Vec<System>>,
    mounted: Option<String>,
}

/// Runs `work` with the point's disks in an appliance, which ends with it. Of `places` the disks that the point does
/// not have are refused before.
///
/// # Errors
/// [`Kind::NotFound`] without guestfish, before anything else is done; what fails about the set; what fails about
/// the appliance; what `work` returns.
pub fn with<'p, T>(
    args: &Point,
    places: impl IntoIterator<Item = &'p Place>,
    session: &Session,
    work: impl FnOnce(&mut Guest) -> Result<T>,
) -> Result<T> {
    let keys = read_keys(args)?;
    let (chains, _) = chains::open(&args.chains, session)?;
    let targets: Vec<String> = chains.iter().map(|chain| chain.target().to_owned()).collect();
    places.into_iter().try_for_each(|place| place.refuse_unknown_disk(&targets))?;
    let directory = tempfile::Builder::new()
        .prefix("virtkeep.")
        .tempdir_in(temporary())
        .map_err(|error| Error::io("create a directory for the socket", error).path(temporary()))?;
    // Nobody else can enter the directory.
    let path = directory.path().join("disks.sock");
    if path.as_os_str().len() > uri::MAX_SOCKET_PATH {
        return Err(Error::usage("the path is too long for a socket").path(&path).hint("set a shorter $TMPDIR").into());
    }
    let listener = UnixListener::bind(&path).map_err(|error| Error::io("listen", error).path(&path))?;
    let listener = Listener::Unix(listener);
    let disks = exports(chains);

    let end = Cancel::new();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| listener::serve(&listener, Exports::new(disks), None, &end));
        let result = Guest::start(&path, targets, &keys, session).and_then(|mut guest| work(&mut guest));
        // The appliance is gone: it went with the guest.
        end.cancel();
        let served = server.join().unwrap_or_else(|_| Err(Error::panicked()));
        let done = result?;
        served?;
        Ok(done)
    })
}

impl Guest {
    fn start(socket: &Path, targets: Vec<String>, keys: &Keys, session: &Session) -> Result<Self> {
        tracing::info!("starting the appliance (10 to 60 s without KVM)…");
        let mut shell = Shell::launch(socket, &targets, &session.cancel)?;
        let volumes = volumes::find(&mut shell, &targets, keys)?;
        Ok(Self { shell, targets, volumes, systems: None, mounted: None })
    }

    /// The operating systems, looked for once.
    ///
    /// # Errors
    /// Of guestfish's.
    pub fn systems(&mut self) -> error::Result<&[System]> {
        if self.systems.is_none() {
            tracing::debug!("looking for operating systems");
            self.systems = Some(volumes::inspect(&mut self.shell)?);
            // It has mounted and unmounted.
            self.mounted = None;
        }
        Ok(self.systems.as_deref().unwrap_or_default())
    }

    /// Mounts what `place` is in, read-only, and nothing else.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where there is no such thing, [`Kind::Usage`] where it could be several,
    /// [`Kind::Unsupported`] where it can't be mounted.
    pub fn enter(&mut self, place: &Place) -> error::Result<()> {
        let key = place.name.clone().unwrap_or_default();
        if self.mounted.as_deref() == Some(key.as_str()) {
            return Ok(());
        }
        let mounts = place::mounts(self, place)?;
        self.shell.call("umount-all", &[])?;
        self.mounted = None;
        for (position, (mount_point, device)) in mounts.iter().enumerate() {
            let mounted = self.shell.call("mount-ro", &[device.as_bytes(), mount_point.as_bytes()]);
            let Err(error) = mounted else { continue };
            if error.kind() == Kind::Cancelled {
                return Err(error);
            }
            let name = self.name_of(device);
            if position == 0 {
                return Err(Error::unsupported(format!("{name} can't be mounted")).caused_by(error).hint(
                    "`virtkeep map -i SET` serves the disk, and `virt-rescue --ro --format=raw -a URI` gives a shell \
                     to mend or look at it",
                ));
            }
            tracing::warn!(
                "{name} can't be mounted at {}, as the guest does: {}",
                super::text::shown(mount_point.as_bytes()),
                error::report(&error)
            );
        }
        self.mounted = Some(key);
        Ok(())
    }

    /// What people call a device.
    pub fn name_of(&self, device: &str) -> String {
        let volume = self.volumes.iter().find(|volume| volume.device == device);
        volume.map_or_else(|| device.to_owned(), |volume| volume.name.clone())
    }
}

fn exports(chains: Vec<ChainDevice>) -> Vec<Named> {
    let cache = Cache::new(CACHE);
    let named = |chain: ChainDevice| {
        let (name, description) = (chain.target().to_owned(), format_bytes(chain.size()));
        Named { name, description, export: Arc::new(MappedDisk::new(chain, &cache)) }
    };
    chains.into_iter().map(named).collect()
}

fn read_keys(args: &Point) -> error::Result<Keys> {
    use std::io::Read;
    let mut keys = Keys::new();
    for (name, path) in &args.key {
        let failed = |error| Error::io("read the key", error).path(path);
        let mut text = Vec::new();
        std::fs::File::open(path).map_err(failed)?.take(MAX_KEY).read_to_end(&mut text).map_err(failed)?;
        let mut key = text.split(|&byte| byte == b'\n').next().unwrap_or_default().to_vec();
        if key.last() == Some(&b'\r') {
            key.pop();
        }
        if key.is_empty() || key.contains(&0) {
            return Err(Error::usage("its first line is no passphrase").path(path));
        }
        keys.insert(name.clone(), key);
    }
    Ok(keys)
}
