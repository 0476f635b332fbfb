//! One thread of a disk's backup: it takes items, reads, digests and compresses them, gets them a place in the stream
//! in turn, and writes them there.

use std::ops::Range;

use super::arrival::Arrival;
use super::backup::{Output, Source};
use super::work::{Item, Queue, SMALL_GAP, WINDOW};
use super::{Progress, pace, zeroes};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::extent::{Extent, Kind, push};
use crate::nbd::client::{Client, ReadPiece};
use crate::stream::codec::Compressor;
use crate::stream::out::Pending;
use crate::turnstile::Turnstile;

/// What is read at a time where reading is held back, at least: a rate of a few bytes is no reason for requests of
/// a few bytes.
const LEAST_READ: usize = 64 << 10;

/// The steps of one thread, with the buffers that it reuses.
pub(super) struct Worker<'s> {
    source: &'s Source<'s>,
    client: Client,
    compressor: Compressor,
    /// Guest bytes of the items at work.
    content: Vec<u8>,
    /// Their compressed payloads.
    stored: Vec<u8>,
    pending: Pending,
}

impl<'s> Worker<'s> {
    pub(super) fn new(source: &'s Source<'s>, client: Client) -> Self {
        let compressor = Compressor::new(source.meta.compression);
        Self { source, client, compressor, content: Vec::new(), stored: Vec::new(), pending: Pending::default() }
    }

    pub(super) fn run<O: Output>(
        mut self,
        queue: &Queue<'_>,
        stream: &Turnstile<O>,
        progress: &dyn Progress,
        stopped: &Cancel,
    ) -> Result<()> {
        // With one request on its way a connection would wait for each answer.
        let most = WINDOW.max(2 * self.source.limits.request_size);
        loop {
            let items = queue.take_some(most);
            let (Some(first), Some(last)) = (items.first(), items.last()) else { break };
            let (numbers, length) = (first.number..last.number + 1, items.iter().map(Item::length).sum());
            stopped.check()?;
            self.copy(Work::of(items), numbers, stream, stopped)?;
            progress.advance(length);
        }
        // A clean goodbye: old QEMUs did not like a client that was just gone when the job ended.
        // That it failed says nothing about the bytes that were read.
        let _ = self.client.disconnect();
        Ok(())
    }

    fn copy<O: Output>(
        &mut self,
        mut work: Work,
        numbers: Range<u64>,
        stream: &Turnstile<O>,
        stopped: &Cancel,
    ) -> Result<()> {
        let is_lz4 = self.source.meta.compression.is_lz4();
        self.content.resize(work.length(), 0);
        let arrived = if O::FINDS_ZEROES {
            self.read(&work.spans, stopped, &mut |_, _| Ok(()))?;
            work.find_zeroes(&self.content);
            let mut arrival = Arrival::of(&work.data, !is_lz4);
            for (extent, place) in work.data.iter().zip(&work.places) {
                arrival.add(extent.offset, &self.content[place.clone()])?;
            }
            arrival.finish()?
        } else {
            let mut arrival = Arrival::of(&work.data, !is_lz4);
            self.read(&work.spans, stopped, &mut |offset, bytes| arrival.add(offset, bytes))?;
            arrival.finish()?
        };
        let (mut payloads, mut sums) = (work.places, arrived.sums);
        if is_lz4 {
            self.stored.clear();
            for place in &mut payloads {
                let start = self.stored.len();
                self.compressor.append(&self.content[place.clone()], &mut self.stored)?;
                *place = start..self.stored.len();
                sums.push(simd_adler32::adler32(&&self.stored[place.clone()]));
            }
        }
        let bytes = if is_lz4 { &self.stored } else { &self.content };
        let mut stored = payloads.iter().map(|place| &bytes[place.clone()]);
        stream.pass(numbers, |stream| {
            let mut data = stored.clone().zip(sums);
            for extent in work.items.iter().flat_map(|item| &item.extents) {
                match extent.kind() {
                    Kind::Zero => stream.zero(extent.offset, extent.length())?,
                    Kind::Data => {
                        let (stored, sum) = data.next().ok_or_else(|| Error::usage("data without a payload"))?;
                        stream.data(extent.offset, extent.length(), stored, sum)?;
                    }
                    Kind::Clean => {}
                }
            }
            arrived.digests.into_iter().try_for_each(|(block, digest)| stream.digest(block, digest))?;
            stream.take(&mut self.pending);
            Ok(())
        })?;
        self.pending.write(&mut stored).map_err(|error| Error::io("write", error))
    }

