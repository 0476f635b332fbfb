//! Clients that send garbage, stop reading, or come by the thousand: they lose their own connection, and
//! another client's reads go on.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use virtkeep::stream::codec::Compression;

use super::Map;
use super::chain::Chain;
use super::client::{Client, DISCONNECT, READ, TRIM, WRITE_ZEROES, option, request, string};
use crate::support::{MIB, Random};

fn disk(size: u64) -> Chain {
    let mut random = Random::new(5);
    let content = (0..size / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    Chain::full(content, Compression::None)
}

/// Fails the test unless the server ends the connection.
#[track_caller]
fn is_closed(stream: &mut UnixStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}"),
    }
}

/// Options, each with the kind of reply that it deserves.
#[test]
fn malformed_options_are_refused_and_the_handshake_goes_on() {
    const ERROR: u32 = 1 << 31;
    let chain = disk(MIB);
    let map = Map::start(&["-f", &chain.list()]);
    let mut stream = Client::greeted(&map.socket);
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    let go = |name: &str, count: u16| [string(name), count.to_be_bytes().to_vec()].concat();
    let contexts = |count: u32| [string("vda"), count.to_be_bytes().to_vec(), string("base:allocation")].concat();
    for (number, data, kind) in [
        (3, b"x".to_vec(), ERROR | 3),
        (5, vec![], ERROR | 2),
        (10, contexts(1), ERROR | 3),
        (8, b"x".to_vec(), ERROR | 3),
        (8, vec![], 1),
        (10, contexts(2), ERROR | 3),
        (10, contexts(u32::MAX), ERROR | 3),
        (10, vec![], ERROR | 3),
        (9, contexts(1), 1),
        (7, vec![], ERROR | 3),
        (7, go("vda", 1), ERROR | 3),
        (7, go("vdb", 0), ERROR | 6),
        (6, go(&"x".repeat(5000), 0), ERROR | 3),
        (6, go("vda", 0), 1),
        (4, vec![], ERROR | 1),
        (11, vec![], ERROR | 1),
        (u32::MAX, vec![0; 60_000], ERROR | 1),
        (7, vec![0; 100_000], ERROR | 9),
        (7, u32::MAX.to_be_bytes().to_vec(), ERROR | 3),
    ] {
        let replies = option(&mut stream, number, &data);
        assert_eq!(replies.last().unwrap().0, kind, "option {number} with {} bytes", data.len());
    }
    assert_eq!(option(&mut stream, 2, &[]), [(1, vec![])]);
    is_closed(&mut stream);
    assert_eq!(map.end("TERM").status, 0);
}

#[test]
fn what_is_no_client_loses_its_connection_only() {
    let chain = disk(MIB);
    let map = Map::start(&["-f", &chain.list()]);
    let mut good = Client::connect(&map.socket, "vda", true);
    let mut random = Random::new(9);
    for round in 0..40 {
        let mut stream = Client::greeted(&map.socket);
        let garbage: Vec<u8> = (0..100).flat_map(|_| random.next().to_le_bytes()).collect();
        // Garbage at once, behind the flags, and behind an option's magic.
        match round % 3 {
            0 => {}
            1 => stream.write_all(&3u32.to_be_bytes()).unwrap(),
            _ => stream.write_all(b"\0\0\0\x03IHAVEOPT").unwrap(),
        }
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        is_closed(&mut stream);

        let mut client = Client::connect(&map.socket, "vda", round % 2 == 0);
        let _ = client.stream.write_all(&garbage);
        is_closed(&mut client.stream);
        assert!(good.read(round, 5000) == chain.content[round as usize..round as usize + 5000]);
    }
    // What is a request, but not allowed, costs an error.
    for (flags, command, offset, length, error) in [
        (0, READ, MIB, 1, 22),
        (0, READ, u64::MAX, 1, 22),
        (0, READ, 0, u32::MAX, 22),
        (1 << 9, READ, 0, 1, 22),
        (0, TRIM, 0, 1, 1),
        (0, WRITE_ZEROES, 0, 1, 1),
        (0, 99, 0, 0, 22),
    ] {
        assert_eq!(good.ask(flags, command, offset, length).error, error, "{command} {offset} {length}");
    }
    assert_eq!(good.write(0, 0, &[1; 5000]), 1);
    assert_eq!(good.write(0, 0, &vec![1; 3 << 20]), 1);
    assert!(good.read(0, 100) == chain.content[..100]);
    good.send(0, DISCONNECT, 0, 0, 0);
    is_closed(&mut good.stream);
    assert_eq!(map.end("TERM").status, 0);
}

