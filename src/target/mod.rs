//! Where a backup goes that is not a directory: a zip file on standard output.
//!
//! | module | owns |
//! |---|---|
//! | [`stdout`] | standard output: what it is, writing to it, whether it was taken |

pub mod stdout;

use std::sync::{Mutex, MutexGuard, PoisonError};

use self::stdout::Stdout;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::stored::zip_writer::ZipWriter;

/// A zip file on standard output, written by one thread at a time.
#[derive(Debug)]
pub struct ZipTarget {
    /// None once it is finished.
    zip: Mutex<Option<ZipWriter<Stdout>>>,
}

impl ZipTarget {
    /// Takes over standard output: what anything else prints there from now on is lost. Members bear the local
    /// time of now and the permissions `mode`.
    ///
    /// # Errors
    /// As for [`Stdout::take`].
    pub fn open(mode: u32, cancel: &Cancel) -> Result<Self> {
        let now = jiff::Zoned::now().datetime();
        Ok(Self { zip: Mutex::new(Some(ZipWriter::new(Stdout::take(cancel)?, &now, mode))) })
    }

    /// Writes a member of any length: `write` gets the output. `cancel` ends waiting for the reader.
    ///
    /// # Errors
    /// Of `write`; [`Io`](crate::error::Kind::Io) where nobody reads on.
    pub fn stream<T>(
        &self,
        name: &str,
        cancel: &Cancel,
        write: impl FnOnce(&mut ZipWriter<Stdout>) -> Result<T>,
    ) -> Result<T> {
        let mut guard = self.lock();
        let zip = guard.as_mut().ok_or_else(finished)?;
        zip.output().heed(cancel);
        zip.begin(name)?;
        let done = write(zip)?;
        zip.end()?;
        Ok(done)
    }

    /// Writes a small member.
    ///
    /// # Errors
    /// [`Io`](crate::error::Kind::Io) where nobody reads on.
    pub fn store(&self, name: &str, content: &[u8]) -> Result<()> {
        self.lock().as_mut().ok_or_else(finished)?.store(name, content)
    }

    /// Ends the zip file and closes standard output: a file is durable then, and a pipe's reader has taken
    /// every byte. What becomes of them behind it can't be known.
    ///
    /// # Errors
    /// [`Io`](crate::error::Kind::Io); [`Cancelled`](crate::error::Kind::Cancelled).
    pub fn finish(&self, cancel: &Cancel) -> Result<()> {
        let mut zip = self.lock().take().ok_or_else(finished)?;
        zip.output().heed(cancel);
        zip.finish()?.settle()
    }

    fn lock(&self) -> MutexGuard<'_, Option<ZipWriter<Stdout>>> {
        self.zip.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn finished() -> Error {
    Error::usage("the zip file has been finished")
}
