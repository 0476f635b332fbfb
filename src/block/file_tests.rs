use super::*;
use crate::error::report;
use std::os::unix::fs::MetadataExt;
use tempfile::TempDir;

fn stored(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

#[test]
fn what_cannot_be_written_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    assert_eq!(FileSink::open_existing(&path, 1).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(FileSink::open_existing(directory.path(), 1).unwrap_err().kind(), Kind::Usage);
    assert_eq!(FileSink::open_existing(Path::new("/dev/null"), 1).unwrap_err().kind(), Kind::Usage);
    let sink = FileSink::create(&path, MIB).unwrap();
    assert_eq!(FileSink::create(&path, MIB).unwrap_err().kind(), Kind::Busy);
    for (offset, data) in [(MIB, &[1][..]), (MIB - 1, &[1, 2]), (u64::MAX, &[1, 2])] {
        let error = sink.write_at(data, offset).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (Kind::Usage, Some(offset)), "{}", report(&error));
        assert!(sink.write_zeroes(offset..offset.saturating_add(2)).is_err() || offset == u64::MAX);
    }
    assert_eq!(path.metadata().unwrap().len(), MIB);
}

#[test]
fn a_new_file_is_sparse() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    let sink = FileSink::create(&path, 64 * MIB).unwrap();
    assert!(sink.is_zeroed());
    sink.write_zeroes(0..32 * MIB).unwrap();
    sink.write_at(&[7; 4096], 32 * MIB).unwrap();
    sink.write_zeroes(33 * MIB..64 * MIB).unwrap();
    sink.flush().unwrap();
    assert_eq!((sink.size(), path.metadata().unwrap().len()), (64 * MIB, 64 * MIB));
    assert!(stored(&path) < MIB, "{}", stored(&path));
    let content = std::fs::read(&path).unwrap();
    assert!(content.iter().enumerate().all(|(at, &byte)| (byte == 7) == (at >> 12 == (32 << 8))));
}

#[test]
fn zeroes_over_old_content_are_holes() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, vec![7; 9 << 20]).unwrap();
    let sink = FileSink::open_existing(&path, 8 * MIB).unwrap();
    assert!(!sink.is_zeroed());
    sink.write_zeroes(1001..7 * MIB + 3).unwrap();
    sink.write_zeroes(5..5).unwrap();
    sink.flush().unwrap();
    let content = std::fs::read(&path).unwrap();
    assert_eq!(content.len(), 8 << 20);
    assert!(content.iter().enumerate().all(|(at, &byte)| (byte == 0) == (1001..(7 << 20) + 3).contains(&at)));
    assert!(stored(&path) < 3 * MIB, "{}", stored(&path));
}

/// Runs `zero` over a file of sevens with a `fallocate` that answers as told, and returns the ways
/// tried.
fn zero_with(answers: &[rustix::io::Result<()>]) -> (Result<()>, Vec<FallocateFlags>, Vec<u8>) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, vec![7; 3 << 20]).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let mut tried = Vec::new();
    let outcome = zero(&file, 100..(2 << 20) + 100, &mut |way, offset, length| {
        assert_eq!((offset, length), (100, 2 << 20));
        tried.push(way);
        answers[tried.len() - 1]
    });
    (outcome, tried, std::fs::read(&path).unwrap())
}

#[test]
fn refused_ways_fall_back() {
    let [punch, zero_range] = FAST_WAYS;
    let untouched = |content: &[u8]| content.iter().all(|&byte| byte == 7);

    let (outcome, tried, content) = zero_with(&[Ok(())]);
    assert!(outcome.is_ok() && tried == [punch] && untouched(&content));

    let (outcome, tried, content) = zero_with(&[Err(Errno::INTR), Err(Errno::NOTSUP), Ok(())]);
    assert!(outcome.is_ok() && tried == [punch, punch, zero_range] && untouched(&content));

    let (outcome, tried, content) = zero_with(&[Err(Errno::NOTSUP), Err(Errno::INVAL)]);
    assert!(outcome.is_ok() && tried == [punch, zero_range]);
    assert!(content.iter().enumerate().all(|(at, &byte)| (byte == 0) == (100..(2 << 20) + 100).contains(&at)));

    let (outcome, tried, content) = zero_with(&[Err(Errno::IO)]);
    assert_eq!(outcome.unwrap_err().offset(), Some(100));
    assert!(tried == [punch] && untouched(&content));
}
