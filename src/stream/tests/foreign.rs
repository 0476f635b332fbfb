//! Streams without an index, as virtnbdbackup writes them: any split, long compressed frames, odd
//! leftovers; and what must be refused.

use super::*;
use crate::error::Kind as ErrorKind;
use crate::stream::frame::{Header, Kind as FrameKind};
use crate::stream::reader::Proof;

/// The stream as virtnbdbackup would write it, with `between` after `stop`.
pub(super) fn encode(picture: &Picture, between: &[u8]) -> Vec<u8> {
    let meta = serde_json::to_vec(&Meta { own: None, ..picture.meta() }).unwrap();
    let mut bytes = Header::new(FrameKind::Meta, 0, meta.len() as u64).encode().to_vec();
    bytes.extend(meta);
    bytes.extend(b"\r\n");
    let mut sizes = Vec::new();
    for frame in &picture.frames {
        let kind = match frame.kind() {
            Kind::Data => FrameKind::Data,
            Kind::Zero if !picture.incremental => FrameKind::Zero,
            _ => continue,
        };
        bytes.extend(Header::new(kind, frame.offset, frame.length()).encode());
        if kind == FrameKind::Data {
            sizes.push(payload(picture, frame, &mut bytes));
            bytes.extend(b"\r\n");
        }
    }
    bytes.extend(Header::new(FrameKind::Stop, 0, 0).encode());
    bytes.extend(between);
    if picture.compression.is_lz4() {
        let json = format!("[{}]", sizes.join(", "));
        bytes.extend(json.as_bytes());
        bytes.extend(b"\r\n");
        bytes.extend(Header::new(FrameKind::Comp, 0, json.len() as u64).encode());
    }
    bytes
}

/// Appends the payload; its entry in the list of stored sizes.
fn payload(picture: &Picture, frame: &Extent, bytes: &mut Vec<u8>) -> String {
    let Compression::Lz4 { level } = picture.compression else {
        bytes.extend(picture.bytes(frame));
        return String::new();
    };
    let mut sizes = Vec::new();
    for part in picture.bytes(frame).chunks(32 << 20) {
        // The C library with its defaults, as python's module uses it.
        let mut encoder = lz4::EncoderBuilder::new().level(level.into()).build(Vec::new()).unwrap();
        std::io::Write::write_all(&mut encoder, part).unwrap();
        let (stored, result) = encoder.finish();
        result.unwrap();
        sizes.push(stored.len());
        bytes.extend(stored);
    }
    if frame.length() < 32 << 20 {
        return sizes[0].to_string();
    }
    let list: Vec<String> = sizes.iter().map(usize::to_string).collect();
    format!("{{\"{}\": [{}]}}", sizes.iter().sum::<usize>(), list.join(", "))
}

/// What a reader can know: an inc of virtnbdbackup does not tell its zero ranges.
pub(super) fn known(picture: &Picture) -> Picture {
    let mut known = picture.clone();
    if known.incremental {
        known.frames.retain(|frame| frame.kind() == Kind::Data);
    }
    known
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_split_is_read(
        picture in picture(6 * BLOCK), steps in prop::collection::vec(1..4u64, 1..4),
        between in prop::collection::vec(any::<u8>(), 0..50)
    ) {
        let stored = Stored::new(&encode(&picture, &between));
        let reader = StreamReader::open(&stored.path).unwrap();
        prop_assert_eq!(reader.proof(), Proof::Unproven);
        check_reads(&reader, &known(&picture), &steps);
        prop_assert!(whole(&stored.path).is_sound());
        prop_assert!(structure(&stored.path).is_sound());
    }

    #[test]
    fn any_bytes_are_survived(picture in picture(BLOCK), edits in prop::collection::vec((0.0..1.0f64, any::<u8>()), 1..4)) {
        for own in [true, false] {
            let stored = Stored::new(b"");
            let mut bytes = if own { picture.write(stored.dir.path()).unwrap().0 } else { encode(&picture, b"") };
            for (place, byte) in &edits {
                let position = (bytes.len() as f64 * place) as usize;
                bytes[position] = *byte;
            }
            stored.replace(&bytes);
            let _ = whole(&stored.path);
            if let Ok(reader) = StreamReader::open(&stored.path) {
                let _ = read_all(&reader, &[1], 0);
            }
        }
    }
}

#[test]
fn long_compressed_frames_are_read_in_parts() {
    for length in [32 << 20, 70 << 20] {
        let mut disk = vec![0; length + 8192];
        fill(&mut disk[4096..4096 + length], 9, 1);
        let frames =
            vec![Extent::zero(0, 4096), Extent::data(4096, length as u64), Extent::zero(4096 + length as u64, 4096)];
        let picture = Picture { frames, disk, incremental: false, compression: Compression::Lz4 { level: 1 } };
        let stored = Stored::new(&encode(&picture, b""));
        check_reads(&StreamReader::open(&stored.path).unwrap(), &picture, &[1, 7, 40]);
    }
}

