//! `virtkeep map`: a restore point's disks over NBD.
//!
//! ```text
//! open the chains -> overlays, if clients may write -> listen -> say where
//!   -> serve until a signal, the end of --exec, of the domain, or of what shows the disks -> overlays closed
//! ```

pub(super) mod boot;
mod detach;
mod place;
mod source;
mod tool;
pub mod unmap;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use self::boot::{Guest, Prepared};
use self::place::Place;
use self::tool::User;
use super::Session;
use crate::cancel::Cancel;
use crate::chain_device::ChainDevice;
use crate::cli::map::Map;
use crate::error::{self, Error};
use crate::exit::Exit;
use crate::host::temporary;
use crate::mapped::dumped::Dumped;
use crate::mapped::overlay::Overlay;
use crate::mapped::{Cache, MappedDisk};
use crate::nbd::server::export::{Export, Exports, Named};
use crate::nbd::server::listener;
use crate::nbd::server::tls::Acceptor;
use crate::signals;
use crate::units::{count, format_bytes};

/// Maps.
pub fn run(args: &Map, session: &Session) -> Result<Exit> {
    if args.detach && !detach::is_child() {
        return detach::start();
    }
    signals::is_the_end();
    tool::check(args)?;
    boot::check(args)?;
    let tls = args.tls_cert.as_deref().map(Acceptor::open).transpose()?;
    let (chains, source) = source::open(args, session)?;
    check_disks(args, &chains)?;
    let targets: Vec<String> = chains.iter().map(|chain| chain.target().to_owned()).collect();
    let disks = disks(args, chains)?;
    let prepared = source.map(|source| Prepared::new(args, &source, &targets)).transpose()?;
    let place = Place::listen(args, prepared.as_ref())?;
    let uris: Vec<(String, String)> =
        disks.named.iter().map(|disk| (disk.name.clone(), place.uri(&disk.name))).collect();

    // Whoever uses the disks ends before the server does.
    let (stop, end) = (session.cancel.child(), Cancel::new());
    let served = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let served = listener::serve(place.listener(), Exports::new(disks.named.clone()), tls, &end);
            stop.cancel();
            served
        });
        let used = use_disks(args, &uris, &place, prepared, session, &stop);
        end.cancel();
        let served = server.join().unwrap_or_else(|_| Err(Error::panicked()));
        let exit = used?;
        served?;
        Ok::<_, anyhow::Error>(exit)
    });
    // What was written is safe before anything else is said.
    let closed = disks.overlays.iter().try_for_each(|overlay| overlay.close());
    drop(place);
    let exit = served?;
    closed?;
    Ok(exit)
}

/// Shows the disks, or runs the machine, as the options say, until they are not needed any more.
fn use_disks(
    args: &Map,
    uris: &[(String, String)],
    place: &Place,
    prepared: Option<Prepared>,
    session: &Session,
    stop: &Cancel,
) -> Result<Exit> {
    let mut guest = prepared.map(|prepared| prepared.start(place, stop)).transpose()?;
    let user = User::start(args, uris, place, stop)?;
    if let Some(guest) = &guest {
        guest.tell();
        if args.exec.is_none() && args.boot.copy_to.is_none() {
            guest.tell_way_to_keep();
        }
        if let Some(seconds) = args.boot.wait_agent {
            guest.wait_agent(Duration::from_secs(seconds), stop)?;
        }
    }
    announce(args, uris, guest.as_ref())?;
    if let Some(guest) = guest.as_mut().filter(|_| args.boot.copy_to.is_some()) {
        guest.hand_over(args.boot.define, session, stop)?;
        return Ok(Exit::Done);
    }
    let exit = user.wait(uris, place, guest.as_mut(), stop)?;
    if let Some(guest) = guest {
        guest.end()?;
    }
    Ok(exit)
}

/// What is served.
struct Disks {
    named: Vec<Named>,
    overlays: Vec<Arc<Overlay>>,
}

/// Refuses options that fit one disk only.
fn check_disks(args: &Map, chains: &[ChainDevice]) -> error::Result<()> {
    let option = match (&args.overlay, &args.device) {
        (Some(_), _) => "--overlay",
        (_, Some(_)) => "--device",
        _ => return Ok(()),
    };
    if chains.len() == 1 {
        return Ok(());
    }
    let targets: Vec<&str> = chains.iter().map(ChainDevice::target).collect();
    Err(Error::usage(format!("{option} is for one disk, and the restore point has {}", targets.len()))
        .hint(format!("choose one with -d: {}", targets.join(", "))))
}

fn disks(args: &Map, chains: Vec<ChainDevice>) -> error::Result<Disks> {
    let cache = Cache::new(usize::try_from(args.cache).unwrap_or(usize::MAX));
    let mut disks = Disks { named: Vec::new(), overlays: Vec::new() };
    for chain in chains {
        let (name, layers) = (chain.target().to_owned(), chain.layers().len());
        let description = format!(
            "{}, {} of {}",
            format_bytes(chain.size()),
            if layers == 1 { "full" } else { "chain" },
            count(layers, "stream")
        );
        let disk = Arc::new(MappedDisk::new(chain, &cache));
        let export: Arc<dyn Export> = if args.writable || args.boot.boot || args.overlay.is_some() {
            let overlay = match &args.overlay {
                Some(path) => {
                    refuse_set(args, path)?;
                    Overlay::open(disk, path)?
                }
                None => Overlay::temporary(disk, &overlay_directory(args))?,
            };
            let overlay = Arc::new(overlay);
            disks.overlays.push(Arc::clone(&overlay));
            overlay
        } else {
            disk
        };
        let export = if args.classic.hexdump { Arc::new(Dumped(export)) } else { export };
        let name = args.classic.export_name.clone().unwrap_or(name);
        disks.named.push(Named { name, description, export });
    }
    Ok(disks)
}

fn overlay_directory(args: &Map) -> PathBuf {
    args.overlay_dir.clone().unwrap_or_else(temporary)
}

/// A file among backups could be taken for part of the set.
fn refuse_set(args: &Map, path: &Path) -> error::Result<()> {
    let absolute = std::path::absolute(path).map_err(|error| Error::io("find", error).path(path))?;
    let directory = absolute.parent().and_then(|parent| parent.canonicalize().ok());
    let is_set = |input: &PathBuf| input.canonicalize().ok().filter(|input| input.is_dir()) == directory;
    match directory {
        Some(_) if args.chains.input.iter().any(is_set) => {
            Err(Error::usage("the overlay must not lie in the set").path(path).hint("choose another directory"))
        }
        _ => Ok(()),
    }
}

/// Says where the disks are, or what the domain is called: on standard output, unless a command has that.
fn announce(args: &Map, uris: &[(String, String)], guest: Option<&Guest>) -> Result<()> {
    if args.exec.is_none() {
        // At once: who reads a line has them all.
        let lines: String = match guest {
            Some(guest) => format!("{}\n", guest.name()),
            None => uris.iter().map(|(_, uri)| format!("{uri}\n")).collect(),
        };
        let mut out = std::io::stdout().lock();
        let written = out.write_all(lines.as_bytes()).and_then(|()| out.flush());
        written.map_err(|error| Error::io("write to stdout", error))?;
    }
    detach::ready(args)?;
    tracing::debug!("ready");
    Ok(())
}
