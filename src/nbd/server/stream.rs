//! The bytes of a connection. Reading and writing take `&self`: one thread receives while others send.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Both directions of a connection.
pub trait Stream: Send + Sync {
    /// Reads what is there, at least a byte; 0 is the end.
    ///
    /// # Errors
    /// Of the connection; a time limit is [`io::ErrorKind::WouldBlock`].
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of it. Calls of several threads must not overlap.
    ///
    /// # Errors
    /// Of the connection.
    fn send(&self, bytes: &[u8]) -> io::Result<()>;

    /// Ends one direction or both; what waits in it returns.
    fn shutdown(&self, how: Shutdown);

    /// How long one call may wait; none: for ever.
    ///
    /// # Errors
    /// Of the system.
    fn set_limit(&self, limit: Option<Duration>) -> io::Result<()>;
}

/// Both kinds of socket have the same calls, and no trait of the standard library's for them.
macro_rules! impl_stream {
    ($($socket:ty),*) => {
        $(
            impl Stream for $socket {
                fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
                    let mut reader = self;
                    again(|| reader.read(buffer))
                }

                fn send(&self, bytes: &[u8]) -> io::Result<()> {
                    let mut writer = self;
                    writer.write_all(bytes)
                }

                fn shutdown(&self, how: Shutdown) {
                    // The peer may have done it.
                    let _ = self.shutdown(how);
                }

                fn set_limit(&self, limit: Option<Duration>) -> io::Result<()> {
                    self.set_read_timeout(limit)?;
                    self.set_write_timeout(limit)
                }
            }
        )*
    };
}

impl_stream!(UnixStream, TcpStream);

/// Repeats a call that a signal interrupted.
pub(super) fn again(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
