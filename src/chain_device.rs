//! A chain as a block device: the streams of a disk resolved into one map, newest wins, read
//! through their digests.

use std::ops::Range;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::extent::{self, Extent, Kind};
use crate::set::catalogue::{Catalogue, Run, Stream};
use crate::set::chain;
use crate::stream::BLOCK;
use crate::stream::raw::RawImage;
use crate::stream::reader::{Opening, Scratch, StreamReader};
use crate::units::align_up;

/// Where the content of a range comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// From the layer with this index.
    Layer(usize),
    /// It is zeroes.
    Zero,
}

/// A range of the disk and where its content comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    offset: u64,
    length: u64,
    content: Content,
}

impl Segment {
    fn end(&self) -> u64 {
        self.offset + self.length
    }

    fn layer(&self) -> Option<usize> {
        match self.content {
            Content::Layer(layer) => Some(layer),
            Content::Zero => None,
        }
    }
}

/// The content of one disk at one restore point. Ranges are resolved when they are asked for: a chain is
/// ready as soon as its indexes are, and takes no memory beside them.
#[derive(Debug)]
pub struct ChainDevice {
    target: String,
    size: u64,
    /// Newest first.
    layers: Vec<Arc<StreamReader>>,
}

/// Buffers of one reading thread: one window and one payload, however long the chain.
#[derive(Default)]
pub struct Buffers {
    scratch: Scratch,
    /// Whole blocks of one layer; may reach over the end of the disk, not of the layer.
    layer: Vec<u8>,
}

impl ChainDevice {
    /// Opens the streams that disk `target` needs at `point` and resolves them.
    ///
    /// # Errors
    /// [`Incomplete`](ErrorKind::Incomplete) or [`Corrupt`](ErrorKind::Corrupt) where a stream is
    /// missing, damaged, or not the one that the set says.
    pub fn open(catalogue: &Catalogue, point: &Run, target: &str) -> Result<Self> {
        Self::open_as(catalogue, point, target, Opening { progress: &|_| (), cancel: &Cancel::new(), cache: None })
    }

    /// [`ChainDevice::open`] as `opening` says.
    ///
    /// # Errors
    /// As for [`ChainDevice::open`], and [`Cancelled`](ErrorKind::Cancelled).
    pub fn open_as(catalogue: &Catalogue, point: &Run, target: &str, opening: Opening<'_>) -> Result<Self> {
        Self::open_with(catalogue, point, target, &mut |stream| {
            opening.cancel.check()?;
            open_layer(catalogue, stream, opening).map(Arc::new)
        })
    }

    /// [`ChainDevice::open`] that has its streams opened by `open`, see [`open_layer`]: points of one disk share
    /// most of them.
    ///
    /// # Errors
    /// As for [`ChainDevice::open`], and those of `open`.
    pub fn open_with(
        catalogue: &Catalogue,
        point: &Run,
        target: &str,
        open: &mut dyn FnMut(&Stream) -> Result<Arc<StreamReader>>,
    ) -> Result<Self> {
        let streams = chain::resolve(catalogue, point, target)?;
        Self::of_shared(target, streams.into_iter().map(open).collect::<Result<_>>()?)
    }

    /// Resolves `layers`, newest first; the last one holds the whole disk.
    pub fn new(target: &str, layers: Vec<StreamReader>) -> Result<Self> {
        Self::of_shared(target, layers.into_iter().map(Arc::new).collect())
    }

    fn of_shared(target: &str, layers: Vec<Arc<StreamReader>>) -> Result<Self> {
        let (Some(newest), Some(oldest)) = (layers.first(), layers.last()) else {
            return Err(Error::incomplete("a chain without a stream").disk(target));
        };
        if oldest.meta().incremental {
            return Err(Error::incomplete("the chain does not begin with a full backup")
                .disk(target)
                .path(oldest.path()));
        }
        // Then whatever is asked for is found in one of them.
        let mut unknown = None;
        oldest.visit(0..oldest.meta().virtual_size, &mut |extent| {
            if extent.kind() == Kind::Clean {
                unknown.get_or_insert(extent.offset);
            }
        });
        if let Some(offset) = unknown {
            return Err(Error::incomplete("no stream of the chain has the content").disk(target).at(offset));
        }
        let size = newest.meta().virtual_size;
        Ok(Self { target: target.to_owned(), size, layers })
    }

    /// Virtual size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Target name of the disk.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Whether it is one raw image of which nobody knows where it is zero.
    pub fn is_plain_image(&self) -> bool {
        matches!(self.layers.as_slice(), [layer] if layer.is_raw() && layer.index_digest().is_none())
    }

    /// The streams, newest first.
    pub fn layers(&self) -> &[Arc<StreamReader>] {
        &self.layers
    }

    /// What `range` holds: data and zero extents that cover it.
    pub fn extents(&self, range: Range<u64>) -> Vec<Extent> {
        let mut extents = Vec::new();
        for segment in self.segments_in(range) {
            let kind = if segment.content == Content::Zero { Kind::Zero } else { Kind::Data };
            extent::push(&mut extents, Extent::new(segment.offset, segment.length, kind));
        }
        extents
    }

