//! Damage costs the reads that touch it, and is told; all others go on.

use std::os::unix::fs::FileExt;

use virtkeep::stream::codec::Compression;
use virtkeep::stream::reader::StreamReader;

use super::Map;
use super::chain::Chain;
use super::client::{Client, READ};
use crate::support::{MIB, Random, run};

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
        // In a plain stream the place of the byte is known; a compressed frame is damaged as a whole.
        let position = if compression == Compression::None {
            piece.position + 6 * MIB - piece.offset
        } else {
            piece.position + piece.stored / 2
        };
        flip(&chain.files[0], position);
        let damaged = if compression == Compression::None { 6 * MIB..7 * MIB } else { piece.range() };
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
        let blocks = (damaged.end - damaged.start) / MIB;
        assert_eq!(said.matches("error: ").count() as u64, blocks, "each block once: {said}");
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
