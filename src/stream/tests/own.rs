//! What we write is what we read; what must not be written is refused.

use super::*;
use crate::cancel::Cancel;
use crate::error::Kind as ErrorKind;
use crate::stream::digest::DIGEST_LEN;
use crate::stream::reader::Proof;
use crate::stream::verify::{Expected, Scope, verify};

fn expected(finished: &Finished) -> Expected {
    Expected { size: finished.stored_size, adler32: finished.adler32, index_digest: Some(finished.index_digest) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn reading_inverts_writing(picture in picture(6 * BLOCK), steps in prop::collection::vec(1..4u64, 1..4)) {
        let stored = Stored::new(b"");
        let (bytes, finished) = picture.write(stored.dir.path()).unwrap();
        stored.replace(&bytes);
        prop_assert_eq!(finished.stored_size, bytes.len() as u64);
        prop_assert_eq!(finished.adler32, simd_adler32::adler32(&&bytes[..]));
        let reader = StreamReader::open(&stored.path).unwrap();
        prop_assert_eq!(reader.meta(), &picture.meta());
        prop_assert_eq!(reader.proof(), Proof::Digests);
        prop_assert_eq!(reader.index_digest(), Some(finished.index_digest));
        check_reads(&reader, &picture, &steps);
        for scope in [Scope::Bytes { threads: 3 }, Scope::Structure] {
            let report = verify(&stored.path, Some(&expected(&finished)), scope, &|_| (), &Cancel::new()).unwrap();
            prop_assert!(report.is_sound(), "{:?}", report.findings);
        }
    }

    #[test]
    fn random_prefixes_are_errors(picture in picture(3 * BLOCK), cut in 0.0..1.0f64) {
        let stored = Stored::new(b"");
        let (bytes, _) = picture.write(stored.dir.path()).unwrap();
        stored.replace(&bytes[..(bytes.len() as f64 * cut) as usize]);
        prop_assert!(StreamReader::open(&stored.path).is_err());
    }
}

#[test]
fn every_prefix_is_an_error_and_so_is_more() {
    for picture in [
        small(false, Compression::None),
        small(true, Compression::None),
        small(false, Compression::Lz4 { level: 1 }),
        small(true, Compression::Lz4 { level: 3 }),
    ] {
        let stored = Stored::new(b"");
        let (bytes, _) = picture.write(stored.dir.path()).unwrap();
        for len in (0..bytes.len()).rev() {
            let file = std::fs::File::options().write(true).open(&stored.path).unwrap();
            if len + 1 == bytes.len() {
                stored.replace(&bytes);
            }
            file.set_len(len as u64).unwrap();
            let error = StreamReader::open(&stored.path).expect_err("prefix taken for a stream");
            assert!(matches!(error.kind(), ErrorKind::Incomplete | ErrorKind::Corrupt), "{len}: {error}");
            assert!(error.to_string().contains("vda data.full.data"), "{error}");
        }
        stored.replace(&[&bytes[..], b"\0"].concat());
        StreamReader::open(&stored.path).expect_err("trailing byte");
        stored.replace(&[&bytes[..], &bytes[..]].concat());
        StreamReader::open(&stored.path).expect_err("two streams in one");
    }
}

#[test]
fn a_swapped_index_is_refused() {
    let stored = Stored::new(b"");
    let mut picture = small(false, Compression::None);
    let (one, first) = picture.write(stored.dir.path()).unwrap();
    picture.disk[4096] ^= 1;
    let (two, second) = picture.write(stored.dir.path()).unwrap();
    assert_eq!(one.len(), two.len());
    assert_ne!(first.index_digest, second.index_digest);
    let end = one.len() - 600;
    stored.replace(&[&one[..end], &two[end..]].concat());
    let reader = StreamReader::open(&stored.path).unwrap();
    let error = read_all(&reader, &[1], 0).unwrap_err();
    assert!(error.to_string().contains("guest range 0..1048576"), "{error}");
    stored.replace(&two);
    let report = verify(&stored.path, Some(&expected(&first)), Scope::Structure, &|_| (), &Cancel::new()).unwrap();
    assert!(!report.is_sound());
}

#[test]
fn readers_are_shared_and_workers_sent() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<StreamReader>();
    sent::<(Scratch, Compressor, StreamWriter<std::fs::File>)>();
}