    /// The segments of `range`, as far as the disk reaches.
    fn segments_in(&self, range: Range<u64>) -> Vec<Segment> {
        let layers = self.layers.iter().map(|layer| {
            let visit = |range: Range<u64>, found: &mut dyn FnMut(Extent)| layer.visit(range, found);
            (layer.meta().virtual_size, visit)
        });
        resolve(range.start..range.end.min(self.size), layers)
    }

    /// The parts of `range`, in order, each with where its content comes from.
    pub fn parts(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, Content)> + use<> {
        self.segments_in(range).into_iter().map(|segment| (segment.offset..segment.end(), segment.content))
    }

    /// Puts the data of `range` at its place in `buffer`, proven; bytes of zero extents are left
    /// undefined. `range` starts on a multiple of [`BLOCK`] and ends on one or with the disk.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) for a block that is not what was backed up.
    pub fn read_data(&self, range: Range<u64>, buffer: &mut [u8], buffers: &mut Buffers) -> Result<()> {
        self.read_data_but(range, buffer, buffers, &|_, _| false)
    }

    /// [`ChainDevice::read_data`] that leaves out blocks of layers that are `known`, by the layer's place in the
    /// chain and the number of the block: what they give is left undefined.
    ///
    /// # Errors
    /// As for [`ChainDevice::read_data`].
    pub fn read_data_but(
        &self,
        range: Range<u64>,
        buffer: &mut [u8],
        buffers: &mut Buffers,
        known: &dyn Fn(usize, u64) -> bool,
    ) -> Result<()> {
        let segments = self.segments_in(range.clone());
        let mut used: Vec<usize> = segments.iter().filter_map(Segment::layer).collect();
        used.sort_unstable();
        used.dedup();
        for &layer in &used {
            let reader = &self.layers[layer];
            let ours = || segments.iter().filter(|segment| segment.layer() == Some(layer));
            let runs = blocks_of(ours(), reader.meta().virtual_size, &|block| known(layer, block));
            // A layer alone reads in place; several must not overwrite each other's bytes, and blocks of a
            // layer larger than the disk may not fit.
            let in_place = used.len() == 1 && runs.last().is_none_or(|run| run.end <= range.end);
            let within = |offset: u64| (offset - range.start) as usize;
            if !in_place {
                // Less than one block longer than `buffer`.
                buffers.layer.resize(within(align_up(range.end, BLOCK)), 0);
            }
            let place: &mut [u8] = if in_place { &mut *buffer } else { &mut buffers.layer };
            for blocks in runs {
                let part = within(blocks.start)..within(blocks.end);
                reader
                    .read(blocks, &mut place[part], &mut buffers.scratch)
                    .map_err(|error| error.disk(&self.target))?;
            }
            if !in_place {
                for segment in ours() {
                    let part = within(segment.offset)..within(segment.end());
                    buffer[part.clone()].copy_from_slice(&buffers.layer[part]);
                }
            }
        }
        Ok(())
    }
}

/// The runs of whole blocks that `segments` touch in a layer of `size` bytes, whose last block may be short; without
/// those that are `known`.
fn blocks_of<'s>(
    segments: impl Iterator<Item = &'s Segment>,
    size: u64,
    known: &dyn Fn(u64) -> bool,
) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for segment in segments {
        for block in (segment.offset / BLOCK..segment.end().div_ceil(BLOCK)).filter(|block| !known(*block)) {
            let (start, stop) = (block * BLOCK, ((block + 1) * BLOCK).min(size));
            match runs.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(stop),
                _ => runs.push(start..stop),
            }
        }
    }
    runs
}

/// Lays the layers' contents of `range` over each other, newest first. Where an older, smaller disk ended, a
/// grown one reads as zeroes. A layer is its size, and what tells the extents of a range in it.
fn resolve<V>(range: Range<u64>, layers: impl Iterator<Item = (u64, V)>) -> Vec<Segment>
where
    V: Fn(Range<u64>, &mut dyn FnMut(Extent)),
{
    let mut segments: Vec<Segment> = Vec::new();
    let mut pending = Vec::new();
    extent::push(&mut pending, Extent::clean(range.start, range.end.saturating_sub(range.start)));
    for (index, (layer_size, visit)) in layers.enumerate() {
        if pending.is_empty() {
            break;
        }
        let mut open = Vec::new();
        for range in pending {
            visit(range.range(), &mut |found| match found.kind() {
                Kind::Clean => extent::push(&mut open, found),
                Kind::Data => push(&mut segments, found, Content::Layer(index)),
                Kind::Zero => push(&mut segments, found, Content::Zero),
            });
            let beyond = range.offset.max(layer_size);
            if beyond < range.end() {
                push(&mut segments, Extent::zero(beyond, range.end() - beyond), Content::Zero);
            }
        }
        pending = open;
    }
    segments.sort_unstable_by_key(|segment| segment.offset);
    segments
}

