//! Streams as a whole: written by us, by a stand-in for virtnbdbackup, cut, damaged and read back
//! against a plain picture of the disk.

mod cache;
mod damage;
mod foreign;
mod golden;
mod own;
mod tables;
mod walk;

use std::ops::Range;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;
use uuid::Uuid;

use crate::cancel::Cancel;
use crate::error::Result;
use crate::extent::{self, Extent, Kind};
use crate::stream::BLOCK;
use crate::stream::codec::{Compression, Compressor};
use crate::stream::digest::BlockHasher;
use crate::stream::meta::{Meta, Own};
use crate::stream::reader::{Scratch, StreamReader};
use crate::stream::verify::{Report, Scope, verify};
use crate::stream::writer::{Finished, StreamWriter};

/// What a check of every byte finds.
fn whole(path: &Path) -> Report {
    verify(path, None, Scope::Bytes { threads: 2 }, &|_| (), &Cancel::new()).unwrap()
}

/// What a look at the structure finds.
fn structure(path: &Path) -> Report {
    verify(path, None, Scope::Structure, &|_| (), &Cancel::new()).unwrap()
}

/// What a stream is to hold: data frames, zero ranges, and the bytes of the disk.
#[derive(Debug, Clone)]
struct Picture {
    /// Frames as written: equal neighbours are separate frames.
    frames: Vec<Extent>,
    disk: Vec<u8>,
    incremental: bool,
    compression: Compression,
}

impl Picture {
    fn meta(&self) -> Meta {
        Meta {
            virtual_size: self.disk.len() as u64,
            data_size: extent::total(&self.frames, Kind::Data),
            date: "2026-01-02T03:04:05.678901".into(),
            disk_name: "vda".into(),
            disk_format: "qcow2".into(),
            checkpoint_name: if self.incremental { "virtnbdbackup.1" } else { "virtnbdbackup.0" }.into(),
            parent_checkpoint: if self.incremental { "virtnbdbackup.0" } else { "" }.into(),
            incremental: self.incremental,
            compression: self.compression,
            stream_version: 2,
            own: Some(Own { format: 1, run: Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff), index: true }),
        }
    }

    fn bytes(&self, extent: &Extent) -> &[u8] {
        &self.disk[extent.offset as usize..extent.end() as usize]
    }

    /// What a reader must say of the disk.
    fn content(&self) -> Vec<Extent> {
        let mut list = Vec::new();
        for frame in self.frames.iter().filter(|frame| frame.kind() != Kind::Clean) {
            extent::push(&mut list, *frame);
        }
        extent::fill(&list, 0..self.disk.len() as u64, Kind::Clean)
    }

    fn write(&self, spool: &Path) -> Result<(Vec<u8>, Finished)> {
        let mut compressor = Compressor::new(self.compression);
        let mut stored = Vec::new();
        self.write_with(spool, &mut |plain| {
            compressor.compress(plain, &mut stored)?;
            Ok(stored.clone())
        })
    }

    /// The stream, with payloads made by `store`.
    fn write_with(&self, spool: &Path, store: &mut dyn FnMut(&[u8]) -> Result<Vec<u8>>) -> Result<(Vec<u8>, Finished)> {
        let mut writer = StreamWriter::new(Vec::new(), &self.meta(), spool)?;
        let mut hasher = BlockHasher::new();
        for frame in &self.frames {
            match frame.kind() {
                Kind::Data => {
                    writer.data_frame(frame.offset, frame.length(), &store(self.bytes(frame))?)?;
                    hasher
                        .update(frame.offset, self.bytes(frame), &mut |block, digest| writer.digest(block, digest))?;
                }
                Kind::Zero if self.incremental => writer.zero_extent(frame.offset, frame.length())?,
                Kind::Zero => writer.zero_frame(frame.offset, frame.length())?,
                Kind::Clean => {}
            }
        }
        hasher.finish(&mut |block, digest| writer.digest(block, digest))?;
        writer.finish()
    }
}

