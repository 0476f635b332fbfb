use super::*;
use crate::cancel::Cancel;
use crate::nbd::testing::{Nbdkit, text, tool};
use crate::qemu::nbd::{QemuNbd, ServeOptions};
use crate::units::{KIB, MIB};
use proptest::prelude::*;
use std::collections::VecDeque;

const DIRTY: &str = "qemu:dirty-bitmap:b";

/// A server that knows each byte's flags and answers as its `whims` say.
struct Fake {
    allocation: Vec<u32>,
    dirty: Vec<u32>,
    whims: VecDeque<u64>,
}

impl Fake {
    fn whim(&mut self, below: u64) -> u64 {
        let whim = self.whims.pop_front().unwrap_or(1);
        self.whims.push_back(whim);
        whim % below
    }

    /// Extents from `offset` on: maybe short, maybe split in the middle, maybe beyond the request
    /// and beyond the disk.
    fn extents(&mut self, dirty: bool, offset: u64, length: u64) -> Vec<(u32, u32)> {
        let flags = if dirty { self.dirty.clone() } else { self.allocation.clone() };
        let mut position = offset as usize;
        let mut extents = Vec::new();
        let count = 1 + self.whim(5);
        while position < (offset + length) as usize && (extents.len() as u64) < count {
            let flag = flags[position];
            let mut run = flags[position..].iter().take_while(|&&other| other == flag).count();
            if self.whim(3) == 0 {
                run = 1 + self.whim(run as u64) as usize;
            }
            position += run;
            let beyond = if position == flags.len() { self.whim(50) as usize } else { 0 };
            extents.push(((run + beyond) as u32, flag));
        }
        extents
    }
}

impl StatusSource for Fake {
    fn block_status(&mut self, offset: u64, length: u64) -> Result<Vec<ContextReply>> {
        assert!(length > 0 && offset + length <= self.allocation.len() as u64);
        let mut replies = Vec::new();
        for (name, dirty) in [(ALLOCATION, false), (DIRTY, true)] {
            let extents = self.extents(dirty, offset, length);
            replies.push(ContextReply { context: name.to_owned(), offset, extents });
        }
        if self.whim(2) == 0 {
            replies.reverse();
            replies.push(ContextReply { context: "other:thing".to_owned(), offset, extents: vec![(0, 9)] });
        }
        Ok(replies)
    }
}

const BOTH: [Reading<'static>; 2] = [(ALLOCATION, allocation_kind), (DIRTY, dirty_kind)];

/// What changed of a disk that was zero.
fn merged(source: &mut impl StatusSource, range: Range<u64>) -> Result<Vec<Extent>> {
    let mut list = Vec::new();
    walk(source, range, &BOTH, |range, [content, dirty]| {
        merge(&mut list, &content, &dirty, &[Extent::zero(range.start, range.end - range.start)]);
        Ok(())
    })?;
    Ok(list)
}

#[test]
fn only_lost_content_becomes_zero() {
    let content = [Extent::data(0, 10), Extent::zero(10, 20), Extent::data(30, 10), Extent::zero(40, 20)];
    let dirty = [Extent::clean(0, 30), Extent::data(30, 10), Extent::clean(40, 20)];
    let before = [Extent::data(0, 20), Extent::zero(20, 10), Extent::data(30, 15), Extent::zero(45, 15)];
    let mut list = Vec::new();
    merge(&mut list, &content, &dirty, &before);
    assert_eq!(
        list,
        [
            Extent::clean(0, 10),
            Extent::zero(10, 10),
            Extent::clean(20, 10),
            Extent::data(30, 10),
            Extent::zero(40, 5),
            Extent::clean(45, 15)
        ]
    );
}

fn runs(values: &'static [u32]) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec((1..40usize, prop::sample::select(values)), 60).prop_map(|runs| {
        let mut flags: Vec<u32> = runs.into_iter().flat_map(|(len, flag)| std::iter::repeat_n(flag, len)).collect();
        flags.resize(1000, 0);
        flags
    })
}

proptest! {
    #[test]
    fn any_way_of_answering_gives_the_byte_map(
        allocation in runs(&[0, 1, 2, 3]), dirty in runs(&[0, 1, 2]), whims in prop::collection::vec(0..1000u64, 1..60),
        start in 0..1000u64,
    ) {
        let expected: Vec<Kind> = allocation.iter().zip(&dirty).skip(start as usize).map(|(&allocation, &dirty)| {
            if dirty == 0 { Kind::Clean } else if allocation & 2 != 0 { Kind::Zero } else { Kind::Data }
        }).collect();
        let mut fake = Fake { allocation, dirty, whims: whims.into() };
        let list = merged(&mut fake, start..1000).unwrap();
        let found: Vec<Kind> = list.iter().flat_map(|e| std::iter::repeat_n(e.kind(), e.length() as usize)).collect();
        prop_assert_eq!(found, expected);
        prop_assert!(list.windows(2).all(|pair| pair[0].kind() != pair[1].kind()));
    }
}

/// A server that always answers the same.
struct Stubborn(Vec<ContextReply>);

impl StatusSource for Stubborn {
    fn block_status(&mut self, _offset: u64, _length: u64) -> Result<Vec<ContextReply>> {
        Ok(self.0.clone())
    }
}

