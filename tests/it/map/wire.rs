//! What comes over the wire is the disk: any range, in any order, by several connections at once.

use std::collections::HashMap;
use std::time::Instant;

use super::Map;
use super::chain::{Chain, piece_of};
use super::client::{BLOCK_STATUS, Client, READ};
use virtkeep::stream::codec::Compression;

use crate::support::Random;

/// Offsets and lengths of all kinds: within a block, over its end, long, of one byte.
fn range(random: &mut Random, size: u64) -> (u64, u32) {
    let longest = *random.pick(&[1, 512, 4096, 70_000, 1 << 20, 3 << 20]);
    let length = 1 + random.below(longest.min(size));
    (random.below(size - length + 1), length as u32)
}

#[test]
fn reads_of_any_range_equal_a_naive_overlay() {
    for seed in 0..8 {
        let chain = Chain::random(seed, 1 + seed as usize % 5, 1 << (18 + seed % 6));
        let map = Map::start(&["-f", &chain.list(), "--cache", "16M"]);
        let mut random = Random::new(seed + 1000);
        // One with chunks, asked one thing at a time, in the middle of its fellows.
        let mut chunks = Client::connect(&map.socket, "vda", true);
        assert_eq!(chunks.size, chain.content.len() as u64);
        let mut simple: Vec<Client> = (0..3).map(|_| Client::connect(&map.socket, "", false)).collect();
        for _ in 0..12 {
            let mut asked: Vec<HashMap<u64, (u64, u32)>> = vec![HashMap::new(); simple.len()];
            for (client, asked) in simple.iter_mut().zip(&mut asked) {
                for cookie in 0..12 {
                    let (offset, length) = range(&mut random, client.size);
                    client.send(0, READ, cookie, offset, length);
                    asked.insert(cookie, (offset, length));
                }
            }
            let (offset, length) = range(&mut random, chunks.size);
            let expected = &chain.content[offset as usize..offset as usize + length as usize];
            // The flag asks for one chunk.
            let flags = if random.one_in(2) { 1 << 2 } else { 0 };
            let answer = chunks.ask(flags, READ, offset, length);
            assert!(
                answer.error == 0 && answer.data == expected,
                "seed {seed}: {length} at {offset}, {}",
                answer.error
            );
            for (client, asked) in simple.iter_mut().zip(&mut asked) {
                while !asked.is_empty() {
                    let (cookie, answer) = client.receive(|cookie| asked[&cookie]);
                    let (offset, length) = asked.remove(&cookie).expect("a reply to nothing");
                    let expected = &chain.content[offset as usize..offset as usize + length as usize];
                    assert!(answer.error == 0 && answer.data == expected, "seed {seed}: {length} at {offset}");
                }
            }
        }
        check_extents(&mut chunks, &chain.content, &mut random);
        assert_eq!(map.end("TERM").status, 0);
    }
}

#[test]
fn parts_of_compressed_blocks_are_read_for_themselves() {
    // More than is kept in memory: what was proven is decompressed again, by the slice.
    let mut random = Random::new(77);
    let mut byte = |at: u32| if at >> 15 & 3 == 0 { 0 } else { random.below(9) as u8 };
    let content: Vec<u8> = (0..(40 << 20) + 4096).map(&mut byte).collect();
    for level in [1, 9] {
        let chain = Chain::full(content.clone(), Compression::Lz4 { level });
        let map = Map::start(&["-f", &chain.list(), "--cache", "1M"]);
        let mut client = Client::connect(&map.socket, "vda", true);
        let mut check = |offset: u64, length: u32| {
            let expected = &content[offset as usize..offset as usize + length as usize];
            let answer = client.ask(0, READ, offset, length);
            assert!(answer.error == 0 && answer.data == expected, "{length} at {offset}, {}", answer.error);
        };
        let size = content.len() as u64;
        for offset in (0..size).step_by(1 << 20) {
            check(offset, (size - offset).min(1 << 20) as u32);
        }
        for _ in 0..400 {
            let (offset, length) = range(&mut random, size);
            check(offset, length);
        }
        assert_eq!(map.end("TERM").status, 0);
    }
}

/// Extents cover what was asked for, and what they call zero is.
fn check_extents(client: &mut Client, content: &[u8], random: &mut Random) {
    for _ in 0..20 {
        let (offset, length) = range(random, client.size);
        let all = client.ask(0, BLOCK_STATUS, offset, length);
        let mut position = offset as usize;
        for &(length, flags) in &all.extents {
            assert!(length > 0 && (flags == 0 || flags == 3));
            let part = &content[position..position + length as usize];
            assert!(flags == 0 || part.iter().all(|&byte| byte == 0), "no zeroes at {position}");
            position += length as usize;
        }
        assert_eq!(position as u64, offset + u64::from(length));
        assert!(all.extents.windows(2).all(|pair| pair[0].1 != pair[1].1), "equal neighbours");
        let one = client.ask(1 << 3, BLOCK_STATUS, offset, length);
        assert_eq!(one.extents, all.extents[..1]);
    }
}

/// Time is told, not judged; memory is bounded whatever the chain.
#[test]
fn a_chain_of_a_million_pieces_is_served_at_once_and_in_little_memory() {
    let chain = Chain::fragmented();
    let begin = Instant::now();
    let map = Map::start(&["-f", &chain.list()]);
    println!("ready after {:?}", begin.elapsed());
    let mut client = Client::connect(&map.socket, "vda", true);
    assert_eq!(client.size, 100 << 30);
    let mut random = Random::new(4);
    for _ in 0..2000 {
        let (offset, fill) = piece_of(random.below(800_000));
        assert_eq!(client.read(offset, 4096), [fill; 4096], "at {offset}");
        assert_eq!(client.read(offset + 4096, 4096), [0; 4096]);
    }
    // Lists of extents are long, but not without end.
    let mut position = 0;
    while position < 4 << 30 {
        let extents = client.ask(0, BLOCK_STATUS, position, 3 << 30).extents;
        position += extents.iter().map(|(length, _)| u64::from(*length)).sum::<u64>();
    }
    let memory = map.peak_memory();
    println!("{memory} KiB");
    assert!(memory < 150 * 1024, "{memory} KiB");
    map.end("TERM").succeeds();
}
