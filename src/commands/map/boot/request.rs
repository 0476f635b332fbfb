//! What `virtkeep unmap --copy-to` asks of a map whose domain runs: both sides of it.
//!
//! A line of JSON with the order, then lines of JSON with how far it is, the last of which says how it ended. The
//! order lives as long as the connection: who interrupts `unmap` has asked for nothing. The socket has a name made of
//! the map's process number, in the namespace of names that are no files (unix(7), "abstract").

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, geteuid, getpid};
use serde::{Deserialize, Serialize};

use crate::commands::Session;
use crate::error::{Error, Kind, Result, report};

/// How often the asking side looks for a signal; how long the map waits for an order that was announced.
const TICK: Duration = Duration::from_millis(200);

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The directory for the images, absolute.
    pub copy_to: PathBuf,
    /// The domain is to be defined.
    pub define: bool,
}

/// What the map says.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// So many bytes of so many are copied.
    Copied(u64, u64),
    /// It is done, and this is to be said of it.
    Kept(Vec<String>),
    /// It is not: why, and what to do about it.
    Failed(String, Option<String>),
}

/// The map's side: where orders come in.
#[derive(Debug)]
pub struct Requests(UnixListener);

/// An order, and who waits for it.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub order: Order,
    stream: UnixStream,
}

impl Requests {
    /// Listens.
    ///
    /// # Errors
    /// [`Kind::Io`]: somebody has the name.
    pub fn listen() -> Result<Self> {
        let failed = |error| Error::io("listen for orders", error);
        let listener = UnixListener::bind_addr(&address(getpid()).map_err(failed)?).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self(listener))
    }

    /// An order that has come, of this user or root. Others are not answered.
    pub fn next(&self) -> Option<Request> {
        let (stream, _) = self.0.accept().ok()?;
        let peer = socket_peercred(&stream).ok()?.uid;
        if peer != geteuid() && !peer.is_root() {
            return None;
        }
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(TICK)).ok()?;
        stream.set_write_timeout(Some(TICK)).ok()?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).ok()?;
        Some(Request { order: serde_json::from_str(&line).ok()?, stream })
    }
}

impl Request {
    /// Says how far it is.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] where nobody waits any more.
    pub fn copied(&mut self, done: u64, total: u64) -> Result<()> {
        self.say(&Reply::Copied(done, total)).map_err(|_| Error::cancelled())
    }

    /// Says how it ended.
    pub fn end(mut self, result: &Result<Vec<String>>) {
        let reply = match result {
            Ok(said) => Reply::Kept(said.clone()),
            Err(error) => Reply::Failed(report(error), error.hint_text().map(str::to_owned)),
        };
        // It is in the map's own messages, too.
        let _ = self.say(&reply);
    }

    fn say(&mut self, reply: &Reply) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        self.stream.write_all(&line)
    }
}

/// Asks the map `process` and waits until it is done.
///
/// # Errors
/// [`Kind::Unsupported`] for a map that takes no orders; as the map says; [`Kind::Cancelled`].
pub fn ask(process: Pid, order: &Order, session: &Session) -> Result<()> {
    let stream = connect(process)?;
    let lost = |error| Error::io("hear of the map", error);
    stream.set_read_timeout(Some(TICK)).map_err(lost)?;
    let mut text = serde_json::to_vec(order).map_err(|error| lost(error.into()))?;
    text.push(b'\n');
    (&stream).write_all(&text).map_err(lost)?;
    let (mut answers, mut line, mut progress) = (BufReader::new(&stream), Vec::new(), session.display.follow("copied"));
    loop {
        session.cancel.check()?;
        // What came of a line stays in it when the time is over.
        match answers.read_until(b'\n', &mut line) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) => return Err(lost(error)),
            Ok(0) => return Err(Error::new(Kind::Io, "the map ended before the copies were complete")),
            Ok(_) => {}
        }
        let bad = |error| Error::new(Kind::Protocol, "the map answers with something else").caused_by(error);
        match serde_json::from_slice(&line).map_err(bad)? {
            Reply::Copied(done, total) => progress.at(done, total),
            Reply::Kept(said) => {
                drop(progress);
                said.iter().for_each(|line| tracing::info!("{line}"));
                return Ok(());
            }
            Reply::Failed(message, hint) => {
                let error = Error::new(Kind::Io, message);
                return Err(match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                });
            }
        }
        line.clear();
    }
}

/// Connects to the map itself: anybody can take a name.
fn connect(process: Pid) -> Result<UnixStream> {
    let none = || {
        Error::unsupported(format!("no domain runs from map {}", process.as_raw_nonzero())).hint(
            "--copy-to is for a map with --boot, without --exec, of this user; one that copies already takes no orders",
        )
    };
    let stream = address(process).and_then(|address| UnixStream::connect_addr(&address)).map_err(|_| none())?;
    match socket_peercred(&stream) {
        Ok(peer) if peer.pid == process => Ok(stream),
        _ => Err(none()),
    }
}

fn address(process: Pid) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("virtkeep-boot.{}", process.as_raw_nonzero()))
}
