//! One disk of a running job into one stream, or into a raw image.

use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use super::pace::{self, Pace};
use super::turnstile::Turnstile;
use super::work::{Item, Queue, WINDOW};
use super::{Failures, Progress, zeroes};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::extent::{Extent, Kind};
use crate::nbd::client::{Client, Limits, ReadPiece};
use crate::stream::codec::Compressor;
use crate::stream::digest::{Digest, digest_blocks};
use crate::stream::meta::Meta;
use crate::stream::raw::{RawWriter, Sparse};
use crate::stream::writer::{Finished, StreamWriter};
use crate::units::KIB;

/// Headers and small frames are gathered to this size before they are written.
const WRITE_BUFFER: usize = 1 << 20;

/// Bytes that cost less to read along than a request of their own.
const SMALL_GAP: u64 = 32 * KIB;

/// What is read at a time where reading is held back, at least: a rate of a few bytes is no reason for requests of
/// a few bytes.
const LEAST_READ: usize = 64 << 10;

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
    let out = BufWriter::with_capacity(WRITE_BUFFER, out);
    let stream = run(source, clients, StreamWriter::new(out, source.meta, spool)?, progress, cancel)?;
    let (out, finished) = stream.finish()?;
    let out = out.into_inner().map_err(|error| Error::io("write", error.into_error()))?;
    Ok((out, finished))
}

