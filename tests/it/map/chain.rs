//! Chains of streams with random content, and what a disk of them must read as.

use std::path::{Path, PathBuf};

use virtkeep::extent::{self, Extent, Kind};
use virtkeep::pipeline::work::{Queue, WINDOW};
use virtkeep::stream::codec::{Compression, Compressor};
use virtkeep::stream::digest::digest_blocks;
use virtkeep::stream::meta::{Meta, Own};
use virtkeep::stream::writer::StreamWriter;

use crate::support::Random;

/// Streams of one disk, the full first, and its content at the end.
pub struct Chain {
    pub directory: tempfile::TempDir,
    pub files: Vec<PathBuf>,
    pub content: Vec<u8>,
}

impl Chain {
    /// `layers` streams of a disk of about `size` bytes; compressed ones and plain ones, of a disk that
    /// is resized now and then.
    pub fn random(seed: u64, layers: usize, size: u64) -> Chain {
        let mut random = Random::new(seed);
        let directory = tempfile::tempdir().unwrap();
        let mut size = size + random.below(4096);
        let (mut files, mut content) = (Vec::new(), Vec::new());
        for number in 0..layers {
            if number > 0 && random.one_in(4) {
                size = size / 2 + random.below(size);
            }
            let extents = extents(&mut random, size, number == 0);
            let level = random.below(3) as u8;
            let compression = if level == 0 { Compression::None } else { Compression::Lz4 { level } };
            content.resize(size as usize, 0);
            apply(&mut content, &extents, number as u64 + seed * 100);
            files.push(write(directory.path(), number, size, &extents, &content, compression));
        }
        Chain { directory, files, content }
    }

    /// A full of `content`, its zero blocks of 4 KiB left out.
    pub fn full(content: Vec<u8>, compression: Compression) -> Chain {
        let directory = tempfile::tempdir().unwrap();
        let mut extents = Vec::new();
        for (number, block) in content.chunks(4096).enumerate() {
            let kind = if block.iter().all(|&byte| byte == 0) { Kind::Zero } else { Kind::Data };
            extent::push(&mut extents, Extent::new(number as u64 * 4096, block.len() as u64, kind));
        }
        let file = write(directory.path(), 0, content.len() as u64, &extents, &content, compression);
        Chain { directory, files: vec![file], content }
    }

    /// A disk of 100 GiB in a million pieces: a full and 30 increments. The content stays on disk; see
    /// [`piece_of`].
    pub fn fragmented() -> Chain {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for number in 0..=30u64 {
            let extents = (0..if number == 0 { 800_000 } else { 6_667 }).map(|piece| {
                Extent::data(if number == 0 { piece * STRIDE } else { (piece * 30 + number) * STRIDE }, 4096)
            });
            files.push(write_pieces(directory.path(), number, extents.collect()));
        }
        Chain { directory, files, content: Vec::new() }
    }

    /// For `-f`.
    pub fn list(&self) -> String {
        self.files.iter().map(|file| file.to_str().unwrap()).collect::<Vec<_>>().join(",")
    }

    /// The content as a raw file.
    pub fn reference(&self) -> PathBuf {
        let path = self.directory.path().join("reference.raw");
        std::fs::write(&path, &self.content).unwrap();
        path
    }
}

fn extents(random: &mut Random, size: u64, full: bool) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut position = 0;
    while position < size {
        let longest = *random.pick(&[1, 4, 64, 700]);
        let length = ((1 + random.below(longest)) * 4096).min(size - position);
        let kind = *random.pick(&[Kind::Data, Kind::Zero, Kind::Clean]);
        let kind = if full && kind == Kind::Clean { Kind::Data } else { kind };
        extent::push(&mut extents, Extent::new(position, length, kind));
        position += length;
    }
    extents
}

/// Bytes that differ everywhere and from layer to layer, and compress a little.
fn apply(content: &mut [u8], extents: &[Extent], salt: u64) {
    for extent in extents {
        for offset in extent.range() {
            match extent.kind() {
                Kind::Clean => {}
                Kind::Zero => content[offset as usize] = 0,
                Kind::Data => {
                    let mixed = (offset >> 3).wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    content[offset as usize] = 1 + ((mixed >> 56) as u8 & 0x3f);
                }
            }
        }
    }
}

