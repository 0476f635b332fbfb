//! Indexes that a writer would not write, with digests that hold all the same.

use super::*;
use crate::error::Kind as ErrorKind;
use crate::stream::frame::{Header as FrameHeader, Kind as FrameKind};
use crate::stream::index::{HEADER_LEN, Header, decode_tables};
use crate::stream::varint::put_varint;

/// Numbers that tables stumble over.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(40),
        Just(42),
        Just(80),
        Just(82),
        Just(u64::MAX),
        Just(u64::MAX - 1),
        Just(1 << 63),
        Just(4096),
        Just(BLOCK),
        0..100_000u64,
        any::<u64>()
    ]
}

fn varints(numbers: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    numbers.iter().for_each(|&number| put_varint(&mut bytes, number));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn any_numbers_are_survived(
        frames in prop::collection::vec(number(), 0..12), zeros in prop::collection::vec(number(), 0..6),
        fixed in prop::collection::vec(number(), 5), position in number(), incremental: bool, lz4: bool
    ) {
        let compression = if lz4 { Compression::Lz4 { level: 1 } } else { Compression::None };
        let picture = Picture { frames: Vec::new(), disk: vec![0; 1], incremental, compression };
        let meta = Meta { virtual_size: fixed[0] >> 1, data_size: fixed[1], ..picture.meta() };
        let (frames, zeros) = (varints(&frames), varints(&zeros));
        let header = Header {
            raw: false,
            virtual_size: meta.virtual_size,
            first_frame: fixed[2],
            frames: fixed[3].min(frames.len() as u64 / 4),
            frames_len: frames.len() as u64,
            zeros: fixed[4].min(zeros.len() as u64 / 2),
            zeros_len: zeros.len() as u64,
            digests: 0,
            meta_hash: [0; 32],
            headers_hash: [0; 32],
        };
        let bytes = [frames, zeros].concat();
        let result = decode_tables(&header, &meta, position, &mut bytes.as_slice());
        if let Ok(index) = result {
            prop_assert!(index.pieces.iter().all(|piece| piece.end() <= meta.virtual_size));
        }
    }

    #[test]
    fn fixed_parts_are_read_back_or_refused(bytes in prop::collection::vec(any::<u8>(), 16 * 8), len: u64) {
        let mut fixed = [0; HEADER_LEN];
        fixed[8..].copy_from_slice(&bytes);
        prop_assert!(Header::decode(&fixed, len).is_err());
        fixed[..16].copy_from_slice(b"VKINDEX\0\x01\0\0\0\0\0\x10\0");
        if let Ok(header) = Header::decode(&fixed, len) {
            prop_assert_eq!(header.encode(), fixed);
        }
    }
}

/// A stream whose index was forged: right digests over wrong tables.
#[test]
fn forged_indexes_are_refused() {
    let stored = Stored::new(b"");
    let picture = small(true, Compression::None);
    let (bytes, _) = picture.write(stored.dir.path()).unwrap();
    stored.replace(&bytes);
    let reader = StreamReader::open(&stored.path).unwrap();
    assert_eq!(reader.frames().len(), 3);
    let start = bytes.windows(8).position(|window| window == b"VKINDEX\0").unwrap();
    let len = bytes.len() - 42 - start;
    let field = |offset: usize, value: u64| -> Vec<u8> {
        let mut index = bytes[start..start + len - 32].to_vec();
        index[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        index
    };
    let huge = 1u64 << 60;
    for (name, mut index) in [
        ("virtual size", field(16, huge)),
        ("first frame", field(24, 3)),
        ("frame count", field(32, 2)),
        ("frame count", field(32, huge)),
        ("frame bytes", field(40, u64::MAX)),
        ("zero count", field(48, 1)),
        ("zero bytes", field(56, huge)),
        ("digest count", field(64, huge)),
        ("digest count", field(64, u64::MAX / 16 + 1)),
        ("meta digest", field(72, 1)),
    ] {
        let digest = blake3::hash(&index);
        index.extend(digest.as_bytes());
        let mut forged = bytes[..start].to_vec();
        forged.extend(&index);
        forged.extend(b"\r\n");
        forged.extend(FrameHeader::new(FrameKind::Indx, 0, index.len() as u64).encode());
        stored.replace(&forged);
        let error = StreamReader::open(&stored.path).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
    }
}
