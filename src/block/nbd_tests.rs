use super::*;
use crate::error::{Kind, report};
use crate::nbd::testing::{Nbdkit, text, tool};
use crate::qemu::img;
use crate::qemu::nbd::{QemuNbd, ServeOptions};
use crate::units::{KIB, MIB};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use tempfile::TempDir;

fn stored(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

fn serve(path: &Path, compress: bool) -> QemuNbd {
    let options = ServeOptions { read_only: false, connections: 4, compress, ..ServeOptions::default() };
    QemuNbd::serve(path, "qcow2", &options, &Cancel::new()).unwrap()
}

fn create(directory: &TempDir, size: u64) -> PathBuf {
    let path = directory.path().join("disk.qcow2");
    img::create(&path, size, &img::CreateOptions::default()).unwrap();
    path
}

/// The content of a qcow2 image, by qemu-img.
fn content(path: &Path) -> Vec<u8> {
    let raw = path.with_extension("raw");
    tool("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(path), text(&raw)]);
    std::fs::read(raw).unwrap()
}

/// Text that compresses to about a third, different in every 64 KiB.
fn prose(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + (state >> 30) as u8
    })
    .take(len)
    .collect()
}

/// Writes `data` from several threads in pieces of `step`, in no order.
fn write_by_threads(sink: &NbdSink, data: &[u8], step: usize) {
    let sink = &sink;
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for (index, piece) in data.chunks(step).enumerate().filter(|(index, _)| index % 4 == thread) {
                    sink.write_at(piece, (index * step) as u64).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_fresh_image_stays_thin() {
    let directory = TempDir::new().unwrap();
    let path = create(&directory, 1 << 30);
    let server = serve(&path, false);
    let sink = NbdSink::connect(&server.uri(), 4, true, &Cancel::new()).unwrap();
    assert!(sink.is_zeroed() && sink.size() == 1 << 30 && sink.capabilities().multi_conn);
    sink.write_zeroes(0..512 * MIB).unwrap();
    sink.write_at(&[7; 65536], 512 * MIB).unwrap();
    sink.write_zeroes(513 * MIB..1 << 30).unwrap();
    sink.flush().unwrap();
    sink.disconnect().unwrap();
    server.finish().unwrap();
    assert!(stored(&path) < 2 * MIB, "{}", stored(&path));
    tool("qemu-img", &["check", "-q", text(&path)]);
}

#[test]
fn zeroes_give_space_back() {
    let directory = TempDir::new().unwrap();
    let path = create(&directory, 64 * MIB);
    let server = serve(&path, false);
    let sink = NbdSink::connect(&server.uri(), 4, false, &Cancel::new()).unwrap();
    write_by_threads(&sink, &prose(64 << 20), 1 << 20);
    sink.flush().unwrap();
    assert!(stored(&path) > 60 * MIB);
    sink.write_zeroes(0..60 * MIB).unwrap();
    sink.flush().unwrap();
    sink.disconnect().unwrap();
    server.finish().unwrap();
    assert!(stored(&path) < 8 * MIB, "{}", stored(&path));
    let found = content(&path);
    assert!(found[..60 << 20].iter().all(|&byte| byte == 0) && found[60 << 20..] == prose(64 << 20)[60 << 20..]);
}

#[test]
fn compressed_images_are_smaller_and_equal() {
    for (cluster, extended_l2) in [(4 * KIB, false), (64 * KIB, false), (MIB, true)] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("disk.qcow2");
        let options = img::CreateOptions {
            cluster_size: Some(cluster),
            extended_l2: Some(extended_l2),
            ..img::CreateOptions::default()
        };
        img::create(&path, 8 * MIB, &options).unwrap();
        let server = serve(&path, true);
        let sink = NbdSink::connect(&server.uri(), 4, true, &Cancel::new()).unwrap().aligned_to(cluster).unwrap();
        assert_eq!(sink.capabilities().block_minimum, cluster);
        let mut data = prose(4 << 20);
        // Pieces that share clusters: the server takes whole ones only.
        write_by_threads(&sink, &data, 400_000);
        sink.write_zeroes(1_000_001..2_000_001).unwrap();
        sink.write_zeroes(3_000_000..3_000_010).unwrap();
        sink.write_at(&[9; 512], 8 * MIB - 512).unwrap();
        sink.flush().unwrap();
        sink.disconnect().unwrap();
        server.finish().unwrap();
        data[1_000_001..2_000_001].fill(0);
        data[3_000_000..3_000_010].fill(0);
        data.resize((8 << 20) - 512, 0);
        data.resize(8 << 20, 9);
        assert!(content(&path) == data, "{cluster}");
        // Rewritten clusters cost space, so only where there are few of them.
        if cluster == 64 * KIB {
            assert!(stored(&path) < 3 * MIB, "{cluster}: {}", stored(&path));
        }
        tool("qemu-img", &["check", "-q", text(&path)]);
    }
}

#[test]
fn blocks_of_the_server_are_shared_by_threads() {
    let server = Nbdkit::start(&[
        "--filter=blocksize-policy",
        "memory",
        "size=4M",
        "blocksize-minimum=4096",
        "blocksize-preferred=65536",
        "blocksize-maximum=1M",
        "blocksize-error-policy=error",
    ]);
    let sink = NbdSink::connect(&server.uri(), 4, true, &Cancel::new()).unwrap();
    let data = prose(4 << 20);
    write_by_threads(&sink, &data, 7001);
    let source = NbdSource::connect(&server.uri(), &[], 4, &Cancel::new()).unwrap();
    let mut found = vec![0; 4 << 20];
    source.read_at(&mut found, 0).unwrap();
    assert!(found == data);
}

#[test]
fn sinks_that_are_none_are_refused() {
    for arguments in [&["-r", "memory", "size=1M"][..], &["eval", "get_size=echo 1M", "pread=exit 1", "pwrite=exit 1"]]
    {
        let server = Nbdkit::start(arguments);
        let error = NbdSink::connect(&server.uri(), 1, false, &Cancel::new()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{}", report(&error));
    }
    let server = Nbdkit::start(&["memory", "size=1M"]);
    let sink = NbdSink::connect(&server.uri(), 1, false, &Cancel::new()).unwrap();
    assert_eq!(sink.write_at(&[1; 2], MIB - 1).unwrap_err().kind(), Kind::Usage);
    assert_eq!(sink.write_zeroes(MIB..MIB + 1).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn one_connection_serves_all_threads_without_multi_conn() {
    let server = Nbdkit::start(&["--filter=multi-conn", "pattern", "size=8M", "multi-conn-mode=disable"]);
    let source = NbdSource::connect(&server.uri(), &[], 8, &Cancel::new()).unwrap();
    assert_eq!(source.idle_connections(), 1);
    thread::scope(|scope| {
        for thread in 0..8u64 {
            let source = &source;
            scope.spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                source.read_at(&mut buffer, thread << 20).unwrap();
                assert_eq!(buffer[8..16], ((thread << 20) + 8).to_be_bytes());
            });
        }
    });
    assert_eq!(source.idle_connections(), 1);
}

#[test]
fn extents_of_a_part_are_clipped_to_it() {
    let server = Nbdkit::start(&["data", "data=@131072 1*65536 @262144 2*65536", "size=1M"]);
    let source = NbdSource::connect(&server.uri(), &[], 1, &Cancel::new()).unwrap();
    let list = source.extents(100..300 * KIB + 1).unwrap();
    extent::check_cover(&list, 100..300 * KIB + 1).unwrap();
    let whole = source.allocation().unwrap();
    assert_eq!(list, extent::clip(&whole, 100..300 * KIB + 1).collect::<Vec<_>>());
    assert!(extent::total(&whole, extent::Kind::Zero) > 0);
}