/// The head of the stream of run `number`: a full, and then increments.
fn meta(number: u64, size: u64, extents: &[Extent], compression: Compression) -> Meta {
    Meta {
        virtual_size: size,
        data_size: extent::total(extents, Kind::Data),
        date: String::new(),
        disk_name: "vda".into(),
        disk_format: "qcow2".into(),
        checkpoint_name: format!("virtnbdbackup.{number}"),
        parent_checkpoint: number.checked_sub(1).map(|base| format!("virtnbdbackup.{base}")).unwrap_or_default(),
        incremental: number > 0,
        compression,
        stream_version: 2,
        own: Some(Own { format: 1, run: uuid::Uuid::from_u128(u128::from(number)), index: true }),
    }
}

/// Writes one stream; the data extents have their bytes in `content`.
fn write(
    directory: &Path,
    number: usize,
    size: u64,
    extents: &[Extent],
    content: &[u8],
    compression: Compression,
) -> PathBuf {
    let meta = meta(number as u64, size, extents, compression);
    let mut stream = StreamWriter::new(Vec::new(), &meta, directory).unwrap();
    let mut compressor = Compressor::new(compression);
    let queue = Queue::new(extents, WINDOW);
    while let Some(item) = queue.take() {
        let window = item.window(size);
        let bytes = &content[window.start as usize..window.end as usize];
        for extent in &item.extents {
            match extent.kind() {
                Kind::Data => {
                    let place = (extent.offset - window.start) as usize..(extent.end() - window.start) as usize;
                    let mut stored = Vec::new();
                    compressor.compress(&bytes[place], &mut stored).unwrap();
                    stream.data_frame(extent.offset, extent.length(), &stored).unwrap();
                }
                _ if number > 0 => stream.zero_extent(extent.offset, extent.length()).unwrap(),
                _ => stream.zero_frame(extent.offset, extent.length()).unwrap(),
            }
        }
        let data: Vec<Extent> = item.extents.iter().copied().filter(|extent| extent.kind() == Kind::Data).collect();
        for (block, digest) in digest_blocks(window.start, bytes, &data).unwrap() {
            stream.digest(block, digest).unwrap();
        }
    }
    let path = directory.join(format!("{number}.data"));
    std::fs::write(&path, stream.finish().unwrap().0).unwrap();
    path
}

/// Between two pieces of a fragmented disk.
const STRIDE: u64 = 128 << 10;

/// Where piece `number` of a fragmented disk lies, and the byte that it is full of.
pub fn piece_of(number: u64) -> (u64, u8) {
    let layer = if number < 6_667 * 30 && number % 30 != 0 {
        number % 30
    } else if number >= 30 && number / 30 <= 6_667 && number % 30 == 0 {
        30
    } else {
        0
    };
    (number * STRIDE, 1 + layer as u8)
}

fn write_pieces(directory: &Path, number: u64, extents: Vec<Extent>) -> PathBuf {
    let fill = vec![1 + number as u8; 1 << 20];
    let compression = Compression::Lz4 { level: 1 };
    let meta = meta(number, 100 << 30, &extents, compression);
    let mut stored = Vec::new();
    Compressor::new(compression).compress(&fill[..4096], &mut stored).unwrap();
    let mut stream = StreamWriter::new(Vec::new(), &meta, directory).unwrap();
    let mut position = 0;
    for block in extents.chunk_by(|a, b| a.offset >> 20 == b.offset >> 20) {
        for extent in block {
            if number == 0 && extent.offset > position {
                stream.zero_frame(position, extent.offset - position).unwrap();
            }
            stream.data_frame(extent.offset, extent.length(), &stored).unwrap();
            position = extent.end();
        }
        let start = block[0].offset >> 20 << 20;
        for (block, digest) in digest_blocks(start, &fill, block).unwrap() {
            stream.digest(block, digest).unwrap();
        }
    }
    if number == 0 {
        stream.zero_frame(position, meta.virtual_size - position).unwrap();
    }
    let path = directory.join(format!("{number}.data"));
    std::fs::write(&path, stream.finish().unwrap().0).unwrap();
    path
}