/// As [`copy`], into a raw image in `out`, which should be buffered; its index goes into `index`. Zeroes are found
/// in what is read.
///
/// # Errors
/// As for [`copy`].
pub fn copy_raw<O: Sparse + Send>(
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
trait Output: Send {
    /// Data of `length` guest bytes, `stored` as it goes into the file.
    fn data(&mut self, offset: u64, length: u64, stored: &[u8]) -> Result<()>;
    /// A range that reads as zeroes.
    fn zero(&mut self, offset: u64, length: u64) -> Result<()>;
    /// The digest of a block's data.
    fn digest(&mut self, block: u64, digest: Digest) -> Result<()>;
    /// Whether zeroes are looked for in the data.
    const FINDS_ZEROES: bool;
}

impl<W: Write + Send> Output for StreamWriter<W> {
    fn data(&mut self, offset: u64, length: u64, stored: &[u8]) -> Result<()> {
        self.data_frame(offset, length, stored)
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<()> {
        if self.is_incremental() { self.zero_extent(offset, length) } else { self.zero_frame(offset, length) }
    }

    fn digest(&mut self, block: u64, digest: Digest) -> Result<()> {
        StreamWriter::digest(self, block, digest)
    }

    // The meta in front announces how much data there is.
    const FINDS_ZEROES: bool = false;
}

impl<W: Sparse + Send> Output for RawWriter<W> {
    fn data(&mut self, offset: u64, _length: u64, stored: &[u8]) -> Result<()> {
        RawWriter::data(self, offset, stored)
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<()> {
        RawWriter::zero(self, offset, length)
    }

    fn digest(&mut self, block: u64, digest: Digest) -> Result<()> {
        RawWriter::digest(self, block, digest)
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
    let queue = Queue::new(source.extents);
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

/// The steps of one thread, with the buffers that it reuses.
struct Worker<'s> {
    source: &'s Source<'s>,
    client: Client,
    compressor: Compressor,
    /// Guest bytes of the items at work, one item's data range after the other.
    content: Vec<u8>,
    /// Compressed payloads, one for each data extent of the item; more may be left of earlier ones.
    stored: Vec<Vec<u8>>,
}

impl<'s> Worker<'s> {
    fn new(source: &'s Source<'s>, client: Client) -> Self {
        let compressor = Compressor::new(source.meta.compression);
        Self { source, client, compressor, content: Vec::new(), stored: Vec::new() }
    }

    fn run<O: Output>(
        mut self,
        queue: &Queue<'_>,
        stream: &Turnstile<O>,
        progress: &dyn Progress,
        stopped: &Cancel,
    ) -> Result<()> {
        loop {
            let items = queue.take_some(WINDOW);
            if items.is_empty() {
                break;
            }
            stopped.check()?;
            let mut works = Vec::with_capacity(items.len());
            let mut length = 0;
            for item in items {
                let work = Work::of(item, length);
                length = work.place.end;
                works.push(work);
            }
            self.content.resize(length, 0);
            self.read(&works, stopped)?;
            for mut work in works {
                if O::FINDS_ZEROES {
                    let found = zeroes::split(&work.item.extents, &self.content[work.place.clone()], work.start);
                    work.item.extents = found;
                    work.data = data_of(&work.item);
                }
                let digests = digest_blocks(work.start, &self.content[work.place.clone()], &work.data)?;
                self.compress(&work)?;
                stream.pass(work.item.number, |stream| self.write(stream, &work, &digests))?;
                progress.advance(work.item.length());
            }
        }
        // A clean goodbye: old QEMUs did not like a client that was just gone when the job ended.
        // That it failed says nothing about the bytes that were read.
        let _ = self.client.disconnect();
        Ok(())
    }

    fn read(&mut self, works: &[Work], stopped: &Cancel) -> Result<()> {
        let mut rest = self.content.as_mut_slice();
        let mut pieces = Vec::new();
        for work in works {
            let (mut content, more) = rest.split_at_mut(work.place.len());
            rest = more;
            let mut position = work.start;
            for span in spans(&work.data) {
                let (_, more) = content.split_at_mut((span.start - position) as usize);
                let (buffer, more) = more.split_at_mut((span.end - span.start) as usize);
                pieces.push(ReadPiece { offset: span.start, buffer });
                (content, position) = (more, span.end);
            }
        }
        if self.source.paces.is_empty() {
            return self.client.read_scattered(&mut pieces, self.source.limits);
        }
        let turn = usize::try_from(pace::turn(self.source.paces)).unwrap_or(usize::MAX).max(LEAST_READ);
        for ReadPiece { offset, buffer } in pieces {
            for (part, number) in buffer.chunks_mut(turn).zip(0..) {
                pace::wait(self.source.paces, part.len() as u64, stopped)?;
                let offset = offset + number * turn as u64;
                self.client.read_scattered(&mut [ReadPiece { offset, buffer: part }], self.source.limits)?;
            }
        }
        Ok(())
    }

    fn compress(&mut self, work: &Work) -> Result<()> {
        if !self.source.meta.compression.is_lz4() {
            return Ok(());
        }
        self.stored.resize_with(self.stored.len().max(work.data.len()), Vec::new);
        for (extent, stored) in work.data.iter().zip(&mut self.stored) {
            self.compressor.compress(&self.content[work.place_of(extent)], stored)?;
        }
        Ok(())
    }

    fn write<O: Output>(&self, stream: &mut O, work: &Work, digests: &[(u64, Digest)]) -> Result<()> {
        let mut compressed = self.stored.iter();
        for extent in &work.item.extents {
            match extent.kind() {
                Kind::Zero => stream.zero(extent.offset, extent.length())?,
                Kind::Data => {
                    let stored = match compressed.next() {
                        Some(stored) => stored.as_slice(),
                        None => &self.content[work.place_of(extent)],
                    };
                    stream.data(extent.offset, extent.length(), stored)?;
                }
                Kind::Clean => {}
            }
        }
        digests.iter().try_for_each(|&(block, digest)| stream.digest(block, digest))
    }
}

fn data_of(item: &Item) -> Vec<Extent> {
    item.extents.iter().filter(|extent| extent.kind() == Kind::Data).copied().collect()
}

/// An item and where its data is while it is worked on.
struct Work {
    item: Item,
    data: Vec<Extent>,
    /// Offset of the first byte of the data.
    start: u64,
    /// Its data range, in the buffer.
    place: Range<usize>,
}

impl Work {
    /// `at`: where its place in the buffer begins.
    fn of(item: Item, at: usize) -> Self {
        let range = item.data_range();
        let place = at..at + (range.end - range.start) as usize;
        Self { data: data_of(&item), item, start: range.start, place }
    }

    /// Where an extent's bytes are in the buffer.
    fn place_of(&self, extent: &Extent) -> Range<usize> {
        let first = self.place.start + (extent.offset - self.start) as usize;
        first..first + extent.length() as usize
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