#[test]
fn answers_that_say_nothing_are_errors() {
    let reply = |context: &str, offset, extents: &[(u32, u32)]| ContextReply {
        context: context.to_owned(),
        offset,
        extents: extents.to_vec(),
    };
    for replies in [
        vec![],
        vec![reply(ALLOCATION, 0, &[])],
        vec![reply(ALLOCATION, 0, &[(100, 0)])],
        vec![reply(ALLOCATION, 0, &[(100, 0)]), reply("other", 0, &[(100, 0)])],
        vec![reply(ALLOCATION, 0, &[(100, 0)]), reply(DIRTY, 0, &[(50, 0)])],
        vec![reply(ALLOCATION, 0, &[(100, 0)]), reply(DIRTY, 0, &[(50, 0), (0, 1), (50, 0)])],
        vec![reply(ALLOCATION, 0, &[(100, 0)]), reply(DIRTY, 10, &[(90, 0)])],
        vec![reply(ALLOCATION, 0, &[(100, 0)]), reply(DIRTY, u64::MAX, &[(u32::MAX, 0)])],
    ] {
        let error = merged(&mut Stubborn(replies.clone()), 0..100).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{replies:?}");
    }
    assert_eq!(merged(&mut Stubborn(vec![]), 0..0).unwrap(), []);
}

#[test]
fn a_server_without_extents_has_data_only() {
    for arguments in [&["--filter=noextents", "memory", "size=5M"][..], &["--no-sr", "memory", "size=5M"][..]] {
        let server = Nbdkit::start(arguments);
        let mut client = Client::connect(&server.uri(), &[ALLOCATION, DIRTY], &Cancel::new()).unwrap();
        assert_eq!(allocation(&mut client).unwrap(), [Extent::data(0, 5 * MIB)]);
        assert_eq!(changed(&mut client, DIRTY).unwrap_err().kind(), ErrorKind::Unsupported);
    }
    let server = Nbdkit::start(&["--no-sr", "memory", "size=0"]);
    let mut client = Client::connect(&server.uri(), &[ALLOCATION], &Cancel::new()).unwrap();
    assert_eq!(allocation(&mut client).unwrap(), []);
}

#[test]
fn holes_without_zero_are_data() {
    let extents = "echo 0 1M hole; echo 1M 1M zero; echo 2M 1M hole,zero; echo 3M 1M";
    let server = Nbdkit::start(&[
        "eval",
        "get_size=echo 4M",
        "pread=exit 1",
        "can_extents=exit 0",
        &format!("extents={extents}"),
    ]);
    let mut client = Client::connect(&server.uri(), &[ALLOCATION], &Cancel::new()).unwrap();
    let expected = [Extent::data(0, MIB), Extent::zero(MIB, 2 * MIB), Extent::data(3 * MIB, MIB)];
    assert_eq!(allocation(&mut client).unwrap(), expected);
    assert_eq!(
        allocation_in(&mut client, MIB + 512..3 * MIB + 512).unwrap(),
        [Extent::zero(MIB + 512, 2 * MIB - 512), Extent::data(3 * MIB, 512)]
    );
}

/// The kinds of `nbdinfo --map` per 4 KiB block: our judge.
fn nbdinfo(uri: &str, context: &str, kind: fn(u32) -> Kind) -> Vec<Kind> {
    let json = tool("nbdinfo", &["--json", &format!("--map={context}"), uri]);
    let list: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let blocks = |entry: &serde_json::Value| {
        let (length, flags) = (entry["length"].as_u64().unwrap(), entry["type"].as_u64().unwrap());
        std::iter::repeat_n(kind(flags as u32), (length / (4 * KIB)) as usize)
    };
    list.iter().flat_map(blocks).collect()
}

fn blocks(list: &[Extent]) -> Vec<Kind> {
    list.iter().flat_map(|extent| std::iter::repeat_n(extent.kind(), (extent.length() / (4 * KIB)) as usize)).collect()
}

#[test]
fn a_dirty_bitmap_of_qemu_agrees_with_nbdinfo() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("disk.qcow2");
    let image = text(&path);
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", image, "5G"]);
    let io = |command: &str| tool("qemu-io", &["-f", "qcow2", "-c", command, image]);
    io("write -P 1 0 3M");
    io("write -P 1 2100M 1M");
    tool("qemu-img", &["bitmap", "--add", "-g", "64K", image, "b"]);
    for command in
        ["write -P 2 1M 4K", "write -z 2M 512K", "discard 2100M 256K", "write -P 3 4095M 3M", "write -z -u 5119M 1M"]
    {
        io(command);
    }
    let options = ServeOptions { bitmap: Some("b".to_owned()), connections: 4, ..ServeOptions::default() };
    let server = QemuNbd::serve(&path, "qcow2", &options, &Cancel::new()).unwrap();
    let mut client = Client::connect(&server.uri(), &[ALLOCATION, DIRTY], &Cancel::new()).unwrap();
    let content = nbdinfo(&server.uri(), ALLOCATION, allocation_kind);
    let dirty = nbdinfo(&server.uri(), DIRTY, dirty_kind);
    let expected: Vec<Kind> = content.iter().zip(&dirty).map(|(&c, &d)| if d == Kind::Clean { d } else { c }).collect();
    assert!(blocks(&allocation(&mut client).unwrap()) == content);
    let list = changed(&mut client, DIRTY).unwrap();
    assert!(blocks(&list) == expected);
    // nbdinfo judges the wire; this is what the guest did, by the bitmap's granularity.
    assert!(extent::total(&list, Kind::Data) >= 3 * MIB && extent::total(&list, Kind::Zero) >= MIB + 768 * KIB);
    assert_eq!(changed(&mut client, "qemu:dirty-bitmap:other").unwrap_err().kind(), ErrorKind::Unsupported);
    client.disconnect().unwrap();
    server.finish().unwrap();
}
