//! One disk of a running job into one stream, or into a raw image.

use std::io::{BufWriter, Write};
use std::path::Path;

use super::pace::Pace;
use super::work::{Queue, WINDOW};
use super::worker::Worker;
use super::{Failures, Progress};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::nbd::client::{Client, Limits};
use crate::stream::digest::Digest;
use crate::stream::meta::Meta;
use crate::stream::out::{Out, Pending};
use crate::stream::raw::RawWriter;
use crate::stream::writer::{Finished, StreamWriter};
use crate::turnstile::Turnstile;

/// What one disk's backup reads and what it is called.
#[derive(Debug)]
pub struct Source<'s> {
    /// The export's work: data and zero extents; clean ones are left out of the stream.
    pub extents: &'s [Extent],
    /// Head of the stream; its `data_size` is the sum of the data extents.
    pub meta: &'s Meta,
    /// Requests of each connection.
    pub limits: Limits,
    /// All of which hold reading back.
    pub paces: &'s [&'s Pace],
}

/// Copies a disk through `clients`, a thread for each, into `out`, which is returned, complete. What is written to in
/// order should be buffered. The index is spooled in `spool`.
///
/// # Errors
/// Of the first thread that failed; the others end early and `out` is not a whole stream.
pub fn copy<O: Out + Send>(
    source: &Source<'_>,
    clients: Vec<Client>,
    out: O,
    spool: &Path,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(O, Finished)> {
    run(source, clients, StreamWriter::new(out, source.meta, spool)?, progress, cancel)?.finish()
}

/// As [`copy`], into a raw image in `out`; its index goes into `index`. Zeroes are found in what is read.
///
/// # Errors
/// As for [`copy`].
pub fn copy_raw<O: Out + Send>(
    source: &Source<'_>,
    clients: Vec<Client>,
    out: O,
    index: &mut dyn Write,
    spool: &Path,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(O, Finished)> {
    let image = run(source, clients, RawWriter::new(out, source.meta.virtual_size, spool)?, progress, cancel)?;
    image.finish(&mut BufWriter::new(index))
}

/// What the threads write to, in the order of the disk.
pub(super) trait Output: Send {
    /// Data of `length` guest bytes, `stored` as it goes into the file, with its Adler-32.
    fn data(&mut self, offset: u64, length: u64, stored: &[u8], sum: u32) -> Result<()>;
    /// A range that reads as zeroes.
    fn zero(&mut self, offset: u64, length: u64) -> Result<()>;
    /// The digest of a block's data.
    fn digest(&mut self, block: u64, digest: Digest) -> Result<()>;
    /// What has a place in the file by now and is left to the thread to write.
    fn take(&mut self, pending: &mut Pending);
    /// Whether zeroes are looked for in the data.
    const FINDS_ZEROES: bool;
}

impl<O: Out + Send> Output for StreamWriter<O> {
    fn data(&mut self, offset: u64, length: u64, stored: &[u8], sum: u32) -> Result<()> {
        self.summed_frame(offset, length, stored, sum)
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<()> {
        if self.is_incremental() { self.zero_extent(offset, length) } else { self.zero_frame(offset, length) }
    }

    fn digest(&mut self, block: u64, digest: Digest) -> Result<()> {
        StreamWriter::digest(self, block, digest)
    }

    fn take(&mut self, pending: &mut Pending) {
        StreamWriter::take(self, pending);
    }

    // The meta in front announces how much data there is.
    const FINDS_ZEROES: bool = false;
}

impl<O: Out + Send> Output for RawWriter<O> {
    fn data(&mut self, offset: u64, _length: u64, stored: &[u8], sum: u32) -> Result<()> {
        self.summed_data(offset, stored, sum)
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<()> {
        RawWriter::zero(self, offset, length)
    }

    fn digest(&mut self, block: u64, digest: Digest) -> Result<()> {
        RawWriter::digest(self, block, digest)
    }

    fn take(&mut self, pending: &mut Pending) {
        RawWriter::take(self, pending);
    }

    const FINDS_ZEROES: bool = true;
}

/// Copies everything into `output` and returns that, not yet finished.
fn run<O: Output>(
    source: &Source<'_>,
    clients: Vec<Client>,
    output: O,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<O> {
    let queue = Queue::new(source.extents, WINDOW);
    let stream = Turnstile::new(output);
    let stopped = cancel.child();
    let failures = Failures::default();
    std::thread::scope(|scope| {
        let worker = |client: Client| {
            let (queue, stream, stopped, failures) = (&queue, &stream, &stopped, &failures);
            move || {
                // The others must not wait for a number that will never come.
                let closer = stream.closer();
                match Worker::new(source, client).run(queue, stream, progress, stopped) {
                    Ok(()) => closer.disarm(),
                    Err(error) => {
                        failures.note(error);
                        stopped.cancel();
                    }
                }
            }
        };
        let threads: Vec<_> = clients.into_iter().map(|client| scope.spawn(worker(client))).collect();
        for thread in threads {
            if thread.join().is_err() {
                failures.note(Error::panicked());
            }
        }
    });
    failures.into_result()?;
    cancel.check()?;
    Ok(stream.into_inner())
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
