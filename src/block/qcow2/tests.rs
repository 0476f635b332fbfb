use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::cancel::Cancel;
use crate::error::{Kind, report};
use crate::extent::{self, Kind as Known};
use crate::nbd::testing::{text, tool};
use crate::qemu::img::{self, CreateOptions};
use crate::units::{KIB, TIB};

/// The byte that stands at `offset` of the guest's disk where it has data; never 0.
fn content(offset: u64) -> u8 {
    (offset / 512 % 251 + 1) as u8
}

/// Writes all data of `extents` in pieces of odd lengths, from the end on.
fn fill(sink: &Qcow2Sink, extents: &[Extent]) {
    for extent in extents.iter().rev().filter(|extent| extent.kind() == Known::Data) {
        let starts: Vec<u64> = extent.range().step_by(100_003).collect();
        for start in starts.into_iter().rev() {
            let piece: Vec<u8> = (start..(start + 100_003).min(extent.end())).map(content).collect();
            sink.write_at(&piece, start).unwrap();
        }
    }
    sink.flush().unwrap();
}

/// The raw image that an image must equal.
fn reference(path: &Path, size: u64, extents: &[Extent]) {
    use std::os::unix::fs::FileExt;
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for extent in extents.iter().filter(|extent| extent.kind() == Known::Data) {
        file.write_all_at(&extent.range().map(content).collect::<Vec<_>>(), extent.offset).unwrap();
    }
}

/// What qemu-img takes for allocated, as the parts of it that hold data.
fn allocated(image: &Path) -> Vec<Extent> {
    let map: Vec<serde_json::Value> =
        serde_json::from_str(&tool("qemu-img", &["map", "--output=json", "-f", "qcow2", text(image)])).unwrap();
    let mut list = Vec::new();
    for part in map.iter().filter(|part| part["present"] == true || part["data"] == true) {
        extent::push(&mut list, Extent::data(part["start"].as_u64().unwrap(), part["length"].as_u64().unwrap()));
    }
    list
}

fn options() -> impl Strategy<Value = CreateOptions> {
    let newer = (0..7u32, any::<bool>(), any::<bool>(), any::<bool>());
    (prop::sample::select(vec![9u32, 12, 14, 16, 16, 16, 21]), any::<u8>(), newer).prop_map(|(bits, old, newer)| {
        let (refcount, lazy, extended, zstd) = newer;
        let old = old < 40;
        CreateOptions {
            cluster_size: Some(1 << bits),
            refcount_bits: Some(if old { 16 } else { 1 << refcount }),
            lazy_refcounts: Some(lazy && !old),
            extended_l2: Some(extended && bits >= 14 && !old),
            compat: Some(if old { "0.10" } else { "1.1" }.to_owned()),
            compression_type: Some(if zstd && !old { "zstd" } else { "zlib" }.to_owned()),
            ..CreateOptions::default()
        }
    })
}

