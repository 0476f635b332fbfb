//! One disk of a running job into one stream.

use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use super::turnstile::Turnstile;
use super::work::{Item, Queue};
use super::{Failures, Progress};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::extent::{Extent, Kind};
use crate::nbd::client::{Client, Limits, ReadPiece};
use crate::stream::codec::Compressor;
use crate::stream::digest::{Digest, digest_blocks};
use crate::stream::meta::Meta;
use crate::stream::writer::{Finished, StreamWriter};
use crate::units::KIB;

/// Headers and small frames are gathered to this size before they are written.
const WRITE_BUFFER: usize = 1 << 20;

/// Bytes that cost less to read along than a request of their own.
const SMALL_GAP: u64 = 32 * KIB;

/// What one disk's backup reads and what it is called.
#[derive(Debug)]
pub struct Source<'s> {
    /// The export's work: data and zero extents; clean ones are left out of the stream.
    pub extents: &'s [Extent],
    /// Head of the stream; its `data_size` is the sum of the data extents.
    pub meta: &'s Meta,
}

/// Copies a disk through `clients`, a thread for each, into `out`, which is returned, flushed. The index is
/// spooled in `spool`.
///
/// # Errors
/// Of the first thread that failed; the others end early and `out` is not a whole stream.
pub fn copy<O: Write + Send>(
    source: &Source<'_>,
    clients: Vec<Client>,
    out: O,
    spool: &Path,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(O, Finished)> {
    let queue = Queue::new(source.extents);
    let out = BufWriter::with_capacity(WRITE_BUFFER, out);
    let stream = Turnstile::new(StreamWriter::new(out, source.meta, spool)?);
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
    let (out, finished) = stream.into_inner().finish()?;
    let out = out.into_inner().map_err(|error| Error::io("write", error.into_error()))?;
    Ok((out, finished))
}

/// The steps of one thread, with the buffers that it reuses.
struct Worker<'s> {
    source: &'s Source<'s>,
    client: Client,
    compressor: Compressor,
    /// Guest bytes of the item's window, each at its place.
    window: Vec<u8>,
    /// Compressed payloads, one for each data extent of the item; more may be left of earlier ones.
    stored: Vec<Vec<u8>>,
}

impl<'s> Worker<'s> {
    fn new(source: &'s Source<'s>, client: Client) -> Self {
        let compressor = Compressor::new(source.meta.compression);
        Self { source, client, compressor, window: Vec::new(), stored: Vec::new() }
    }

    fn run<W: Write + Send>(
        mut self,
        queue: &Queue<'_>,
        stream: &Turnstile<StreamWriter<W>>,
        progress: &dyn Progress,
        stopped: &Cancel,
    ) -> Result<()> {
        while let Some(item) = queue.take() {
            stopped.check()?;
            let work = Work::of(&item, self.source.meta.virtual_size);
            self.read(&work)?;
            let digests = digest_blocks(work.start, &self.window, &work.data)?;
            self.compress(&work)?;
            stream.pass(item.number, |stream| self.write(stream, &item, &work, &digests))?;
            progress.advance(item.length());
        }
        // A clean goodbye: old QEMUs did not like a client that was just gone when the job ended.
        // That it failed says nothing about the bytes that were read.
        let _ = self.client.disconnect();
        Ok(())
    }

    fn read(&mut self, work: &Work) -> Result<()> {
        self.window.resize(work.length, 0);
        let mut rest = self.window.as_mut_slice();
        let mut position = work.start;
        let mut pieces = Vec::with_capacity(work.data.len());
        for span in spans(&work.data) {
            let (_, more) = rest.split_at_mut((span.start - position) as usize);
            let (buffer, more) = more.split_at_mut((span.end - span.start) as usize);
            pieces.push(ReadPiece { offset: span.start, buffer });
            (rest, position) = (more, span.end);
        }
        self.client.read_scattered(&mut pieces, Limits::default())
    }

    fn compress(&mut self, work: &Work) -> Result<()> {
        if !self.source.meta.compression.is_lz4() {
            return Ok(());
        }
        self.stored.resize_with(self.stored.len().max(work.data.len()), Vec::new);
        for (extent, stored) in work.data.iter().zip(&mut self.stored) {
            self.compressor.compress(&self.window[work.place(extent)], stored)?;
        }
        Ok(())
    }

    fn write<W: Write>(
        &self,
        stream: &mut StreamWriter<W>,
        item: &Item,
        work: &Work,
        digests: &[(u64, Digest)],
    ) -> Result<()> {
        let mut compressed = self.stored.iter();
        for extent in &item.extents {
            match extent.kind {
                Kind::Zero if self.source.meta.incremental => stream.zero_extent(extent.offset, extent.length)?,
                Kind::Zero => stream.zero_frame(extent.offset, extent.length)?,
                Kind::Data => {
                    let stored = match compressed.next() {
                        Some(stored) => stored.as_slice(),
                        None => &self.window[work.place(extent)],
                    };
                    stream.data_frame(extent.offset, extent.length, stored)?;
                }
                Kind::Clean => {}
            }
        }
        digests.iter().try_for_each(|&(block, digest)| stream.digest(block, digest))
    }
}

/// The data of an item and the window it lies in.
struct Work {
    data: Vec<Extent>,
    start: u64,
    length: usize,
}

impl Work {
    fn of(item: &Item, size: u64) -> Self {
        let window = item.window(size);
        let data = item.extents.iter().filter(|extent| extent.kind == Kind::Data).copied().collect();
        Self { data, start: window.start, length: (window.end - window.start) as usize }
    }

    /// Where an extent's bytes are in the window's buffer.
    fn place(&self, extent: &Extent) -> Range<usize> {
        let first = (extent.offset - self.start) as usize;
        first..first + extent.length as usize
    }
}

/// What to read for `data`: small gaps are read along, and not looked at.
fn spans(data: &[Extent]) -> Vec<Range<u64>> {
    let mut spans: Vec<Range<u64>> = Vec::with_capacity(data.len());
    for extent in data {
        match spans.last_mut() {
            Some(last) if extent.offset - last.end <= SMALL_GAP => last.end = extent.end(),
            _ => spans.push(extent.offset..extent.end()),
        }
    }
    spans
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