    /// Fills the places of `spans`; `arrived` gets all of it, in order.
    fn read(
        &mut self,
        spans: &[Range<u64>],
        stopped: &Cancel,
        arrived: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Self { source, client, content, .. } = self;
        let mut rest = content.as_mut_slice();
        let mut pieces = Vec::with_capacity(spans.len());
        for span in spans {
            let (buffer, more) = rest.split_at_mut((span.end - span.start) as usize);
            pieces.push(ReadPiece { offset: span.start, buffer });
            rest = more;
        }
        if source.paces.is_empty() {
            return client.read_on(&mut pieces, source.limits, arrived).map_err(Error::of_export);
        }
        let turn = usize::try_from(pace::turn(source.paces)).unwrap_or(usize::MAX).max(LEAST_READ);
        for ReadPiece { offset, buffer } in pieces {
            for (part, number) in buffer.chunks_mut(turn).zip(0..) {
                pace::wait(source.paces, part.len() as u64, stopped)?;
                let offset = offset + number * turn as u64;
                let piece = &mut [ReadPiece { offset, buffer: part }];
                client.read_on(piece, source.limits, arrived).map_err(Error::of_export)?;
            }
        }
        Ok(())
    }
}

/// What a thread works on at a time.
pub(super) struct Work {
    items: Vec<Item>,
    /// All their data, and where each extent is in the buffer.
    data: Vec<Extent>,
    places: Vec<Range<usize>>,
    /// What is read: one behind the other in the buffer.
    spans: Vec<Range<u64>>,
}

impl Work {
    pub(super) fn of(items: Vec<Item>) -> Self {
        let extents = items.iter().flat_map(|item| &item.extents);
        let data: Vec<Extent> = extents.filter(|extent| extent.kind() == Kind::Data).copied().collect();
        let (mut spans, mut places): (Vec<Range<u64>>, Vec<_>) = (Vec::new(), Vec::with_capacity(data.len()));
        // Where the last span begins in the buffer.
        let mut start = 0;
        for extent in &data {
            match spans.last_mut() {
                // Small gaps are read along, and not looked at.
                Some(last) if extent.offset - last.end <= SMALL_GAP => last.end = extent.end(),
                last => {
                    start += last.map_or(0, |last| (last.end - last.start) as usize);
                    spans.push(extent.range());
                }
            }
            let first = spans.last().map_or(extent.offset, |span| span.start);
            let place = start + (extent.offset - first) as usize;
            places.push(place..place + extent.length() as usize);
        }
        Self { items, data, places, spans }
    }

    /// Bytes of the buffer.
    pub(super) fn length(&self) -> usize {
        self.places.last().map_or(0, |place| place.end)
    }

    /// Tells zeroes in `content` apart from data.
    fn find_zeroes(&mut self, content: &[u8]) {
        let (mut data, mut places) = (Vec::new(), Vec::new());
        let mut known = self.places.iter();
        for item in &mut self.items {
            let mut extents = Vec::new();
            for extent in &item.extents {
                let place = if extent.kind() == Kind::Data { known.next() } else { None };
                let Some(place) = place else {
                    push(&mut extents, *extent);
                    continue;
                };
                let mut found = Vec::new();
                zeroes::split_onto(&mut found, *extent, &content[place.clone()]);
                for part in found {
                    if part.kind() == Kind::Data {
                        let start = place.start + (part.offset - extent.offset) as usize;
                        data.push(part);
                        places.push(start..start + part.length() as usize);
                        // Not grown together with what is before it: each has its payload.
                        extents.push(part);
                    } else {
                        push(&mut extents, part);
                    }
                }
            }
            item.extents = extents;
        }
        (self.data, self.places) = (data, places);
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
