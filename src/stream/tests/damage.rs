//! No bit of a stream of ours may change unnoticed.

use super::*;
use crate::cancel::Cancel;
use crate::stream::codec::Decompressor;
use crate::stream::verify::{Scope, verify};

fn pictures() -> Vec<Picture> {
    vec![
        small(false, Compression::None),
        small(true, Compression::None),
        small(false, Compression::Lz4 { level: 2 }),
        small(true, Compression::Lz4 { level: 9 }),
    ]
}

/// Everything a restore uses: content and bytes.
fn restored(path: &Path) -> Result<(Vec<Extent>, Meta, Vec<u8>)> {
    let reader = StreamReader::open(path)?;
    let (bytes, _) = read_all(&reader, &[1, 2], 0)?;
    Ok((reader.content(), reader.meta().clone(), bytes))
}

#[test]
fn every_flipped_bit_is_found() {
    for picture in pictures() {
        let stored = Stored::new(b"");
        let (good, _) = picture.write(stored.dir.path()).unwrap();
        stored.replace(&good);
        let reference = restored(&stored.path).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(&stored.path).unwrap();
        use std::os::unix::fs::FileExt;
        for position in 0..good.len() {
            // One bit of each byte by turns, all of them outside of payloads.
            let all = good.len() < 4000 || position < 600 || position > good.len() - 900;
            for bit in (0..8).filter(|bit| all || position % 8 == *bit) {
                file.write_all_at(&[good[position] ^ 1 << bit], position as u64).unwrap();
                let report = whole(&stored.path);
                assert!(!report.is_sound(), "byte {position}, bit {bit} of {}", good.len());
                assert!(report.findings.omitted == 0);
                // Reading may not notice what it does not use, but never gives anything else.
                if position % 8 == bit {
                    if let Ok(other) = restored(&stored.path) {
                        assert!(other == reference, "byte {position}, bit {bit}");
                    }
                }
            }
            file.write_all_at(&[good[position]], position as u64).unwrap();
        }
        assert!(whole(&stored.path).is_sound());
    }
}

#[test]
fn each_damage_is_listed_with_its_place() {
    for compression in [Compression::None, Compression::Lz4 { level: 1 }] {
        let stored = Stored::new(b"");
        let picture = small(false, compression);
        let (mut bytes, _) = picture.write(stored.dir.path()).unwrap();
        stored.replace(&bytes);
        let pieces = StreamReader::open(&stored.path).unwrap().frames().to_vec();
        for piece in [&pieces[0], &pieces[2]] {
            bytes[piece.position as usize + 30] ^= 4;
        }
        stored.replace(&bytes);
        let report = whole(&stored.path);
        let ranges: Vec<_> = report.findings.listed.iter().map(|finding| finding.range.clone().unwrap()).collect();
        let size = picture.disk.len() as u64;
        match compression {
            Compression::None => assert_eq!(ranges, [0..BLOCK, 2 * BLOCK..size]),
            Compression::Lz4 { .. } => assert_eq!(ranges, [pieces[0].range(), pieces[2].range()]),
        }
        for (finding, piece) in report.findings.listed.iter().zip([&pieces[0], &pieces[2]]) {
            assert_eq!(finding.error.offset(), Some(piece.position));
            let text = finding.error.to_string();
            assert!(text.starts_with("disk vda: ") && text.contains("vda data.full.data"), "{text}");
        }
    }
}

#[test]
fn cancelling_ends_a_check() {
    let stored = Stored::new(b"");
    stored.replace(&small(false, Compression::None).write(stored.dir.path()).unwrap().0);
    let cancel = Cancel::new();
    cancel.cancel();
    let error = verify(&stored.path, None, Scope::Bytes { threads: 2 }, &|_| (), &cancel).unwrap_err();
    assert_eq!(error.kind(), crate::error::Kind::Cancelled);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn flips_in_random_streams_are_found(picture in picture(4 * BLOCK), place in 0.0..1.0f64, bit in 0..8u8) {
        let stored = Stored::new(b"");
        let (mut bytes, _) = picture.write(stored.dir.path()).unwrap();
        let position = (bytes.len() as f64 * place) as usize;
        bytes[position] ^= 1 << bit;
        stored.replace(&bytes);
        prop_assert!(!whole(&stored.path).is_sound());
    }

    #[test]
    fn payloads_are_whole_or_refused(
        len in 1..3_000_000usize, level in 1..=6u8, seed: u8, cut in 0.0..1.0f64, wrong in 1..5000usize
    ) {
        let mut content = vec![0; len];
        fill(&mut content, seed, 1);
        let mut stored = Vec::new();
        let mut compressor = Compressor::new(Compression::Lz4 { level });
        compressor.compress(b"something before", &mut stored).unwrap();
        compressor.compress(&content, &mut stored).unwrap();
        prop_assert!(stored.len() as u64 <= crate::stream::codec::max_stored(len as u64));
        let mut decompressor = Decompressor::new();
        let mut output = vec![1; len];
        decompressor.decompress_exact(&mut stored, &mut output).unwrap();
        prop_assert!(output == content);
        let mut part = stored[..(stored.len() as f64 * cut) as usize].to_vec();
        prop_assert!(decompressor.decompress_exact(&mut part, &mut output).is_err());
        let mut twice = [&stored[..], &stored[..]].concat();
        prop_assert!(decompressor.decompress_exact(&mut twice, &mut output).is_err());
        let mut longer = vec![0; len + wrong];
        prop_assert!(decompressor.decompress_exact(&mut stored, &mut longer).is_err());
        prop_assert!(decompressor.decompress_exact(&mut stored, &mut longer[..len.saturating_sub(wrong)]).is_err());
        output.fill(1);
        decompressor.decompress_exact(&mut stored, &mut output).unwrap();
        prop_assert!(output == content);
    }
}
