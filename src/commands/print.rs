//! Printing what was asked for.

use std::io::{ErrorKind, Write};

use crate::error::{Error, Result};

/// Prints a whole text to standard output. That nobody reads on is no failure: `dump | head`.
///
/// # Errors
/// [`Kind::Io`](crate::error::Kind::Io): a file system is full, say.
pub fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Error::io("write to stdout", error)),
    }
}
