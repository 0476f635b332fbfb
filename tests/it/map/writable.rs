//! Maps that can be written: the backup stays as it is, and a kept overlay holds what was flushed.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Map;
use super::chain::Chain;
use super::client::{Client, TRIM, WRITE_ZEROES};
use crate::support::{MIB, Random, run, virtkeep};

const FLUSH: u16 = 3;
/// The flag for durable.
const FUA: u16 = 1;

fn sums(chain: &Chain) -> Vec<blake3::Hash> {
    chain.files.iter().map(|file| blake3::hash(&std::fs::read(file).unwrap())).collect()
}

/// Random writes of all kinds, to the map and to `model`.
fn write_about(client: &mut Client, model: &mut [u8], random: &mut Random, count: usize) {
    for number in 0..count {
        let longest = *random.pick(&[1, 512, 4096, 65536, 200_000, 1 << 20]);
        let length = 1 + random.below(longest.min(model.len() as u64));
        let mut offset = random.below(model.len() as u64 - length + 1);
        if random.one_in(3) {
            offset &= !0xffff;
        }
        let place = &mut model[offset as usize..(offset + length) as usize];
        match random.below(4) {
            0 => {
                assert_eq!(client.ask(0, WRITE_ZEROES, offset, length as u32).error, 0);
                place.fill(0);
            }
            // A trim may do what it likes; ours makes zeroes.
            1 => {
                assert_eq!(client.ask(FUA, TRIM, offset, length as u32).error, 0);
                place.fill(0);
            }
            kind => {
                let fill = 100 + (number % 100) as u8;
                let flags = if kind == 3 { FUA } else { 0 };
                assert_eq!(client.write(flags, offset, &vec![fill; length as usize]), 0);
                place.fill(fill);
            }
        }
    }
}

/// Everything is as in `model`, by several reads of several kinds.
#[track_caller]
fn equals(client: &mut Client, model: &[u8]) {
    let size = model.len() as u64;
    assert_eq!(client.size, size);
    let mut offset = 0;
    while offset < size {
        let length = (size - offset).min(MIB + 12345);
        assert!(
            client.read(offset, length as u32) == model[offset as usize..(offset + length) as usize],
            "at {offset}"
        );
        offset += length;
    }
}

#[test]
fn writes_are_read_back_and_the_backup_is_not_changed() {
    for seed in 0..4 {
        let chain = Chain::random(seed + 50, 3, 3 * MIB);
        let before = sums(&chain);
        let map = Map::start(&["-f", &chain.list(), "--writable"]);
        let mut model = chain.content.clone();
        let mut random = Random::new(seed);
        let mut client = Client::connect(&map.socket, "vda", true);
        let mut other = Client::connect(&map.socket, "vda", false);
        for _ in 0..5 {
            write_about(&mut client, &mut model, &mut random, 30);
            write_about(&mut other, &mut model, &mut random, 30);
            equals(&mut client, &model);
        }
        assert_eq!(client.write(0, model.len() as u64 - 1, &[1, 2]), 28);
        assert_eq!(map.end("TERM").status, 0);
        assert_eq!(sums(&chain), before);
    }
}

fn overlay_options<'o>(list: &'o str, overlay: &'o Path) -> [&'o str; 4] {
    ["-f", list, "--overlay", overlay.to_str().unwrap()]
}

#[test]
fn a_kept_overlay_goes_on_where_it_was() {
    let chain = Chain::random(77, 3, 3 * MIB);
    let (list, overlay) = (chain.list(), chain.directory.path().join("overlay"));
    let mut model = chain.content.clone();
    let mut random = Random::new(1);
    for _ in 0..3 {
        let map = Map::start(&overlay_options(&list, &overlay));
        let mut client = Client::connect(&map.socket, "vda", true);
        equals(&mut client, &model);
        write_about(&mut client, &mut model, &mut random, 25);
        // No flush: the end makes it durable.
        let run = map.end("TERM").succeeds();
        assert!(!run.stderr.contains("not closed"), "{}", run.stderr);
    }
    // Another user of it, another restore point, another file.
    let map = Map::start(&overlay_options(&list, &overlay));
    let busy = |options: &[&str]| {
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"map", &"-e", &"true"];
        all.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
        virtkeep(&all)
    };
    busy(&overlay_options(&list, &overlay)).ends_with(1).says(&["another map uses this overlay"]);
    drop(map);
    let full = chain.files[0].to_str().unwrap();
    busy(&overlay_options(full, &overlay)).ends_with(2).says(&["another disk or restore point", "hint:"]);
    busy(&overlay_options(&list, Path::new(full))).ends_with(2).says(&["is no overlay of virtkeep", "hint:"]);
}

/// A copy, so that each attempt begins with the same file.
fn copy(file: &Path, name: &str) -> PathBuf {
    let to = file.with_file_name(name);
    std::fs::copy(file, &to).unwrap();
    to
}

#[test]
fn a_killed_map_loses_nothing_that_was_flushed_and_damage_is_told() {
    let chain = Chain::random(78, 2, 3 * MIB);
    let (list, overlay) = (chain.list(), chain.directory.path().join("overlay"));
    let mut model = chain.content.clone();
    let map = Map::start(&overlay_options(&list, &overlay));
    let mut client = Client::connect(&map.socket, "vda", true);
    write_about(&mut client, &mut model, &mut Random::new(2), 40);
    assert_eq!(client.ask(0, FLUSH, 0, 0).error, 0);
    assert_eq!(map.end("KILL").status, 137);

    let map = Map::start(&overlay_options(&list, &copy(&overlay, "killed")));
    map.says("the overlay was not closed");
    equals(&mut Client::connect(&map.socket, "vda", true), &model);
    drop(map);

    for (position, words) in [(30, "header of the overlay"), (4096 + 3, "table of the overlay")] {
        let damaged = copy(&overlay, "damaged");
        let file = std::fs::File::options().read(true).write(true).open(&damaged).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, position).unwrap();
        file.write_all_at(&[byte[0] ^ 4], position).unwrap();
        let options = overlay_options(&list, &damaged);
        let all: [&dyn AsRef<std::ffi::OsStr>; 7] =
            [&"map", &"-e", &"true", &options[0], &options[1], &options[2], &options[3]];
        virtkeep(&all).ends_with(4).says(&[words]);
    }
    let short = copy(&overlay, "short");
    std::fs::File::options().write(true).open(&short).unwrap().set_len(5000).unwrap();
    let options = overlay_options(&list, &short);
    virtkeep(&[&"map", &"-e", &"true", &options[0], &options[1], &options[2], &options[3]]).ends_with(4);
}

#[test]
fn qemu_writes_and_finds_it_again() {
    let chain = Chain::random(79, 2, 4 * MIB);
    let map = Map::start(&["-f", &chain.list(), "--writable"]);
    let size = chain.content.len() as u64 / 512 * 512;
    let last = format!("write -P 9 {} 512", size - 512);
    for command in ["write -P 7 1000448 70144", "write -z 65536 65536", "discard 1M 1M", "write -P 8 -f 3M 4096", &last]
    {
        run("qemu-io", &[&"-f", &"raw", &"-c", &command, &map.uris[0]]).succeeds();
    }
    let read = "read -P 7 1000448 48128";
    for command in [read, "read -P 0 65536 65536", "read -P 8 3M 4096"] {
        let run = run("qemu-io", &[&"-f", &"raw", &"-r", &"-c", &command, &map.uris[0]]).succeeds();
        assert!(!run.stdout.contains("verification failed"), "{}", run.stdout);
    }
    assert_eq!(map.end("INT").status, 0);
}
