//! `virtkeep boot-guard`, a process that a map starts for itself: should the map be killed while a domain runs from
//! it, this ends the domain and removes its files. Both sides of it.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::cli::Hypervisor;
use crate::commands::connect;
use crate::commands::minder::{self, Minder};
use crate::error::{self, Kind};
use crate::exit::Exit;
use crate::libvirt::connection::Connection;

/// The hidden command that it is.
const NAME: &str = "boot-guard";
/// A daemon that died together with the map gets this long to come back.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to do when the map is gone.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Orders {
    /// The UUID of the domain to end.
    pub domain: Option<String>,
    /// Files to remove.
    pub files: Vec<PathBuf>,
    /// A directory to remove with all that is in it.
    pub directory: Option<PathBuf>,
}

impl Orders {
    /// The same, and these files to remove.
    pub fn with(&self, files: &[PathBuf]) -> Self {
        Self { files: [&self.files, files].concat(), ..self.clone() }
    }
}

/// The map's side. Dropped, the guard does what it was told last.
#[derive(Debug)]
pub struct Guard(Minder);

impl Guard {
    /// Starts it and waits until it has a connection of its own. `hypervisor` has the password itself. One of a map
    /// that leaves its terminal must not hold that, and says nothing.
    ///
    /// # Errors
    /// Where it can't be started or can't connect; it has said why.
    pub fn start(hypervisor: &Hypervisor, detached: bool) -> error::Result<Self> {
        Minder::start(NAME, hypervisor, detached).map(Self)
    }

    /// Says what to do from now on: before it is there to be undone.
    ///
    /// # Errors
    /// [`Kind::Io`] if the guard is gone.
    pub fn order(&mut self, orders: &Orders) -> error::Result<()> {
        self.0.tell(orders)
    }
}

/// The process.
///
/// # Errors
/// Where it can't guard: no domain is started then.
pub fn run() -> Result<Exit> {
    let lines = minder::lines()?;
    let Some(hypervisor) = minder::first::<Hypervisor>(&lines)? else { return Ok(Exit::Done) };
    let connection = connect::open(&hypervisor)?;
    minder::say_ready()?;
    let mut orders = Orders::default();
    for line in lines {
        // A line cut off by the writer's death says nothing new.
        orders = serde_json::from_str(&line).unwrap_or(orders);
    }
    follow(&hypervisor, connection, &orders)?;
    Ok(Exit::Done)
}

fn follow(hypervisor: &Hypervisor, connection: Connection, orders: &Orders) -> error::Result<()> {
    let ended = orders.domain.as_deref().map_or(Ok(()), |uuid| persist(hypervisor, connection, uuid));
    for file in &orders.files {
        remove(file, std::fs::remove_file(file));
    }
    if let Some(directory) = &orders.directory {
        remove(directory, std::fs::remove_dir_all(directory));
    }
    ended
}

fn remove(path: &Path, removed: std::io::Result<()>) {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("{} is left: {error}", path.display());
        }
        _ => {}
    }
}

/// Tries until the domain is gone or the time is over.
fn persist(hypervisor: &Hypervisor, mut connection: Connection, uuid: &str) -> error::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match end(&connection, uuid) {
            Err(error) if Instant::now() < deadline => {
                tracing::debug!("{}", error::report(&error));
                thread::sleep(Duration::from_secs(1));
                if !connection.is_alive() {
                    match connect::open(hypervisor) {
                        Ok(new) => connection = new,
                        Err(error) => tracing::debug!("{}", error::report(&error)),
                    }
                }
            }
            other => return other,
        }
    }
}

/// Ends the domain if it still runs.
fn end(connection: &Connection, uuid: &str) -> error::Result<()> {
    let domain = match connection.domain(uuid) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    if domain.is_active()? {
        domain.destroy()?;
        tracing::warn!("the map has ended: domain {}, which ran from it, is ended", domain.name());
    }
    Ok(())
}
