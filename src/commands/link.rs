//! The way to a domain. A daemon may be restarted during a run (a package upgrade does): the job and the
//! NBD server are QEMU's and go on, so the connection is simply opened again.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::cli::Hypervisor;
use crate::commands::connect;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(200);

/// A domain with the connection that it is reached by.
#[derive(Debug)]
pub struct Reached {
    /// The connection.
    pub connection: Connection,
    /// The domain.
    pub domain: Domain,
}

/// Dereferences to the domain: that is what is wanted.
impl Deref for Reached {
    type Target = Domain;

    fn deref(&self) -> &Domain {
        &self.domain
    }
}

/// The way to one domain; clones share the connection.
#[derive(Debug, Clone)]
pub struct Link {
    hypervisor: Hypervisor,
    host: Host,
    current: Arc<Mutex<Arc<Reached>>>,
    /// That it is lost was said.
    is_lost: Arc<AtomicBool>,
}

impl Link {
    /// Connects as the options say and looks up the domain by name or UUID.
    ///
    /// # Errors
    /// Of the connection; [`Kind::NotFound`] for the domain.
    pub fn open(hypervisor: &Hypervisor, domain: &str) -> Result<Self> {
        let hypervisor = connect::settled(hypervisor)?;
        let reached = reach(&hypervisor, None, domain)?;
        let host = reached.connection.host().clone();
        Ok(Self::with(hypervisor, host, reached))
    }

    /// As [`Link::open`], for what libvirt itself does: the machine's files are not got at.
    ///
    /// # Errors
    /// As for [`Link::open`].
    pub fn open_without_files(hypervisor: &Hypervisor, domain: &str) -> Result<Self> {
        let host = Host::Local;
        let reached = reach(hypervisor, Some(&host), domain)?;
        Ok(Self::with(hypervisor.clone(), host, reached))
    }

    fn with(hypervisor: Hypervisor, host: Host, reached: Reached) -> Self {
        Self { hypervisor, host, current: Arc::new(Mutex::new(Arc::new(reached))), is_lost: Arc::default() }
    }

    /// How the hypervisor is reached, with URI and password themselves.
    pub fn hypervisor(&self) -> &Hypervisor {
        &self.hypervisor
    }

    /// The domain's machine.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The domain's name.
    pub fn domain(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).domain.name().to_owned()
    }

    /// The domain, by the connection that is open or, if that is lost, by a new one.
    ///
    /// # Errors
    /// Of the one attempt to connect.
    pub fn reach(&self) -> Result<Arc<Reached>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if !current.connection.is_alive() {
            if !self.is_lost.swap(true, Ordering::SeqCst) {
                tracing::info!("the connection to libvirt is lost, trying again");
            }
            *current = Arc::new(reach(&self.hypervisor, Some(&self.host), current.domain.uuid())?);
            self.is_lost.store(false, Ordering::SeqCst);
            tracing::info!("connected to libvirt again");
        }
        Ok(Arc::clone(&current))
    }

    /// As [`Link::reach`], but tries for as long as `time`: a daemon takes a moment to start.
    ///
    /// # Errors
    /// Of the last attempt; [`Kind::Cancelled`].
    pub fn reach_within(&self, time: Duration, cancel: &Cancel) -> Result<Arc<Reached>> {
        let deadline = Instant::now() + time;
        loop {
            match self.reach() {
                Err(error) if Instant::now() < deadline => {
                    cancel.check()?;
                    tracing::debug!("no connection yet: {error}");
                    thread::sleep(RETRY);
                }
                other => return other,
            }
        }
    }

    /// What `call` gives. Where the connection is lost meanwhile, it is called again with a new one: that a
    /// daemon has gone shows in the call that meets it.
    ///
    /// # Errors
    /// Of the call; as for [`Link::reach_within`].
    pub fn ask<T, E: From<Error>>(
        &self,
        time: Duration,
        cancel: &Cancel,
        call: impl Fn(&Arc<Reached>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut reached = self.reach_within(time, cancel)?;
        loop {
            match call(&reached) {
                Err(_) if !reached.connection.is_alive() => reached = self.reach_within(time, cancel)?,
                other => return other,
            }
        }
    }
}

fn reach(hypervisor: &Hypervisor, host: Option<&Host>, domain: &str) -> Result<Reached> {
    let connection = connect::open_with_host(hypervisor, host)?;
    let domain = connection.domain(domain)?;
    Ok(Reached { connection, domain })
}

/// What a call gives, if it returns within `limit`. A QEMU that hangs holds up every call about its
/// domain for ever; the thread is left behind then.
///
/// # Errors
/// Of the call; [`Kind::Busy`] if it did not return.
pub fn bounded<T: Send + 'static>(
    what: &str,
    limit: Duration,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (send, receive) = std::sync::mpsc::channel();
    let thread = thread::Builder::new().name("libvirt-call".to_owned());
    // Nobody may be waiting any more.
    let started = thread.spawn(move || drop(send.send(call())));
    started.map_err(|error| Error::io("start a thread", error))?;
    receive.recv_timeout(limit).unwrap_or_else(|_| {
        Err(Error::new(Kind::Busy, format!("{what}: libvirt or QEMU does not answer within {} s", limit.as_secs())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_hang_are_left_behind() {
        let limit = Duration::from_millis(50);
        let error = bounded("ask", limit, || {
            thread::sleep(Duration::from_secs(5));
            Ok(())
        });
        assert_eq!(error.unwrap_err().kind(), Kind::Busy);
        assert_eq!(bounded("ask", Duration::from_secs(5), || Ok(7)).unwrap(), 7);
    }
}
