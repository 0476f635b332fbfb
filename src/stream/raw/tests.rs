use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::{RawImage, RawWriter, verify};
use crate::cancel::Cancel;
use crate::error::Kind;
use crate::extent::{self, Extent, Kind as ExtentKind};
use crate::file_writer::FileWriter;
use crate::stored::StoredFile;
use crate::stream::digest::digest_blocks;
use crate::stream::out::{Pending, Placed};
use crate::stream::reader::{Proof, Scratch, StreamReader};
use crate::stream::verify::{Expected, Report, Scope};
use crate::stream::writer::Finished;

/// An image and its index in a directory of their own.
struct Written {
    _directory: TempDir,
    image: PathBuf,
    index: PathBuf,
    stored: [StoredFile; 2],
    finished: Finished,
    content: Vec<u8>,
}

/// Writes data of (length, value) pieces; zeroes where the value is 0.
fn write(pieces: &[(usize, u8)]) -> Written {
    let directory = tempfile::tempdir().unwrap();
    let (image, index) = (directory.path().join("vdb.copy.data"), directory.path().join("vdb.copy.data.index"));
    let content: Vec<u8> = pieces.iter().flat_map(|(length, value)| std::iter::repeat_n(*value, *length)).collect();
    let file = Placed::new(FileWriter::new(fs::File::create(&image).unwrap()));
    let mut writer = RawWriter::new(file, content.len() as u64, directory.path()).unwrap();
    let (mut position, mut data, mut pending) = (0, Vec::new(), Pending::default());
    for (length, value) in pieces {
        let bytes = &content[position as usize..position as usize + length];
        if *value == 0 {
            writer.zero(position, *length as u64).unwrap();
        } else {
            writer.data(position, bytes).unwrap();
            writer.take(&mut pending);
            pending.write(&mut [bytes].into_iter()).unwrap();
            extent::push(&mut data, Extent::data(position, *length as u64));
        }
        position += *length as u64;
    }
    for (block, digest) in digest_blocks(0, &content, &data).unwrap() {
        writer.digest(block, digest).unwrap();
    }
    let (file, finished) = writer.finish(&mut fs::File::create(&index).unwrap()).unwrap();
    file.sync().unwrap();
    let stored = [StoredFile::from(&image), StoredFile::from(&index)];
    Written { _directory: directory, image, index, stored, finished, content }
}

