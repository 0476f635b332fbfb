//! `virtkeep boot-guard`, a process that a map starts for itself: should the map be killed while a domain runs from
//! it, this ends the domain and removes its files. Both sides of it.
//!
//! Lines of JSON on its standard input say what to do, and its end when: at a pipe's end it makes no difference how
//! the writer died.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli::Hypervisor;
use crate::commands::connect;
use crate::error::{self, Error, Kind};
use crate::exit::Exit;
use crate::libvirt::connection::Connection;

/// What it says when it is ready.
const READY: &str = "ready";
/// A daemon that died together with the map gets this long to come back.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the end of a map waits for the guard's.
const GOODBYE: Duration = Duration::from_secs(5);

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

/// The map's side. Dropped, the guard does what it was told last.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    /// None only while dropping.
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts it and waits until it has a connection of its own. `hypervisor` has the password itself. One of a map
    /// that leaves its terminal must not hold that, and says nothing.
    ///
    /// # Errors
    /// Where it can't be started or can't connect; it has said why.
    pub fn start(hypervisor: &Hypervisor, detached: bool) -> error::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("virtkeep").arg("boot-guard").stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        if detached {
            command.stderr(Stdio::null());
        }
        let mut child = command.spawn().map_err(|error| Error::io("start the guard", error))?;
        let (pipe, answers) = (child.stdin.take(), child.stdout.take());
        let mut guard = Self { child, pipe };
        guard.send(hypervisor)?;
        let mut answer = String::new();
        let read = answers.map(|pipe| BufReader::new(pipe).read_line(&mut answer));
        match read {
            Some(Ok(_)) if answer.trim_end() == READY => Ok(guard),
            _ => Err(Error::new(Kind::Io, "the guard did not start")),
        }
    }

    /// Says what to do from now on: before it is there to be undone.
    ///
    /// # Errors
    /// [`Kind::Io`] if the guard is gone.
    pub fn order(&mut self, orders: &Orders) -> error::Result<()> {
        self.send(orders)
    }

    fn send(&mut self, message: &impl Serialize) -> error::Result<()> {
        let failed = |error: std::io::Error| Error::io("tell the guard", error);
        let mut line = serde_json::to_vec(message).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        // A child without the pipe that was asked for does not happen.
        self.pipe.as_mut().map_or(Ok(()), |pipe| pipe.write_all(&line)).map_err(failed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // One that still tries is left to itself: it says on stderr how that ends.
        let deadline = Instant::now() + GOODBYE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The process.
///
/// # Errors
/// Where it can't guard: no domain is started then.
pub fn run() -> Result<Exit> {
    // They are for the map, and reach us at a terminal's or a service's end.
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))
            .map_err(|error| Error::io("set up signal handling", error))?;
    }
    let mut lines = std::io::stdin().lock().lines().map_while(std::result::Result::ok);
    let Some(first) = lines.next() else { return Ok(Exit::Done) };
    let bad = |error| Error::usage("this command is for virtkeep's own use").caused_by(error);
    let hypervisor: Hypervisor = serde_json::from_str(&first).map_err(bad)?;
    let connection = connect::open(&hypervisor)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}").and_then(|()| out.flush()).map_err(|error| Error::io("write to stdout", error))?;
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