/// Appends what a layer says, grown together with what it said before.
fn push(segments: &mut Vec<Segment>, found: Extent, content: Content) {
    match segments.last_mut() {
        Some(last) if last.end() == found.offset && last.content == content => last.length += found.length(),
        _ => segments.push(Segment { offset: found.offset, length: found.length(), content }),
    }
}

/// Opens a stream and proves that it is the one the catalogue means.
///
/// # Errors
/// As for [`ChainDevice::open_as`].
pub fn open_layer(catalogue: &Catalogue, stream: &Stream, opening: Opening<'_>) -> Result<StreamReader> {
    let recorded = catalogue.record_of(&stream.file);
    let file = catalogue.stream_file(stream)?;
    let path = file.path();
    let opened = if stream.raw {
        let index = recorded.is_some().then(|| catalogue.index_file(stream)).transpose()?;
        StreamReader::open_raw(&RawImage { target: &stream.target, file: &file, index: index.as_ref() })
    } else {
        StreamReader::open_as(&file, opening)
    };
    let reader = opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::incomplete("is missing from the set")
            .path(path)
            .disk(&stream.target)
            .hint("take it from another copy of the set; `virtkeep verify` lists the points that are whole (--until)"),
        // Its manifest is of a version that we know: so was the stream, once.
        ErrorKind::Unsupported if recorded.is_some() => {
            Error::corrupt("is damaged").path(path).disk(&stream.target).caused_by(error)
        }
        _ => error.disk(&stream.target),
    })?;
    let meta = reader.meta();
    let swapped = || {
        Error::corrupt("holds another stream than its name and the set say: was a file renamed or exchanged?")
            .disk(&stream.target)
            .path(path)
    };
    let parent = meta.incremental.then_some(meta.parent_checkpoint.as_str());
    if meta.disk_name != stream.target || meta.virtual_size != stream.virtual_size || parent != stream.base.as_deref() {
        return Err(swapped());
    }
    if let Some((manifest, disk)) = recorded {
        // The index, which the manifest names, is of this image and no other.
        let same_run = stream.raw || meta.own.is_some_and(|own| own.run == manifest.run);
        if !same_run
            || reader.stored_size() != disk.stored_size
            || reader.index_digest().map(|digest| blake3::Hash::from(digest).to_hex().to_string()).as_ref()
                != Some(&disk.index_digest)
        {
            return Err(swapped());
        }
    }
    Ok(reader)
}

#[cfg(test)]
#[path = "chain_device_tests.rs"]
mod restored;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Layers as lists of (length, kind), newest first; the last one is full.
    fn layers() -> impl Strategy<Value = Vec<(u64, Vec<Extent>)>> {
        let layer = prop::collection::vec((1..50u64, 0..3u8), 1..12);
        prop::collection::vec(layer, 1..6).prop_map(|layers| {
            let last = layers.len() - 1;
            let build = |(index, parts): (usize, Vec<(u64, u8)>)| {
                let mut list = Vec::new();
                let mut position = 0;
                for (length, kind) in parts {
                    let kind = [Kind::Data, Kind::Zero, Kind::Clean][usize::from(kind)];
                    let kind = if index == last && kind == Kind::Clean { Kind::Zero } else { kind };
                    extent::push(&mut list, Extent::new(position, length, kind));
                    position += length;
                }
                (position, list)
            };
            layers.into_iter().enumerate().map(build).collect()
        })
    }

    proptest! {
        #[test]
        fn resolution_equals_a_naive_overlay(layers in layers(), start: u64, end: u64) {
            let size = layers[0].0;
            let mut expected = vec![Content::Zero; size as usize];
            for (index, (layer_size, content)) in layers.iter().enumerate().rev() {
                for extent in content {
                    for position in extent.range().filter(|&position| position < size) {
                        match extent.kind() {
                            Kind::Data => expected[position as usize] = Content::Layer(index),
                            Kind::Zero => expected[position as usize] = Content::Zero,
                            Kind::Clean => {}
                        }
                    }
                }
                // What lay beyond a smaller disk's end is gone when the disk grows again.
                for position in *layer_size..size {
                    expected[position as usize] = Content::Zero;
                }
            }
            let (start, end) = (start % (size + 1), end % (size + 1));
            for range in [0..size, start.min(end)..start.max(end)] {
                let visits = layers.iter().map(|(size, content)| {
                    let visit = move |range: Range<u64>, found: &mut dyn FnMut(Extent)| {
                        extent::clip(content, range).for_each(&mut *found);
                    };
                    (*size, visit)
                });
                let mut found = Vec::new();
                for segment in &resolve(range.clone(), visits) {
                    prop_assert_eq!(segment.offset, range.start + found.len() as u64);
                    found.extend(std::iter::repeat_n(segment.content, segment.length as usize));
                }
                prop_assert_eq!(&found, &expected[range.start as usize..range.end as usize]);
            }
        }
    }
}