/// A disk of up to `size` bytes cut at multiples of 4096; ends anywhere.
fn picture(size: u64) -> impl Strategy<Value = Picture> {
    let kinds = prop::collection::vec((1..400u64, 0..3u8, any::<u8>()), 1..12);
    (1..size, kinds, any::<bool>(), 0..=3u8).prop_map(|(size, parts, incremental, level)| {
        let mut frames = Vec::new();
        let mut disk = vec![0; size as usize];
        let mut position = 0;
        for (number, (length, kind, seed)) in parts.iter().cycle().take(60).enumerate() {
            let length = (length * 4096).min(size - position);
            if length == 0 {
                break;
            }
            let kind = match (kind, incremental) {
                (0, _) => Kind::Data,
                (1, true) => Kind::Clean,
                _ => Kind::Zero,
            };
            let frame = Extent::new(position, length, kind);
            if kind == Kind::Data {
                fill(&mut disk[position as usize..frame.end() as usize], *seed, number);
            }
            frames.push(frame);
            position += length;
        }
        if position < size {
            frames.push(Extent::zero(position, size - position));
        }
        let compression = if level == 0 { Compression::None } else { Compression::Lz4 { level } };
        Picture { frames, disk, incremental, compression }
    })
}

/// Bytes that compress in part, and differ from block to block.
fn fill(bytes: &mut [u8], seed: u8, number: usize) {
    let mut state = u32::from(seed) * 7919 + number as u32 + 1;
    for (position, byte) in bytes.iter_mut().enumerate() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = if position % 64 < 40 { seed } else { (state >> 24) as u8 };
    }
}

/// A small picture whose frames share blocks, and one that ends off every boundary.
fn small(incremental: bool, compression: Compression) -> Picture {
    let size = 2 * BLOCK + 4096 + 100;
    let mut disk = vec![0; size as usize];
    let middle = if incremental { Kind::Clean } else { Kind::Zero };
    let frames = vec![
        Extent::zero(0, 4096),
        Extent::data(4096, 4096),
        Extent::new(8192, BLOCK - 12288, middle),
        Extent::data(BLOCK - 4096, 8192),
        Extent::zero(BLOCK + 4096, BLOCK - 4096),
        Extent::data(2 * BLOCK, 4096 + 100),
    ];
    for (number, frame) in frames.iter().enumerate().filter(|(_, frame)| frame.kind() == Kind::Data) {
        fill(&mut disk[frame.offset as usize..frame.end() as usize], 0x5a, number);
    }
    Picture { frames, disk, incremental, compression }
}

/// A directory with one stream in it.
struct Stored {
    dir: TempDir,
    path: PathBuf,
}

impl Stored {
    fn new(bytes: &[u8]) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("vda data.full.data");
        std::fs::write(&path, bytes).unwrap();
        Self { dir, path }
    }

    fn replace(&self, bytes: &[u8]) {
        std::fs::write(&self.path, bytes).unwrap();
    }

    fn checksum(&self, text: &str) {
        std::fs::write(self.dir.path().join("vda data.full.data.chksum"), text).unwrap();
    }
}

/// Reads everything the stream carries, `step` blocks at a time, over a filler.
fn read_all(reader: &StreamReader, steps: &[u64], filler: u8) -> Result<(Vec<u8>, Vec<Extent>)> {
    let size = reader.meta().virtual_size;
    let mut scratch = Scratch::default();
    let mut disk = vec![filler; size as usize];
    let mut carried = Vec::new();
    let mut position = 0;
    for step in steps.iter().cycle() {
        if position == size {
            break;
        }
        let range: Range<u64> = position..(position + step * BLOCK).min(size);
        let buffer = &mut disk[range.start as usize..range.end as usize];
        for extent in reader.read(range.clone(), buffer, &mut scratch)? {
            extent::push(&mut carried, extent);
        }
        position = range.end;
    }
    Ok((disk, carried))
}

/// Proves that reading gives the picture: data in place, the rest of the buffer untouched.
fn check_reads(reader: &StreamReader, picture: &Picture, steps: &[u64]) {
    assert_eq!(reader.content(), picture.content());
    let (disk, carried) = read_all(reader, steps, 0xee).unwrap();
    let data: Vec<Extent> = picture.content().into_iter().filter(|e| e.kind() == Kind::Data).collect();
    assert_eq!(carried, data);
    let mut expected = vec![0xee; picture.disk.len()];
    for extent in &data {
        let range = extent.offset as usize..extent.end() as usize;
        expected[range.clone()].copy_from_slice(&picture.disk[range]);
    }
    assert!(disk == expected, "bytes differ");
}
