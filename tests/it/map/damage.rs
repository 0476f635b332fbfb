//! Damage costs the reads that touch it, and is told; all others go on.

use std::os::unix::fs::FileExt;

use virtkeep::stream::codec::Compression;
use virtkeep::stream::reader::StreamReader;

use super::Map;
use super::chain::Chain;
use super::client::{Client, READ};
use crate::support::{MIB, Random, run, virtkeep};

fn flip(path: &std::path::Path, position: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ 1], position).unwrap();
}

#[test]
fn a_damaged_block_is_an_error_for_who_reads_it() {
    let mut random = Random::new(8);
    let content: Vec<u8> =
        (0..16 * MIB / 8).flat_map(|_| random.next().to_le_bytes().map(|byte| byte & 15 | 1)).collect();
    for compression in [Compression::None, Compression::Lz4 { level: 1 }] {
        let chain = Chain::full(content.clone(), compression);
        let piece = {
            let reader = StreamReader::open(chain.files[0].as_path()).unwrap();
            let number = reader.frames().partition_point(|piece| piece.end() <= 6 * MIB);
            reader.frames()[number]
        };
        // In a compressed frame the first of its blocks of 1 MiB, which is decompressed for itself.
        let (position, start) = match compression {
            Compression::None => (piece.position + 6 * MIB - piece.offset, 6 * MIB),
            Compression::Lz4 { .. } => (piece.position + 1000, piece.offset),
        };
        flip(&chain.files[0], position);
        let damaged = start..start + MIB;
        let map = Map::start(&["-f", &chain.list()]);
        for structured in [true, false] {
            let mut client = Client::connect(&map.socket, "vda", structured);
            for offset in (0..16 * MIB).step_by(65536) {
                let answer = client.ask(0, READ, offset, 65536);
                if damaged.contains(&offset) {
                    assert_eq!(answer.error, 5, "{offset}");
                } else {
                    assert!(answer.error == 0 && answer.data == content[offset as usize..][..65536], "{offset}");
                }
            }
            // A long read that meets it fails, and the connection lives on.
            assert_eq!(client.ask(0, READ, 4 * MIB, 4 << 20).error, 5);
            assert_eq!(client.ask(1 << 2 & if structured { u16::MAX } else { 0 }, READ, 0, 1 << 20).error, 0);
        }
        let said = map.end("TERM").succeeds().stderr;
        let name = chain.files[0].to_str().unwrap();
        assert!(said.contains(name) && said.contains("is damaged at offset"), "{said}");
        assert_eq!(said.matches("error: ").count(), 1, "each block once: {said}");
    }
}

/// As docs/disaster.md has it: all but the damaged block comes out.
#[test]
fn the_rest_of_a_damaged_disk_can_be_copied() {
    let content: Vec<u8> = (0..8 * MIB).map(|place| (place / 4096) as u8 | 1).collect();
    let chain = Chain::full(content.clone(), Compression::None);
    let (position, damaged) = {
        let reader = StreamReader::open(chain.files[0].as_path()).unwrap();
        let piece = reader.frames()[reader.frames().partition_point(|piece| piece.end() <= 2 * MIB)];
        (piece.position + 2 * MIB - piece.offset, 2 * MIB..3 * MIB)
    };
    flip(&chain.files[0], position);
    let copy = chain.files[0].with_extension("copy");
    let command = |tool: &str| format!("{tool} \"$uri\" {}", copy.display());
    let files = chain.list();
    virtkeep(&[&"map", &"-f", &files, &"-e", &command("nbdcopy")]).ends_with(1);
    std::fs::remove_file(&copy).unwrap();
    virtkeep(&[&"map", &"-f", &files, &"-e", &command("qemu-img convert --salvage -f raw -O raw")])
        .succeeds()
        .says(&["is damaged at offset"]);
    let copied = std::fs::read(&copy).unwrap();
    for place in (0..8 * MIB).step_by(512) {
        let range = place as usize..place as usize + 512;
        let expected = if damaged.contains(&place) { &[0; 512][..] } else { &content[range.clone()] };
        assert!(copied[range] == *expected, "{place}");
    }
}

#[test]
fn a_file_that_becomes_shorter_is_an_error_for_who_reads_the_rest() {
    let chain = Chain::full(vec![3; 8 << 20], Compression::None);
    let map = Map::start(&["-f", &chain.list()]);
    let mut client = Client::connect(&map.socket, "vda", true);
    for offset in [MIB, 7 * MIB] {
        assert_eq!(client.read(offset, 4096), [3; 4096]);
    }
    let file = std::fs::File::options().write(true).open(&chain.files[0]).unwrap();
    file.set_len(5 * MIB).unwrap();
    // Proven before or not.
    assert_eq!(client.ask(0, READ, 7 * MIB, 4096).error, 5);
    assert_eq!(client.ask(0, READ, 6 * MIB, 4096).error, 5);
    // This is there, but the digests at the end of the file, by which to prove it, are not.
    assert_eq!(client.ask(0, READ, 2 * MIB, 4096).error, 5);
    assert_eq!(client.read(MIB, 4096), [3; 4096]);
    drop(client);
    let copied = run("nbdcopy", &[&map.uris[0], &map.directory().join("copy")]);
    assert_ne!(copied.status, 0);
    map.end("TERM").succeeds();
}