impl Written {
    fn named(&self) -> RawImage<'_> {
        RawImage { target: "vdb", file: &self.stored[0], index: Some(&self.stored[1]) }
    }

    fn verify(&self) -> Report {
        let Finished { stored_size, adler32, index_digest, .. } = self.finished;
        let expected = Expected { size: stored_size, adler32, index_digest: Some(index_digest) };
        verify(&self.named(), Some(&expected), Scope::Bytes { threads: 2 }, &|_| (), &Cancel::new()).unwrap()
    }

    /// All data through the reader.
    fn read(&self) -> crate::error::Result<Vec<u8>> {
        let reader = StreamReader::open_raw(&self.named())?;
        let mut buffer = vec![0; self.content.len()];
        reader.read(0..self.content.len() as u64, &mut buffer, &mut Scratch::default())?;
        Ok(buffer)
    }

    fn flip(path: &PathBuf, position: usize, bit: u8) {
        let mut bytes = fs::read(path).unwrap();
        bytes[position] ^= bit;
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn every_flipped_bit_of_the_index_is_found() {
    let written = write(&[(5000, 1), (8192, 0), (100, 2)]);
    let length = fs::metadata(&written.index).unwrap().len() as usize;
    for position in 0..length {
        for bit in [1, 128] {
            Written::flip(&written.index, position, bit);
            assert!(!written.verify().is_sound(), "byte {position}");
            assert!(written.read().is_err(), "byte {position}");
            Written::flip(&written.index, position, bit);
        }
    }
    assert!(written.verify().is_sound());
    let whole = fs::read(&written.index).unwrap();
    for length in 0..whole.len() {
        fs::write(&written.index, &whole[..length]).unwrap();
        assert!(StreamReader::open_raw(&written.named()).is_err(), "{length}");
        assert!(!written.verify().is_sound(), "{length}");
    }
    fs::remove_file(&written.index).unwrap();
    assert_eq!(StreamReader::open_raw(&written.named()).unwrap_err().kind(), Kind::Incomplete);
    assert!(!written.verify().is_sound());
}

#[test]
fn every_flipped_bit_of_the_image_is_found() {
    let written = write(&[(3000, 1), (4096, 0), (700, 2), (300, 0)]);
    for position in 0..written.content.len() {
        Written::flip(&written.image, position, 4);
        let report = written.verify();
        let range = report.findings.listed.first().and_then(|finding| finding.range.clone()).unwrap();
        assert!(range.contains(&(position as u64)), "byte {position}: {range:?}");
        // What reads as zero is not read: it comes back as zeroes whatever the file says.
        assert_eq!(written.read().is_err(), written.content[position] != 0, "byte {position}");
        Written::flip(&written.image, position, 4);
    }
    fs::OpenOptions::new().write(true).open(&written.image).unwrap().set_len(8095).unwrap();
    assert_eq!(StreamReader::open_raw(&written.named()).unwrap_err().kind(), Kind::Incomplete);
    assert!(!written.verify().is_sound());
}

#[test]
fn the_index_of_another_image_is_refused() {
    let (one, other) = (write(&[(5000, 1)]), write(&[(5000, 2)]));
    fs::copy(&other.index, &one.index).unwrap();
    assert!(one.read().is_err());
    assert!(!one.verify().is_sound());
}

#[test]
fn an_image_without_an_index_is_data_and_unproven() {
    let written = write(&[(5 << 20, 1), (3 << 20, 0), (512, 3)]);
    let image = RawImage { index: None, ..written.named() };
    let reader = StreamReader::open_raw(&image).unwrap();
    assert_eq!((reader.proof(), reader.is_raw(), reader.meta().virtual_size), (Proof::Unproven, true, (8 << 20) + 512));
    let content = reader.content();
    assert_eq!(content.iter().map(|extent| extent.length()).sum::<u64>(), (8 << 20) + 512);
    assert!(content.iter().all(|extent| extent.kind() != ExtentKind::Clean));
    let report = verify(&image, None, Scope::Bytes { threads: 2 }, &|_| (), &Cancel::new()).unwrap();
    assert!(report.is_sound() && report.proof == Proof::Unproven);
}

/// A pipe has no holes.
#[test]
fn zeroes_are_written_where_nothing_can_be_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = RawWriter::new(Vec::new(), 200_000, directory.path()).unwrap();
    writer.zero(0, 150_000).unwrap();
    writer.data(150_000, &[7; 50_000]).unwrap();
    writer.digest(0, [0; 16]).unwrap();
    let (bytes, finished) = writer.finish(&mut Vec::new()).unwrap();
    assert!(bytes == [&[0; 150_000][..], &[7; 50_000]].concat());
    assert_eq!(finished.adler32, simd_adler32::adler32(&bytes.as_slice()));
}

#[test]
fn disorder_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let writer = || RawWriter::new(Vec::new(), 100, directory.path()).unwrap();
    let mut gap = writer();
    assert!(gap.data(1, &[1]).is_err());
    let mut long = writer();
    assert!(long.zero(0, 101).is_err());
    let mut short = writer();
    short.zero(0, 99).unwrap();
    assert!(short.finish(&mut Vec::new()).is_err());
    let mut owed = writer();
    owed.data(0, &[1; 100]).unwrap();
    assert!(owed.finish(&mut Vec::new()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_is_written_is_read_back(pieces in prop::collection::vec((1..700_000usize, 0..3u8), 0..12)) {
        let written = write(&pieces);
        prop_assert_eq!(&fs::read(&written.image).unwrap(), &written.content);
        prop_assert_eq!(written.finished.adler32, simd_adler32::adler32(&written.content.as_slice()));
        prop_assert_eq!(written.finished.stored_size, written.content.len() as u64);
        prop_assert_eq!(&written.read().unwrap(), &written.content);
        let report = written.verify();
        prop_assert!(report.is_sound(), "{:?}", report.findings);
        prop_assert_eq!(report.proof, Proof::Digests);
    }
}