/// The median time of short reads, which come from all of the disk.
fn median(client: &mut Client, content: &[u8]) -> Duration {
    let mut random = Random::new(3);
    let mut times: Vec<Duration> = (0..400)
        .map(|_| {
            let offset = random.below(client.size / 4096 - 1) * 4096;
            let begin = Instant::now();
            let data = client.read(offset, 4096);
            let time = begin.elapsed();
            assert!(data == content[offset as usize..offset as usize + 4096]);
            time
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// A thousand connections, most of which never say a word.
fn crowd(socket: &Path) -> Vec<UnixStream> {
    (0..1000)
        .filter_map(|number| {
            let mut stream = UnixStream::connect(socket).ok()?;
            if number % 2 == 0 {
                let _ = stream.write_all(&3u32.to_be_bytes());
            }
            Some(stream)
        })
        .collect()
}

#[test]
fn one_client_reads_on_beside_hostile_ones() {
    let chain = disk(64 * MIB);
    let map = Map::start(&["-f", &chain.list()]);
    let mut good = Client::connect(&map.socket, "vda", false);
    let mut other = Client::connect(&map.socket, "vda", true);
    for offset in (0..64 * MIB).step_by(MIB as usize) {
        assert!(good.read(offset, MIB as u32) == chain.content[offset as usize..][..MIB as usize]);
    }
    let alone = median(&mut good, &chain.content);

    let crowd = crowd(&map.socket);
    // These ask for everything and read nothing.
    let deaf: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = Client::connect(&map.socket, "vda", true);
            client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            for cookie in 0..2000 {
                let offset = cookie % 64 * MIB;
                if client.stream.write_all(&request(0, READ, cookie, offset, MIB as u32)).is_err() {
                    break;
                }
            }
            client
        })
        .collect();
    let beside = median(&mut good, &chain.content);
    println!("median of a read: {alone:?} alone, {beside:?} beside hostile clients");
    assert!(other.read(0, 4096) == chain.content[..4096]);
    // Others can come, too.
    assert!(Client::connect(&map.socket, "vda", true).read(MIB, 10) == chain.content[MIB as usize..][..10]);

    let memory = map.peak_memory();
    assert!(memory < 150 * 1024, "{memory} KiB");
    drop((crowd, deaf));
    assert_eq!(map.end("TERM").status, 0);
}

#[test]
fn connections_beyond_the_limit_are_closed_and_one_that_ends_makes_room() {
    let chain = disk(MIB);
    let map = Map::start(&["-f", &chain.list()]);
    // One that was answered is counted.
    let client = |_| {
        let mut client = Client::connect(&map.socket, "vda", false);
        assert_eq!(client.read(0, 1), chain.content[..1]);
        client
    };
    let clients: Vec<Client> = (0..64).map(client).collect();
    let mut refused = Client::connect(&map.socket, "vda", false);
    is_closed(&mut refused.stream);
    map.says("there are 64 connections already");
    drop(clients);
    let begin = Instant::now();
    // A moment until they are seen to have gone.
    loop {
        let mut client = Client::connect(&map.socket, "vda", false);
        client.send(0, READ, 1, 0, 1);
        if client.stream.read(&mut [0]).is_ok_and(|read| read == 1) {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "no room");
    }
}
