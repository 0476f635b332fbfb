//! Chains of real streams, restored and compared with plain overlays of bytes.

use std::path::Path;

use proptest::prelude::*;
use uuid::Uuid;

use super::ChainDevice;
use crate::block::file::FileSink;
use crate::cancel::Cancel;
use crate::extent::{self, Extent, Kind};
use crate::file_writer::Way;
use crate::pipeline::restore;
use crate::pipeline::work::{Queue, WINDOW};
use crate::stream::codec::{Compression, Compressor};
use crate::stream::digest::digest_blocks;
use crate::stream::meta::{Meta, Own};
use crate::stream::reader::StreamReader;
use crate::stream::writer::StreamWriter;

/// One backup of the disk: its size then, what changed, and the bytes it has.
#[derive(Debug, Clone)]
struct Layer {
    size: u64,
    extents: Vec<Extent>,
    fill: u8,
    compression: Compression,
}

/// Extents of whole 4 KiB that end with a disk of `size`; a full has no clean ones.
fn extents_of(parts: &[(u64, u8)], size: u64, full: bool) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut position = 0;
    for (length, kind) in parts.iter().cycle().take(200) {
        let length = (length * 4096).min(size - position);
        let kind = [Kind::Data, Kind::Zero, Kind::Clean][usize::from(*kind)];
        let kind = if full && kind == Kind::Clean { Kind::Zero } else { kind };
        extent::push(&mut extents, Extent::new(position, length, kind));
        position += length;
    }
    let rest = if full { Kind::Data } else { Kind::Clean };
    extent::push(&mut extents, Extent::new(position, size - position, rest));
    extents
}

/// Parts, fill, level and new size of a layer, as drawn.
type Drawn = (Vec<(u64, u8)>, u8, u8, Option<u64>);

/// Layers, the full first; between them the disk keeps its size, grows or shrinks.
fn layers() -> impl Strategy<Value = Vec<Layer>> {
    let parts = prop::collection::vec((1..700u64, 0..3u8), 1..40);
    let layer = (parts, any::<u8>(), 0..=3u8, prop::option::of(1..6_000_000u64));
    (1..6_000_000u64, prop::collection::vec(layer, 1..6)).prop_map(|(mut size, layers)| {
        let build = |(number, (parts, fill, level, resized)): (usize, Drawn)| {
            size = resized.unwrap_or(size);
            let extents = extents_of(&parts, size, number == 0);
            let compression = if level == 0 { Compression::None } else { Compression::Lz4 { level } };
            Layer { size, extents, fill, compression }
        };
        layers.into_iter().enumerate().map(build).collect()
    })
}

/// Guest bytes that differ everywhere and from layer to layer.
fn byte(layer: &Layer, offset: u64) -> u8 {
    (offset as u8).wrapping_mul(31) ^ (offset >> 12) as u8 ^ layer.fill
}

fn write(directory: &Path, number: usize, layer: &Layer) -> std::path::PathBuf {
    let meta = Meta {
        virtual_size: layer.size,
        data_size: extent::total(&layer.extents, Kind::Data),
        date: String::new(),
        disk_name: "vda".into(),
        disk_format: "qcow2".into(),
        checkpoint_name: format!("virtnbdbackup.{number}"),
        parent_checkpoint: number.checked_sub(1).map(|base| format!("virtnbdbackup.{base}")).unwrap_or_default(),
        incremental: number > 0,
        compression: layer.compression,
        stream_version: 2,
        own: Some(Own { format: 1, run: Uuid::from_u128(number as u128), index: true }),
    };
    let mut stream = StreamWriter::new(Vec::new(), &meta, directory).unwrap();
    let mut compressor = Compressor::new(layer.compression);
    let queue = Queue::new(&layer.extents, WINDOW);
    while let Some(item) = queue.take() {
        let window = item.window(layer.size);
        let bytes: Vec<u8> = window.clone().map(|offset| byte(layer, offset)).collect();
        let data: Vec<Extent> = item.extents.iter().copied().filter(|extent| extent.kind() == Kind::Data).collect();
        for extent in &item.extents {
            match extent.kind() {
                Kind::Data => {
                    let place = (extent.offset - window.start) as usize..(extent.end() - window.start) as usize;
                    let mut stored = Vec::new();
                    if layer.compression.is_lz4() {
                        compressor.compress(&bytes[place.clone()], &mut stored).unwrap();
                    } else {
                        stored.extend_from_slice(&bytes[place.clone()]);
                    }
                    stream.data_frame(extent.offset, extent.length(), &stored).unwrap();
                }
                _ if number > 0 => stream.zero_extent(extent.offset, extent.length()).unwrap(),
                _ => stream.zero_frame(extent.offset, extent.length()).unwrap(),
            }
        }
        for (block, digest) in digest_blocks(window.start, &bytes, &data).unwrap() {
            stream.digest(block, digest).unwrap();
        }
    }
    let path = directory.join(format!("{number}.data"));
    std::fs::write(&path, stream.finish().unwrap().0).unwrap();
    path
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn restored_chains_equal_a_naive_overlay(layers in layers(), way in prop::sample::select(vec![Way::Fastest, Way::Direct])) {
        let directory = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        let mut readers = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            expected.resize(layer.size as usize, 0);
            for extent in &layer.extents {
                for offset in extent.range().filter(|_| extent.kind() != Kind::Clean) {
                    expected[offset as usize] = if extent.kind() == Kind::Data { byte(layer, offset) } else { 0 };
                }
            }
            readers.push(StreamReader::open(write(directory.path(), number, layer)).unwrap());
        }
        readers.reverse();
        let chain = ChainDevice::new("vda", readers).unwrap();
        let size = chain.size();
        let fresh = directory.path().join("fresh");
        let (extents, cancel) = (chain.extents(0..size), Cancel::new());
        restore::copy(&chain, &extents, &FileSink::create(&fresh, size).unwrap().with_way(way), 3, &(), &cancel).unwrap();
        prop_assert!(std::fs::read(&fresh).unwrap() == expected, "fresh file");
        let old = directory.path().join("old");
        std::fs::write(&old, vec![0xff; 100_000]).unwrap();
        let sink = FileSink::open_existing(&old, size).unwrap().with_way(way);
        restore::copy(&chain, &extents, &sink, 1, &(), &cancel).unwrap();
        prop_assert!(std::fs::read(&old).unwrap() == expected, "existing file");
    }
}
