//! TLS with client certificates, in the file layout that QEMU uses.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::stream::Stream;
use crate::error::{Error, Kind, Result};

/// Bytes that are encrypted at a time.
const PART: usize = 64 << 10;

/// More than a record has: bytes that are taken from the network at a time.
const RECORD: usize = 18 << 10;

/// What is needed to accept TLS clients.
#[derive(Debug, Clone)]
pub struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    /// The certificates in `directory`: `server-cert.pem`, `server-key.pem`, and `ca-cert.pem`, by which
    /// clients' certificates must be signed.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Io`]; [`Kind::Usage`] for what is no certificate or does not fit.
    pub fn open(directory: &Path) -> Result<Self> {
        let unusable = |path: &Path, cause: String| {
            Error::new(Kind::Usage, "can't be used for TLS").path(path).caused_by(io::Error::other(cause)).hint(
                "the directory holds PEM files called ca-cert.pem, server-cert.pem and server-key.pem, as for QEMU",
            )
        };
        let read = |name: &str| {
            let path = directory.join(name);
            let bytes = std::fs::read(&path).map_err(|error| {
                Error::io("read", error)
                    .path(&path)
                    .hint("--tls-cert takes a directory with ca-cert.pem, server-cert.pem and server-key.pem")
            })?;
            Ok::<_, Error>((path, bytes))
        };
        let certificates = |name: &str| {
            let (path, bytes) = read(name)?;
            let list: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&bytes)
                .collect::<std::result::Result<_, _>>()
                .map_err(|error| unusable(&path, error.to_string()))?;
            if list.is_empty() { Err(unusable(&path, "no certificate in it".to_owned())) } else { Ok((path, list)) }
        };
        let (ca_path, authorities) = certificates("ca-cert.pem")?;
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(|error| unusable(&ca_path, error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(&ca_path, error.to_string()))?;
        let (path, chain) = certificates("server-cert.pem")?;
        let (key_path, key) = read("server-key.pem")?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| unusable(&key_path, error.to_string()))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain, key))
            .map_err(|error| unusable(&path, error.to_string()))?;
        Ok(Self(Arc::new(config)))
    }

    /// Goes on with TLS on a connection whose client has asked for it. The client's certificate is
    /// looked at with the first bytes received.
    ///
    /// # Errors
    /// Of the library.
    pub fn accept(&self, socket: Arc<dyn Stream>) -> io::Result<Arc<dyn Stream>> {
        let mut session = ServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?;
        session.set_buffer_limit(None);
        Ok(Arc::new(TlsStream {
            socket,
            session: Mutex::new(session),
            sending: Mutex::new(()),
            unfed: Mutex::default(),
            limit: Mutex::default(),
        }))
    }
}

/// A TLS connection. The session is locked while bytes are encrypted or decrypted, never while waiting for
/// the network; `sending` keeps encrypted bytes in order and is taken before `session`.
struct TlsStream {
    socket: Arc<dyn Stream>,
    session: Mutex<ServerConnection>,
    sending: Mutex<()>,
    /// What came, and the session has not taken yet: while there is more than a record to be read of it, it refuses.
    unfed: Mutex<Vec<u8>>,
    /// Of one call of `receive`, however many bytes come one by one.
    limit: Mutex<Option<Duration>>,
}

impl TlsStream {
    fn session(&self) -> MutexGuard<'_, ServerConnection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what the session has to send, `plain` included.
    fn flush(&self, plain: &[u8]) -> io::Result<()> {
        let _order = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sealed = Vec::with_capacity(plain.len() + 1024);
        {
            let mut session = self.session();
            session.writer().write_all(plain)?;
            while session.wants_write() {
                session.write_tls(&mut sealed)?;
            }
        }
        if sealed.is_empty() { Ok(()) } else { self.socket.send(&sealed) }
    }

    /// Gives the session of what came as much as makes something to be read, which nothing else does: how much it took,
    /// and whether it has something to send afterwards.
    fn digest(&self, mut bytes: &[u8]) -> io::Result<(usize, bool)> {
        let all = bytes.len();
        let mut session = self.session();
        while !bytes.is_empty() {
            session.read_tls(&mut bytes)?;
            match session.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() > 0 => break,
                Ok(_) => {}
                Err(error) => {
                    drop(session);
                    // The alert tells the client what is wrong.
                    let _ = self.flush(&[]);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
        Ok((all - bytes.len(), session.wants_write()))
    }

    /// Waits for bytes of the network where there are none that the session has not taken; false at their end.
    fn await_some(&self, unfed: &mut Vec<u8>) -> io::Result<bool> {
        if unfed.is_empty() {
            unfed.resize(RECORD, 0);
            let received = self.socket.receive(unfed);
            unfed.truncate(*received.as_ref().unwrap_or(&0));
            received?;
        }
        Ok(!unfed.is_empty())
    }
}

impl Stream for TlsStream {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let begin = Instant::now();
        let mut unfed = self.unfed.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.session().reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A client that leaves without saying so has left all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            let limit = *self.limit.lock().unwrap_or_else(PoisonError::into_inner);
            if limit.is_some_and(|limit| begin.elapsed() > limit) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if !self.await_some(&mut unfed)? {
                return Ok(0);
            }
            let (taken, wants_write) = self.digest(&unfed)?;
            unfed.drain(..taken);
            if wants_write {
                self.flush(&[])?;
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(PART).try_for_each(|part| self.flush(part))
    }

    fn shutdown(&self, how: Shutdown) {
        self.socket.shutdown(how);
    }

    fn set_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
        self.socket.set_limit(limit)
    }
}