#[test]
fn ranges_that_cannot_be_proven_are_refused() {
    let stored = Stored::new(b"");
    let picture = small(false, Compression::None);
    stored.replace(&picture.write(stored.dir.path()).unwrap().0);
    let reader = StreamReader::open(&stored.path).unwrap();
    let size = picture.disk.len() as u64;
    let mut buffer = vec![0; 3 << 20];
    for (range, len) in [
        (1..BLOCK, BLOCK - 1),
        (0..BLOCK - 1, BLOCK - 1),
        (0..BLOCK, BLOCK - 1),
        (0..size + 1, size + 1),
        (0..3 * BLOCK, 3 * BLOCK),
        (Range { start: BLOCK, end: 0 }, 0),
        (u64::MAX - BLOCK + 1..u64::MAX, 0),
    ] {
        let result = reader.read(range.clone(), &mut buffer[..len as usize], &mut Scratch::default());
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Usage, "{range:?}");
    }
    reader.read(0..0, &mut [], &mut Scratch::default()).unwrap();
    reader.read(0..size, &mut buffer[..size as usize], &mut Scratch::default()).unwrap();
}

#[test]
fn the_writer_refuses_what_readers_would() {
    type Step = fn(&mut StreamWriter<Vec<u8>>) -> Result<()>;
    let dir = TempDir::new().unwrap();
    let page = [0; 4096];
    let writer = |incremental, compression, disk: u64, data: u64| {
        let picture = Picture { frames: Vec::new(), disk: vec![0; disk as usize], incremental, compression };
        let meta = Meta { data_size: data, ..picture.meta() };
        StreamWriter::new(Vec::new(), &meta, dir.path()).unwrap()
    };
    let steps: [(&str, Step); 9] = [
        ("zero frame in an inc", |w| w.zero_frame(0, 4096)),
        ("unaligned start", |w| w.data_frame(1, 4095, &[0; 4095])),
        ("unaligned end", |w| w.data_frame(0, 4095, &[0; 4095])),
        ("beyond the disk", |w| w.data_frame(4096, 8192, &[0; 8192])),
        ("overflow", |w| w.data_frame(u64::MAX - 4095, 4096, &[0; 4096])),
        ("empty", |w| w.data_frame(0, 0, &[])),
        ("short payload", |w| w.data_frame(0, 4096, &[0; 4095])),
        ("digest of a block without data", |w| w.digest(0, [0; DIGEST_LEN])),
        ("going back", |w| w.zero_extent(4096, 4096).and_then(|()| w.data_frame(0, 4096, &[0; 4096]))),
    ];
    for (name, step) in steps {
        let error = step(&mut writer(true, Compression::None, 8192, 4096)).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Usage, "{name}");
    }
    let mut full = writer(false, Compression::None, 8192, 4096);
    full.zero_extent(0, 4096).expect_err("zero extent in a full");
    full.data_frame(4096, 4096, &page).expect_err("gap in a full");
    full.data_frame(0, 4096, &page).unwrap();
    full.digest(1, [0; DIGEST_LEN]).expect_err("wrong block");
    full.digest(0, [0; DIGEST_LEN]).unwrap();
    full.digest(0, [0; DIGEST_LEN]).expect_err("twice");
    full.finish().expect_err("full that ends early");
    let mut full = writer(false, Compression::None, 8192, 4096);
    full.data_frame(0, 4096, &page).unwrap();
    full.zero_frame(4096, 4096).unwrap();
    full.finish().expect_err("missing digest");
    writer(true, Compression::None, 8192, 4096).finish().expect_err("dataSize");
    let mut long = writer(true, Compression::Lz4 { level: 1 }, 1 << 26, 4096);
    long.data_frame(0, 1 << 25, &page).expect_err("32 MiB in one LZ4 frame");
    let picture = small(false, Compression::None);
    let foreign = Meta { own: None, ..picture.meta() };
    assert!(StreamWriter::new(Vec::new(), &foreign, dir.path()).is_err());
    let error = StreamWriter::new(Vec::new(), &picture.meta(), &dir.path().join("missing")).err().unwrap();
    assert!(crate::error::hint(&error).unwrap().contains("--scratchdir"));
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_allocated() {
    let stored = Stored::new(b"");
    let header = |length: u64| format!("meta 0000000000000000 {length:016x}\r\n");
    for length in [0, 1, 1 << 20, (1 << 20) + 1, 1 << 40, u64::MAX] {
        stored.replace(format!("{}{{}}", header(length)).as_bytes());
        let error = StreamReader::open(&stored.path).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incomplete), "{error}");
    }
    stored.replace(b"");
    assert_eq!(StreamReader::open(&stored.path).unwrap_err().kind(), ErrorKind::Incomplete);
    assert_eq!(StreamReader::open(stored.dir.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(StreamReader::open(stored.dir.path()).unwrap_err().kind(), ErrorKind::Usage);
}
