//! Sockets, counts of connections, and the end of a server.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::export::Exports;
use super::gate::Gate;
use super::handshake::{self, Outcome};
use super::option::{Options, Tls};
use super::request::Rules;
use super::stream::Stream;
use super::tls::Acceptor;
use super::transmission::Transmission;
use crate::cancel::Cancel;
use crate::error::{Error, Result};

/// Clients in transmission.
const MAX_CLIENTS: usize = 64;
/// Clients in the handshake. One more, and the oldest of them goes: it had its time.
const MAX_HANDSHAKES: usize = 32;
/// How often the end is looked for.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Time for what is in flight when the server ends.
const GRACE: Duration = Duration::from_secs(3);

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket.
    Unix(UnixListener),
    /// A TCP port.
    Tcp(TcpListener),
}

impl Listener {
    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            // A client that left between poll and accept must not hold the server up.
            Self::Unix(listener) => listener.set_nonblocking(true),
            Self::Tcp(listener) => listener.set_nonblocking(true),
        }
    }

    fn accept(&self) -> io::Result<Arc<dyn Stream>> {
        match self {
            Self::Unix(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nonblocking(false)?;
                Ok(Arc::new(stream))
            }
            Self::Tcp(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nonblocking(false)?;
                // Replies are small and must not wait for more.
                stream.set_nodelay(true)?;
                Ok(Arc::new(stream))
            }
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// Serves `exports` on `listener` until `cancel` is set and what was in flight is answered, or has had its
/// time.
///
/// # Errors
/// Of the listening socket.
pub fn serve(listener: &Listener, exports: Exports, tls: Option<Acceptor>, cancel: &Cancel) -> Result<()> {
    let failed = |error: io::Error| Error::io("listen", error);
    listener.set_nonblocking().map_err(failed)?;
    let places = std::thread::available_parallelism().map_or(2, usize::from);
    let server = Arc::new(Server {
        exports,
        tls,
        gate: Arc::new(Gate::new(places)),
        clients: Mutex::default(),
        left: Condvar::new(),
    });
    while !cancel.is_cancelled() {
        let mut waiting = [PollFd::from_borrowed_fd(listener.fd(), PollFlags::IN)];
        match poll(&mut waiting, Some(&TICK)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(failed(error.into())),
        }
        match listener.accept() {
            Ok(stream) => server.start(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // No descriptors left, say: that passes when a client goes.
                tracing::warn!("a client could not be accepted: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
    server.end();
    Ok(())
}

struct Server {
    exports: Exports,
    tls: Option<Acceptor>,
    gate: Arc<Gate>,
    clients: Mutex<Clients>,
    left: Condvar,
}

#[derive(Default)]
struct Clients {
    next: u64,
    all: BTreeMap<u64, Client>,
    told: bool,
}

struct Client {
    stream: Arc<dyn Stream>,
    transmits: bool,
}

impl Server {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread for a new client.
    fn start(self: &Arc<Self>, stream: Arc<dyn Stream>) {
        let client = {
            let mut clients = self.clients();
            let beginning = clients.all.values().filter(|client| !client.transmits);
            if beginning.clone().count() >= MAX_HANDSHAKES {
                // Numbers ascend: the first is the oldest.
                if let Some(oldest) = beginning.clone().next() {
                    oldest.stream.shutdown(Shutdown::Both);
                }
            }
            // Those that were told to go take a moment; meanwhile nobody else is accepted.
            let deadline = Instant::now() + Duration::from_secs(1);
            while clients.all.len() >= MAX_CLIENTS + MAX_HANDSHAKES {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return;
                }
                clients = self.left.wait_timeout(clients, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            clients.next += 1;
            let number = clients.next;
            clients.all.insert(number, Client { stream: Arc::clone(&stream), transmits: false });
            number
        };
        let server = Arc::clone(self);
        let work = move || {
            // Leaves the list even if the thread panics.
            let _listed = Listed { server: &server, client };
            if let Err(error) = server.client(client, stream) {
                tracing::debug!("client {client}: {error}");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("nbd".to_owned()).spawn(work) {
            tracing::warn!("a client could not be served: {error}");
            self.clients().all.remove(&client);
        }
    }

    /// One client, from its greeting to its end.
    fn client(&self, client: u64, mut stream: Arc<dyn Stream>) -> io::Result<()> {
        let deadline = Instant::now() + handshake::LIMIT;
        let tls = if self.tls.is_some() { Tls::Required } else { Tls::None };
        let mut options = Options::new(&self.exports, tls);
        let mut outcome = handshake::begin(&*stream, &mut options, deadline)?;
        if let (Outcome::StartTls, Some(acceptor)) = (&outcome, &self.tls) {
            stream = acceptor.accept(stream)?;
            outcome = handshake::resume(&*stream, &mut options, deadline)?;
        }
        let Outcome::Agreed(agreed) = outcome else {
            stream.shutdown(Shutdown::Both);
            return Ok(());
        };
        if !self.may_transmit(client) {
            stream.shutdown(Shutdown::Both);
            return Ok(());
        }
        tracing::debug!("client {client} uses {}", agreed.export.name);
        let export = Arc::clone(&agreed.export.export);
        let rules = Rules {
            size: export.size(),
            writable: export.is_writable(),
            structured: agreed.structured,
            status: agreed.status,
        };
        Transmission::new(stream, export, rules, Arc::clone(&self.gate), client).run();
        tracing::debug!("client {client} has left");
        Ok(())
    }

    /// Counts a client in, if there is room.
    fn may_transmit(&self, client: u64) -> bool {
        let mut clients = self.clients();
        let room = clients.all.values().filter(|client| client.transmits).count() < MAX_CLIENTS;
        if let Some(client) = clients.all.get_mut(&client) {
            client.transmits = room;
        }
        if !room && !std::mem::replace(&mut clients.told, true) {
            tracing::warn!("there are {MAX_CLIENTS} connections already: more are closed until some of them end");
        }
        room
    }

    /// Lets what is in flight end.
    fn end(&self) {
        for (how, patience) in [(Shutdown::Read, GRACE), (Shutdown::Both, Duration::from_secs(1))] {
            let deadline = Instant::now() + patience;
            let mut clients = self.clients();
            for client in clients.all.values() {
                // Nobody waits for a client that only begins.
                client.stream.shutdown(if client.transmits { how } else { Shutdown::Both });
            }
            while !clients.all.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                clients = self.left.wait_timeout(clients, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

/// A client's place in the list, given back when dropped.
struct Listed<'s> {
    server: &'s Server,
    client: u64,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        if let Some(client) = self.server.clients().all.remove(&self.client) {
            client.stream.shutdown(Shutdown::Both);
        }
        self.server.left.notify_all();
    }
}