#[test]
fn sums_are_compared() {
    let bytes = encode(&small(false, Compression::None), b"");
    let stored = Stored::new(&bytes);
    let sum = simd_adler32::adler32(&&bytes[..]).to_string();
    for (text, proof) in [
        (sum.clone(), Some(Proof::Checksum)),
        (format!("{sum}\n"), Some(Proof::Checksum)),
        ("None".into(), Some(Proof::Unproven)),
        ("1".into(), None),
        ("".into(), None),
        ("-5".into(), None),
        ("99999999999".into(), None),
        ("9".repeat(1000), None),
    ] {
        stored.checksum(&text);
        let opened = StreamReader::open(&stored.path);
        let report = whole(&stored.path);
        match proof {
            Some(proof) => {
                assert_eq!((opened.unwrap().proof(), report.proof), (proof, proof), "{text}");
                assert!(report.is_sound());
            }
            None => {
                let error = opened.expect_err(&text);
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().starts_with("disk vda: "), "{error}");
                assert!(!report.is_sound());
            }
        }
    }
}

#[test]
fn broken_structure_is_refused() {
    let picture = small(false, Compression::None);
    let good = encode(&picture, b"");
    let lz4 = encode(&small(false, Compression::Lz4 { level: 1 }), b"");
    let replace = |from: &str, to: &str, bytes: &[u8]| {
        let position = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        [&bytes[..position], to.as_bytes(), &bytes[position + from.len()..]].concat()
    };
    let zero = "zero 0000000000000000 0000000000001000\r\n";
    let stop = "stop 0000000000000000 0000000000000000\r\n";
    for (name, bytes) in [
        ("no stop", good[..good.len() - 40].to_vec()),
        ("cut in the stop", good[..good.len() - 1].to_vec()),
        ("cut in a payload", good[..good.len() - 3000].to_vec()),
        ("frame twice", replace(zero, &format!("{zero}{zero}"), &good)),
        ("gap", replace(zero, "", &good)),
        ("stop too early", replace(zero, stop, &good)),
        ("stop with a length", replace(stop, "stop 0000000000000000 0000000000000001\r\n", &good)),
        ("too long", replace(zero, "zero 0000000000000000 ffffffffffffffff\r\n", &good)),
        ("overflow", replace(zero, "zero ffffffffffffffff 0000000000001000\r\n", &good)),
        ("empty frame", replace(zero, "zero 0000000000000000 0000000000000000\r\n", &good)),
        ("upper case", replace(zero, &zero.to_uppercase(), &good)),
        ("meta inside", replace(zero, "meta 0000000000000000 0000000000001000\r\n", &good)),
        ("dataSize", replace("\"dataSize\":16484", "\"dataSize\":16483", &good)),
        ("no line end", replace("\r\nzero", "\r zero", &good)),
        ("no trailer", lz4[..lz4.len() - 40].to_vec()),
        ("short list", replace("[", "[1, ", &lz4)),
        ("nonsense list", replace(", ", ",[", &lz4)),
        ("huge size", replace("[", "[9", &lz4)),
        ("not a number", replace("[", "[-", &lz4)),
        ("plain taken for LZ4", replace("\"compressed\":false", "\"compressed\":true ", &good)),
    ] {
        let stored = Stored::new(&bytes);
        let error = StreamReader::open(&stored.path).expect_err(name);
        assert!(matches!(error.kind(), ErrorKind::Incomplete | ErrorKind::Corrupt), "{name}: {error}");
        assert!(!whole(&stored.path).is_sound(), "{name}");
    }
}

#[test]
fn damaged_payloads_are_all_listed() {
    let picture = small(false, Compression::Lz4 { level: 3 });
    let mut bytes = encode(&picture, b"");
    let stored = Stored::new(&bytes);
    let pieces = StreamReader::open(&stored.path).unwrap().frames().to_vec();
    bytes[pieces[0].position as usize + 20] ^= 1;
    bytes[pieces[1].position as usize + 20] ^= 1;
    stored.replace(&bytes);
    let report = whole(&stored.path);
    let ranges: Vec<_> = report.findings.listed.iter().map(|finding| finding.range.clone()).collect();
    assert_eq!(ranges, [Some(pieces[0].range()), Some(pieces[1].range())]);
    let reader = StreamReader::open(&stored.path).unwrap();
    let error = read_all(&reader, &[1], 0).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(pieces[0].position)));
}
