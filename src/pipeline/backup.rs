//! One disk of a running job into one stream.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::Progress;
use super::turnstile::Turnstile;
use super::work::{Item, Queue, WINDOW};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::extent::{Extent, Kind};
use crate::nbd::client::{Client, ReadPiece};
use crate::stream::codec::{Compression, Compressor};
use crate::stream::meta::Meta;
use crate::stream::writer::{BlockDigests, Finished, StreamWriter};

/// Headers and small frames are gathered to this size before they are written.
const WRITE_BUFFER: usize = 1 << 20;

/// What one disk's backup reads and what it is called.
#[derive(Debug)]
pub struct Source<'s> {
    /// The export's work: data and zero extents; clean ones are left out of the stream.
    pub extents: &'s [Extent],
    /// Head of the stream; its `data_size` is the sum of the data extents.
    pub meta: &'s Meta,
    /// How payloads are stored.
    pub compression: Compression,
}

/// Copies a disk through `clients`, a thread for each, into `file`, and syncs it. The index is
/// spooled in `spool`.
///
/// # Errors
/// Of the first thread that failed; the others end early and the file is not a whole stream.
pub fn copy(
    source: &Source<'_>,
    clients: Vec<Client>,
    file: File,
    spool: &Path,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Finished> {
    let queue = Queue::new(source.extents);
    let out = BufWriter::with_capacity(WRITE_BUFFER, file);
    let stream = Turnstile::new(StreamWriter::new(out, source.meta, spool)?);
    let stopped = cancel.child();
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let worker = |client: Client| {
            let (queue, stream, stopped) = (&queue, &stream, &stopped);
            move || {
                let result = Worker::new(source, client).run(queue, stream, progress, stopped);
                if result.is_err() {
                    // The others must not wait for a number that will never come.
                    stopped.cancel();
                    stream.close();
                }
                result
            }
        };
        let threads: Vec<_> = clients.into_iter().map(|client| scope.spawn(worker(client))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(Error::panicked()))).collect()
    });
    Error::first_of(results)?;
    cancel.check()?;
    let (out, finished) = stream.into_inner().finish()?;
    let file = out.into_inner().map_err(|error| Error::io("write", error.into_error()))?;
    file.sync_all().map_err(|error| Error::io("sync", error))?;
    Ok(finished)
}

/// The steps of one thread, with the buffers that it reuses.
struct Worker<'s> {
    source: &'s Source<'s>,
    client: Client,
    compressor: Compressor,
    /// Guest bytes of the item, packed.
    guest: Vec<u8>,
    /// Compressed payloads of the item, packed, and their lengths.
    stored: Vec<u8>,
    stored_lengths: Vec<usize>,
}

impl<'s> Worker<'s> {
    fn new(source: &'s Source<'s>, client: Client) -> Self {
        let guest = Vec::with_capacity(WINDOW as usize);
        let compressor = Compressor::new(source.compression);
        Self { source, client, compressor, guest, stored: Vec::new(), stored_lengths: Vec::new() }
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
            self.read(&item)?;
            let digests = BlockDigests::of(self.data(&item));
            self.compress(&item)?;
            stream.pass(item.number, |stream| self.write(stream, &item, &digests))?;
            progress.advance(item.length());
        }
        // A clean goodbye: old QEMUs did not like a client that was just gone when the job ended.
        self.client.disconnect();
        Ok(())
    }

    fn read(&mut self, item: &Item) -> Result<()> {
        let length: u64 = data_of(item).map(|extent| extent.length).sum();
        self.guest.resize(length as usize, 0);
        let mut rest = self.guest.as_mut_slice();
        let mut pieces = Vec::new();
        for extent in data_of(item) {
            let (buffer, more) = rest.split_at_mut(extent.length as usize);
            pieces.push(ReadPiece { offset: extent.offset, buffer });
            rest = more;
        }
        self.client.read_scattered(&mut pieces)
    }

    /// The item's data extents, each with its offset and bytes.
    fn data<'a>(&'a self, item: &'a Item) -> impl Iterator<Item = (u64, &'a [u8])> {
        let mut position = 0;
        data_of(item).map(move |extent| {
            let bytes = &self.guest[position..position + extent.length as usize];
            position += bytes.len();
            (extent.offset, bytes)
        })
    }

    fn compress(&mut self, item: &Item) -> Result<()> {
        self.stored.clear();
        self.stored_lengths.clear();
        if self.source.compression == Compression::None {
            return Ok(());
        }
        let mut position = 0;
        for extent in data_of(item) {
            let end = position + extent.length as usize;
            let before = self.stored.len();
            self.compressor.compress(&self.guest[position..end], &mut self.stored)?;
            self.stored_lengths.push(self.stored.len() - before);
            position = end;
        }
        Ok(())
    }

    fn write<W: Write>(&self, stream: &mut StreamWriter<W>, item: &Item, digests: &BlockDigests) -> Result<()> {
        let mut data = self.data(item);
        let mut lengths = self.stored_lengths.iter();
        let mut position = 0;
        for extent in &item.extents {
            match extent.kind {
                Kind::Zero if self.source.meta.incremental => stream.zero_extent(extent.offset, extent.length)?,
                Kind::Zero => stream.zero_frame(extent.offset, extent.length)?,
                Kind::Data => {
                    let Some((offset, bytes)) = data.next() else { break };
                    let stored = match lengths.next() {
                        Some(&length) => &self.stored[position..position + length],
                        None => bytes,
                    };
                    position += stored.len();
                    stream.data_frame(offset, extent.length, stored)?;
                }
                Kind::Clean => {}
            }
        }
        digests.iter().try_for_each(|&(block, digest)| stream.digest(block, digest))
    }
}

fn data_of(item: &Item) -> impl Iterator<Item = &Extent> {
    item.extents.iter().filter(|extent| extent.kind == Kind::Data)
}