/// Sizes and extents in sectors: some far apart, some within one cluster.
fn extents() -> impl Strategy<Value = Vec<Extent>> {
    let part = (prop_oneof![1..9u64, 1..300u64, 1..20_000u64], any::<bool>());
    prop::collection::vec(part, 0..12).prop_map(|parts| {
        let mut list = Vec::new();
        let mut position = 0;
        for (sectors, data) in parts {
            let kind = if data { Known::Data } else { Known::Zero };
            extent::push(&mut list, Extent::new(position, sectors * 512, kind));
            position += sectors * 512;
        }
        list
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn any_image_is_what_qemu_would_have_made(
        options in options(), extents in extents(), way in prop::sample::select(vec![Way::Fastest, Way::Direct])
    ) {
        let directory = TempDir::new().unwrap();
        let [image, raw, other] = ["image", "raw", "other"].map(|name| directory.path().join(name));
        let size = extents.last().map_or(0, Extent::end);
        let geometry = Geometry::new(size, &options).unwrap();
        let sink = Qcow2Sink::create(&image, geometry, &extents, false, &Cancel::new()).unwrap().with_way(way);
        // It is valid before anything is in it.
        tool("qemu-img", &["check", "-q", "-f", "qcow2", text(&image)]);
        fill(&sink, &extents);
        drop(sink);

        tool("qemu-img", &["check", "-q", "-f", "qcow2", text(&image)]);
        reference(&raw, size, &extents);
        tool("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "raw", text(&image), text(&raw)]);

        img::create(&other, size, &options).unwrap();
        let [own, theirs] = [&image, &other].map(|path| img::info_as(&crate::host::Host::Local, path, "qcow2").unwrap());
        prop_assert_eq!(
            (own.virtual_size, own.cluster_size, own.encrypted, own.qcow2),
            (theirs.virtual_size, theirs.cluster_size, theirs.encrypted, theirs.qcow2)
        );

        // As thin as it can be.
        let unit = own.cluster_size.unwrap() / if options.extended_l2 == Some(true) { 32 } else { 1 };
        let mut expected: Vec<Extent> = Vec::new();
        for data in extents.iter().filter(|extent| extent.kind() == Known::Data) {
            let start = expected.last().map_or(0, Extent::end).max(data.offset / unit * unit);
            let end = data.end().next_multiple_of(unit).min(size);
            extent::push(&mut expected, Extent::data(start, end.saturating_sub(start)));
        }
        prop_assert_eq!(allocated(&image), expected);

        // Its reference counts hold: what is written next takes nothing that is in use.
        if size > 0 {
            let write = format!("write -P 0xee 0 {}", size.min(4 << 20));
            for path in [&image, &raw] {
                let format = if path == &raw { "raw" } else { "qcow2" };
                tool("qemu-io", &["-f", format, "-c", &write, text(path)]);
            }
            tool("qemu-img", &["check", "-q", "-f", "qcow2", text(&image)]);
            tool("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "raw", text(&image), text(&raw)]);
        }
    }
}

#[test]
fn a_large_sparse_disk() {
    let directory = TempDir::new().unwrap();
    let image = directory.path().join("image");
    let size = 9 * TIB;
    let mut extents = Vec::new();
    for terabyte in 0..9 {
        extent::push(&mut extents, Extent::data(terabyte * TIB + 5 * KIB, KIB));
        extent::push(&mut extents, Extent::zero(terabyte * TIB + 6 * KIB, TIB - 6 * KIB));
    }
    let geometry = Geometry::new(size, &CreateOptions::default()).unwrap();
    let sink = Qcow2Sink::create(&image, geometry, &extents, false, &Cancel::new()).unwrap();
    fill(&sink, &extents);
    tool("qemu-img", &["check", "-q", "-f", "qcow2", text(&image)]);
    let cluster = 64 * KIB;
    let expected: Vec<Extent> = (0..9).map(|terabyte| Extent::data(terabyte * TIB, cluster)).collect();
    assert_eq!(allocated(&image), expected);
    let at = format!("read -P {} {} 512", content(8 * TIB + 5 * KIB), 8 * TIB + 5 * KIB);
    tool("qemu-io", &["-r", "-f", "qcow2", "-c", &at, text(&image)]);
}

#[test]
fn all_space_is_set_aside_where_asked() {
    use std::os::unix::fs::MetadataExt;
    let directory = TempDir::new().unwrap();
    let image = directory.path().join("image");
    let extents = [Extent::zero(0, 3 * MIB), Extent::data(3 * MIB, MIB), Extent::zero(4 * MIB, 4 * MIB + 512)];
    let geometry = Geometry::new(8 * MIB + 512, &CreateOptions::default()).unwrap();
    let sink = Qcow2Sink::create(&image, geometry, &extents, true, &Cancel::new()).unwrap();
    fill(&sink, &extents);
    assert!(image.metadata().unwrap().blocks() * 512 > 8 * MIB);
    tool("qemu-img", &["check", "-q", "-f", "qcow2", text(&image)]);
    let raw = directory.path().join("raw");
    reference(&raw, 8 * MIB + 512, &extents);
    tool("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "raw", text(&image), text(&raw)]);
    assert_eq!(allocated(&image), [Extent::data(0, 8 * MIB + 512)]);
}

#[test]
fn what_cannot_be_is_refused() {
    let directory = TempDir::new().unwrap();
    let image = directory.path().join("image");
    let usual = CreateOptions::default();
    for (size, options, said) in [
        (512, CreateOptions { cluster_size: Some(1000), ..usual.clone() }, "cluster_size=1000"),
        (512, CreateOptions { cluster_size: Some(4 * MIB), ..usual.clone() }, "cluster_size=4194304"),
        (512, CreateOptions { cluster_size: Some(0), ..usual.clone() }, "cluster_size=0"),
        (512, CreateOptions { refcount_bits: Some(0), ..usual.clone() }, "refcount_bits=0"),
        (512, CreateOptions { refcount_bits: Some(128), ..usual.clone() }, "refcount_bits=128"),
        (
            512,
            CreateOptions { extended_l2: Some(true), cluster_size: Some(4096), ..usual.clone() },
            "cluster_size=4096",
        ),
        (512, CreateOptions { compat: Some("4".into()), ..usual.clone() }, "compat=\"4\""),
        (512, CreateOptions { compression_type: Some("xz".into()), ..usual.clone() }, "compression_type=\"xz\""),
        (100, usual.clone(), "a size of 100 bytes"),
    ] {
        let error = Geometry::new(size, &options).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(report(&error).contains(said), "{}", report(&error));
    }
    let tiny = CreateOptions { cluster_size: Some(512), ..usual.clone() };
    for size in [129 * TIB / 1024, 1 << 62, u64::MAX / 512 * 512] {
        let geometry = Geometry::new(size, &tiny).unwrap();
        for extents in [&[Extent::zero(0, size)][..], &[Extent::data(0, size)]] {
            let error = Qcow2Sink::create(&image, geometry, extents, false, &Cancel::new()).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{}", report(&error));
        }
    }
    assert!(!image.exists());

    let geometry = Geometry::new(MIB, &usual).unwrap();
    let extents = [Extent::data(0, 64 * KIB), Extent::zero(64 * KIB, 960 * KIB)];
    let sink = Qcow2Sink::create(&image, geometry, &extents, false, &Cancel::new()).unwrap();
    assert_eq!(Qcow2Sink::create(&image, geometry, &extents, false, &Cancel::new()).unwrap_err().kind(), Kind::Busy);
    for (offset, length) in [(MIB, 1), (MIB - 1, 2), (u64::MAX, 2), (64 * KIB, 1), (MIB - 1, 1)] {
        let error = sink.write_at(&vec![1; length], offset).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (Kind::Usage, Some(offset)));
    }
    sink.write_at(&[], MIB).unwrap();

    let cancel = Cancel::new();
    cancel.cancel();
    let error = Qcow2Sink::create(&directory.path().join("other"), geometry, &extents, false, &cancel).unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled, "{}", report(&error));
}
