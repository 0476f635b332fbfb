//! Every byte gets to its place, whichever way, and a write that fails is told of.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use rustix::fs::OFlags;

use super::cached::Cached;
use super::chunk::CHUNK;
use super::direct::Direct;
use super::{FileWriter, MAX_WRITE, Way};

/// Pages of this size are refused by file systems of disks.
const TOO_SMALL: usize = 1;

/// A writer around the page cache, whatever the storage is.
fn around(path: &Path, page: usize) -> FileWriter {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    let mut options = File::options();
    options.write(true);
    let direct = options.clone().custom_flags(OFlags::DIRECT.bits() as i32).open(path).or_else(|_| options.open(path));
    with_direct(file, direct.unwrap(), page)
}

fn with_direct(file: File, direct: File, page: usize) -> FileWriter {
    let cached = Arc::new(Cached::new(file));
    let direct = Direct::new(direct, page, Arc::clone(&cached));
    FileWriter { cached, way: Way::Fastest, direct: OnceLock::from(Some(direct)) }
}

fn through(path: &Path) -> FileWriter {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    FileWriter::new(file).with_way(Way::PageCache)
}

fn byte(position: u64) -> u8 {
    (position / 1000 * 31 + position) as u8 | 1
}

/// A piece of a file: what it leaves out before itself, and its length.
fn pieces() -> impl Strategy<Value = Vec<(u64, usize)>> {
    let gap = prop_oneof![6 => Just(0), 1 => 1..5000u64, 1 => Just(4096), 1 => 0..3_000_000u64];
    let len = prop_oneof![2 => 1..2000usize, 2 => Just(65536), 2 => 1..300_000usize, 2 => CHUNK - 50..2 * CHUNK + 50];
    prop::collection::vec((gap, len), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn threads_write_at_their_places(pieces in pieces(), threads in 1..12usize, swapped: bool) {
        let directory = tempfile::tempdir().unwrap();
        let page = rustix::param::page_size();
        let ways = [
            through(&directory.path().join("through")),
            around(&directory.path().join("around"), page),
            around(&directory.path().join("refused"), TOO_SMALL),
        ];
        let (mut ranges, mut end) = (Vec::new(), 0);
        for (gap, len) in pieces {
            ranges.push(end + gap..end + gap + len as u64);
            end += gap + len as u64;
        }
        let mut expected = vec![0; end as usize];
        ranges.iter().cloned().flatten().for_each(|position| expected[position as usize] = byte(position));
        if swapped {
            ranges.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
        }
        for writer in &ways {
            std::thread::scope(|scope| {
                for first in 0..threads {
                    let ranges = &ranges;
                    scope.spawn(move || {
                        for range in ranges.iter().skip(first).step_by(threads) {
                            let bytes: Vec<u8> = range.clone().map(byte).collect();
                            let (head, tail) = bytes.split_at(bytes.len() / 3);
                            let mut slices = [IoSlice::new(head), IoSlice::new(&[]), IoSlice::new(tail)];
                            writer.write(&mut slices, range.start).unwrap();
                        }
                    });
                }
            });
            writer.drain().unwrap();
            let mut found = vec![0; expected.len()];
            writer.file().read_exact_at(&mut found, 0).unwrap();
            prop_assert!(found == expected);
            prop_assert_eq!(writer.file().metadata().unwrap().len(), end);
            writer.sync().unwrap();
        }
    }
}

/// More threads than chunks that may be open, none of which is ever whole.
#[test]
fn threads_do_not_wait_for_each_other_forever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let writer = around(&path, rustix::param::page_size());
    std::thread::scope(|scope| {
        for thread in 0..20u64 {
            let writer = &writer;
            scope.spawn(move || {
                (0..20).for_each(|turn| writer.write_at(&[1; 10], (turn * 20 + thread) * CHUNK as u64).unwrap());
            });
        }
    });
    writer.drain().unwrap();
    let file = File::open(&path).unwrap();
    for number in 0..400 {
        let mut bytes = [0; 11];
        let read = file.read_at(&mut bytes, number * CHUNK as u64).unwrap();
        assert_eq!(&bytes[..read], if number < 399 { &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0][..] } else { &[1; 10] });
    }
}

#[test]
fn long_writes_are_cut() {
    let directory = tempfile::tempdir().unwrap();
    let writer = through(&directory.path().join("file"));
    let bytes: Vec<u8> = (0..3 * MAX_WRITE as u64 + 5).map(byte).collect();
    writer.write_at(&bytes, 7).unwrap();
    writer.sync().unwrap();
    let mut found = vec![0; bytes.len()];
    writer.file().read_exact_at(&mut found, 7).unwrap();
    assert!(found == bytes);
}

#[test]
fn errors_are_told() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let writer = FileWriter::new(full());
    assert_eq!(writer.write_at(&[1], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    let unwritable = FileWriter::new(File::open("/dev/zero").unwrap());
    assert!(unwritable.write_at(&[1], 0).is_err());
}

/// A write that is done later fails later: nobody may believe that it was done, whenever they ask.
#[test]
fn errors_of_later_are_told_until_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let full = |path: &str| File::options().write(true).open(path).unwrap();
    for len in [CHUNK, 10, CHUNK + 10] {
        let writer = with_direct(full("/dev/full"), full("/dev/full"), 4096);
        writer.write_at(&vec![1; len], 0).unwrap();
        for _ in 0..2 {
            assert_eq!(writer.drain().unwrap_err().kind(), io::ErrorKind::StorageFull, "{len}");
            assert_eq!(writer.sync().unwrap_err().raw_os_error(), Some(28), "{len}");
            assert_eq!(writer.write_at(&[1], 5 << 20).unwrap_err().kind(), io::ErrorKind::StorageFull, "{len}");
        }
    }
    // Whoever goes on writing is told without asking, and does not wait for room that there never is.
    let writer = with_direct(File::create(directory.path().join("file")).unwrap(), full("/dev/full"), 4096);
    let bytes = vec![1; CHUNK];
    let failed = (0..100).find_map(|number| writer.write_at(&bytes, number * CHUNK as u64).err());
    assert_eq!(failed.map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
}

/// After an error, or a Ctrl-C, nobody waits for what is of no use any more.
#[test]
fn what_is_dropped_ends() {
    let directory = tempfile::tempdir().unwrap();
    let writer = around(&directory.path().join("file"), rustix::param::page_size());
    (0..5).for_each(|number| writer.write_at(&vec![1; CHUNK + 1], number * 2 * CHUNK as u64).unwrap());
    drop(writer);
}
