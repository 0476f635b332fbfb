//! Tables of virtnbdbackup's streams in a cache: the second opening reads nothing, and says the same.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::foreign::{encode, known};
use super::*;
use crate::cancel::Cancel;
use crate::error::Kind as ErrorKind;
use crate::stream::cache::{Cache, forge};
use crate::stream::reader::{Opening, Proof};

/// Opens by way of the cache; with the bytes that were read for it.
fn open(path: &Path, cache: &Cache) -> Result<(StreamReader, u64)> {
    let read = AtomicU64::new(0);
    let progress = |bytes| {
        read.fetch_add(bytes, Ordering::Relaxed);
    };
    let reader =
        StreamReader::open_as(path, Opening { progress: &progress, cancel: &Cancel::new(), cache: Some(cache) })?;
    Ok((reader, read.into_inner()))
}

fn tables(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

/// A stream with a sum beside it.
fn stream(compression: Compression) -> (Picture, Stored) {
    let mut disk = vec![0; 5 * BLOCK as usize + 4096];
    fill(&mut disk[4096..3 * BLOCK as usize], 9, 1);
    let frames = vec![
        Extent::zero(0, 4096),
        Extent::data(4096, 2 * BLOCK),
        Extent::data(4096 + 2 * BLOCK, BLOCK - 4096),
        Extent::zero(3 * BLOCK, 2 * BLOCK + 4096),
    ];
    let picture = Picture { frames, disk, incremental: false, compression };
    let bytes = encode(&picture, b"");
    let stored = Stored::new(&bytes);
    write_sum(&stored.path, &bytes);
    (picture, stored)
}

fn write_sum(path: &Path, bytes: &[u8]) {
    let mut adler = simd_adler32::Adler32::new();
    adler.write(bytes);
    std::fs::write(format!("{}.chksum", path.display()), adler.finish().to_string()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_kept_table_is_what_was_read(picture in picture(6 * BLOCK), steps in prop::collection::vec(1..4u64, 1..4)) {
        let stored = Stored::new(&encode(&picture, b""));
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path());
        for round in 0..2 {
            prop_assert_eq!(cache.knows(&stored.path.as_path().into()), round == 1);
            let (reader, read) = open(&stored.path, &cache).unwrap();
            prop_assert_eq!((reader.proof(), read > 0), (Proof::Unproven, round == 0));
            prop_assert!(reader.has_digests());
            check_reads(&reader, &known(&picture), &steps);
        }
    }
}

#[test]
fn a_changed_file_is_read_again() {
    for compression in [Compression::None, Compression::Lz4 { level: 1 }] {
        let (picture, stored) = stream(compression);
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().join("made/here"));
        assert_eq!(open(&stored.path, &cache).unwrap().0.proof(), Proof::Checksum);
        let (reader, read) = open(&stored.path, &cache).unwrap();
        assert_eq!((reader.proof(), read), (Proof::Checksum, 0));
        // Damage: the sum tells at once.
        let mut bytes = std::fs::read(&stored.path).unwrap();
        let modified = stored.path.metadata().unwrap().modified().unwrap();
        bytes[700_000] ^= 1;
        std::fs::write(&stored.path, &bytes).unwrap();
        // Who puts the time back fools nobody.
        std::fs::File::options().write(true).open(&stored.path).unwrap().set_modified(modified).unwrap();
        assert_eq!(open(&stored.path, &cache).unwrap_err().kind(), ErrorKind::Corrupt);
        // Another sum beside the same stream.
        bytes[700_000] ^= 1;
        std::fs::write(&stored.path, &bytes).unwrap();
        assert!(open(&stored.path, &cache).unwrap().1 > 0);
        assert_eq!(open(&stored.path, &cache).unwrap().1, 0);
        std::fs::write(format!("{}.chksum", stored.path.display()), "5").unwrap();
        assert_eq!(open(&stored.path, &cache).unwrap_err().kind(), ErrorKind::Corrupt);
        std::fs::remove_file(format!("{}.chksum", stored.path.display())).unwrap();
        let (reader, read) = open(&stored.path, &cache).unwrap();
        assert_eq!((reader.proof(), read > 0), (Proof::Unproven, true));
        check_reads(&reader, &known(&picture), &[2]);
        // A copy is another file.
        let copy = stored.path.with_extension("copy");
        std::fs::copy(&stored.path, &copy).unwrap();
        assert!(open(&copy, &cache).unwrap().1 > 0);
        assert_eq!(tables(&directory.path().join("made/here")).len(), 2);
    }
}

/// What no time and no size tells: the medium lost a bit.
#[test]
fn silent_damage_is_found_when_it_is_read() {
    for compression in [Compression::None, Compression::Lz4 { level: 1 }] {
        let (picture, stored) = stream(compression);
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path());
        let good = open(&stored.path, &cache).unwrap().0;
        let place = good.frames()[1].position + 1000;
        let mut bytes = std::fs::read(&stored.path).unwrap();
        bytes[place as usize] ^= 1;
        std::fs::write(&stored.path, &bytes).unwrap();
        forge(&cache, &good, &stored.path);
        let (reader, read) = open(&stored.path, &cache).unwrap();
        assert_eq!((read, reader.proof()), (0, Proof::Checksum));
        let mut buffer = vec![0; 3 * BLOCK as usize];
        for block in 0..3 {
            let range = block * BLOCK..(block + 1) * BLOCK;
            let place = &mut buffer[range.start as usize..range.end as usize];
            let read = reader.read(range.clone(), place, &mut Scratch::default());
            // The second frame begins shortly behind the third block.
            match block {
                2 => assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt),
                _ => assert!(
                    read.is_ok() && place[4096..] == picture.disk[range.start as usize + 4096..range.end as usize]
                ),
            }
        }
    }
}

#[test]
fn a_damaged_table_is_made_anew() {
    let (picture, stored) = stream(Compression::None);
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path());
    open(&stored.path, &cache).unwrap();
    let [table] = tables(directory.path()).try_into().unwrap();
    assert_eq!(table.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let good = std::fs::read(&table).unwrap();
    for place in (0..good.len()).step_by(5) {
        let mut bad = good.clone();
        bad[place] ^= 1 << (place % 8);
        std::fs::write(&table, &bad).unwrap();
        let (reader, read) = open(&stored.path, &cache).unwrap();
        assert!(read > 0, "{place}");
        if place % 80 == 0 {
            check_reads(&reader, &known(&picture), &[1]);
        }
    }
    for length in [0, 1, 31, 32, 100, good.len() - 1] {
        std::fs::write(&table, &good[..length]).unwrap();
        assert!(open(&stored.path, &cache).unwrap().1 > 0, "{length}");
    }
    // Somebody else could have written it.
    std::fs::set_permissions(&table, Permissions::from_mode(0o622)).unwrap();
    assert!(open(&stored.path, &cache).unwrap().1 > 0);
    assert_eq!(open(&stored.path, &cache).unwrap().1, 0);
    // No place for it is no matter.
    let file = directory.path().join("a file");
    std::fs::write(&file, "").unwrap();
    for _ in 0..2 {
        assert!(open(&stored.path, &Cache::new(&file)).unwrap().1 > 0);
        assert!(open(&stored.path, &Cache::new("/proc/nowhere")).unwrap().1 > 0);
    }
}
