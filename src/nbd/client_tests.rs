use super::*;
use crate::error::report;
use crate::nbd::testing::Nbdkit;
use crate::nbd::uri;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;

fn connect(server: &Nbdkit) -> Client {
    Client::connect(&server.uri(), &[], &Cancel::new()).unwrap()
}

/// What nbdkit's pattern plugin has at `offset`: each 8 bytes are their own offset, big-endian.
fn pattern(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|at| (at & !7).to_be_bytes()[(at % 8) as usize]).collect()
}

/// Sets the flag after a moment and returns when it was set.
fn cancel_soon(cancel: &Cancel) -> thread::JoinHandle<Instant> {
    let cancel = cancel.clone();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(150));
        cancel.cancel();
        Instant::now()
    })
}

fn errno(error: &Error) -> Option<i32> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        next = current.source();
    }
    None
}

#[test]
fn nobody_to_connect_to_is_reported() {
    let directory = tempfile::TempDir::new().unwrap();
    let uri = uri::unix(&directory.path().join("no such socket"), "");
    let missing = Client::connect(&uri, &[], &Cancel::new()).unwrap_err();
    assert_eq!((missing.kind(), errno(&missing)), (Kind::NotFound, Some(2)), "{}", report(&missing));
    assert_eq!(report(&missing).matches("No such file").count(), 1, "{}", report(&missing));

    assert!(Client::connect("nbd+unix:///\0", &[], &Cancel::new()).is_err());
    assert!(Client::connect("ftp://localhost", &[], &Cancel::new()).is_err());

    let server =
        Nbdkit::start(&["--filter=exportname", "memory", "size=1M", "exportname=vda", "exportname-strict=true"]);
    assert!(Client::connect(&server.uri(), &[], &Cancel::new()).is_err());
}

#[test]
fn a_peer_that_is_no_server_is_reported() {
    let directory = tempfile::TempDir::new().unwrap();
    let socket = directory.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 mail.example.com ESMTP ready, good day\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    assert!(Client::connect(&uri::unix(&socket, ""), &[], &Cancel::new()).is_err());
    peer.join().unwrap();
}

#[test]
fn a_silent_peer_is_left_when_cancelled() {
    let directory = tempfile::TempDir::new().unwrap();
    let socket = directory.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let cancel = Cancel::new();
    let cancelled = cancel_soon(&cancel);
    let error = Client::connect(&uri::unix(&socket, ""), &[], &cancel).unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
    assert!(cancelled.join().unwrap().elapsed() < Duration::from_millis(200));
}

#[test]
fn scattered_pieces_are_filled() {
    let server = Nbdkit::start(&["--filter=delay", "pattern", "size=64M", "rdelay=1ms"]);
    let mut client = connect(&server);
    let places = [(0u64, 1usize), (7, 3 << 20), (40 << 20, 512), (63 << 20, 1 << 20), (13, 0), (8 << 20, 700_001)];
    for limits in
        [Limits::default(), Limits { request_size: 5000, in_flight: 64 }, Limits { request_size: 0, in_flight: 0 }]
    {
        let places = if limits.request_size == 0 { &places[..1] } else { &places[..] };
        let mut buffers: Vec<Vec<u8>> = places.iter().map(|&(_, len)| vec![0xee; len]).collect();
        let mut pieces: Vec<ReadPiece<'_>> =
            places.iter().zip(&mut buffers).map(|(&(offset, _), buffer)| ReadPiece { offset, buffer }).collect();
        client.read_scattered(&mut pieces, limits).unwrap();
        for (&(offset, len), buffer) in places.iter().zip(&buffers) {
            assert!(*buffer == pattern(offset, len), "{offset} {len}");
        }
    }
    client.disconnect().unwrap();
}

#[test]
fn reads_beyond_the_end_are_refused() {
    let server = Nbdkit::start(&["pattern", "size=1M"]);
    let mut client = connect(&server);
    for offset in [(1 << 20) - 1, 1 << 20, u64::MAX] {
        let error = client.read_at(&mut [0; 2], offset).unwrap_err();
        assert_eq!(error.offset(), Some(offset), "{}", report(&error));
    }
    // Nothing was sent, nothing is lost.
    client.read_at(&mut [0; 2], 0).unwrap();
}

#[test]
fn a_failed_read_names_its_offset_and_closes_the_connection() {
    let script = "if [ $4 -ge 8388608 ] && [ $4 -lt 8912896 ]; then echo 'EIO bad sector' >&2; exit 1; fi; \
                  dd if=/dev/zero iflag=count_bytes count=$3 bs=1M 2>/dev/null";
    let server = Nbdkit::start(&["eval", "get_size=echo 32M", &format!("pread={script}")]);
    let mut client = connect(&server);
    let error = client.read_at(&mut vec![1; 32 << 20], 0).unwrap_err();
    assert_eq!((error.kind(), error.offset(), errno(&error)), (Kind::Io, Some(8 << 20), Some(5)), "{}", report(&error));
    assert!(!client.is_usable());
    assert!(client.read_at(&mut [0; 512], 0).is_err());
    assert!(client.disconnect().is_err());
}

#[test]
fn a_failed_lone_request_leaves_the_connection_usable() {
    let script = "if [ $4 -ge 1048576 ]; then echo 'EIO bad sector' >&2; exit 1; fi; \
                  dd if=/dev/zero iflag=count_bytes count=$3 bs=1M 2>/dev/null";
    let server = Nbdkit::start(&["eval", "get_size=echo 32M", &format!("pread={script}")]);
    let mut client = connect(&server);
    client.read_at(&mut [0; 512], 1 << 20).unwrap_err();
    client.read_at(&mut [0; 512], 0).unwrap();
}

#[test]
fn a_slow_read_is_left_when_cancelled() {
    let server = Nbdkit::start(&["--filter=delay", "memory", "size=64M", "rdelay=20"]);
    let cancel = Cancel::new();
    let mut client = Client::connect(&server.uri(), &[], &cancel).unwrap();
    let cancelled = cancel_soon(&cancel);
    let error = client.read_at(&mut vec![0; 64 << 20], 0).unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
    assert!(cancelled.join().unwrap().elapsed() < Duration::from_millis(200));
    assert!(!client.is_usable());
}

#[test]
fn a_server_that_stops_answering_is_given_up() {
    let server = Nbdkit::start(&["--filter=delay", "memory", "size=1M", "rdelay=20"]);
    let mut client = connect(&server);
    let mut batch = Batch::new(client.handle.take().unwrap());
    let mut buffer = [0; 512];
    let read = Command::Read { buffer: &mut buffer, offset: 1024 };
    let patience = Duration::from_millis(300);
    let error = drive(&mut batch, std::iter::once(read), 1, patience, &Cancel::new(), &mut |_, _| Ok(())).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::Io, Some(1024)), "{}", report(&error));
    assert!(report(&error).contains("no answer"), "{}", report(&error));
    assert!(batch.finish().is_none());
}

#[test]
fn a_killed_server_is_reported() {
    let mut server = Nbdkit::start(&["--filter=delay", "memory", "size=64M", "rdelay=20"]);
    let mut client = connect(&server);
    let reading = thread::spawn(move || {
        let error = client.read_at(&mut vec![0; 64 << 20], 0).unwrap_err();
        (error, client.is_usable())
    });
    thread::sleep(Duration::from_millis(100));
    server.kill();
    let (error, usable) = reading.join().unwrap();
    assert!(error.offset().is_some() && !usable, "{}", report(&error));
}

#[test]
fn writes_are_read_back() {
    let server = Nbdkit::start(&["memory", "size=16M"]);
    let mut client = connect(&server);
    let Capabilities { size, read_only, zero, trim, flush, .. } = client.capabilities();
    assert_eq!((size, read_only, zero, trim, flush), (16 << 20, false, true, true, true));
    let data = pattern(0, 3_000_000);
    client.write_at(&data, 1001).unwrap();
    client.write_zeroes(500_000, 100_000, true).unwrap();
    client.write_zeroes(700_000, 100_000, false).unwrap();
    client.write_zeroes(16 << 20, 0, true).unwrap();
    client.trim(8 << 20, 8 << 20).unwrap();
    client.flush().unwrap();
    let mut expected = vec![0; 16 << 20];
    expected[1001..3_001_001].copy_from_slice(&data);
    expected[500_000..600_000].fill(0);
    expected[700_000..800_000].fill(0);
    let mut found = vec![1; 16 << 20];
    client.read_at(&mut found, 0).unwrap();
    assert!(found == expected);
    for (offset, length) in [(0, (16 << 20) + 1), (u64::MAX, 2)] {
        assert_eq!(client.write_zeroes(offset, length, true).unwrap_err().kind(), Kind::Usage);
    }
}

#[test]
fn zeroes_are_written_out_where_the_server_has_none() {
    let server = Nbdkit::start(&["--filter=nozero", "memory", "size=8M", "zeromode=none"]);
    let mut client = connect(&server);
    assert!(!client.capabilities().zero);
    client.write_at(&vec![7; 8 << 20], 0).unwrap();
    client.write_zeroes(1001, 5_000_000, true).unwrap();
    let mut found = vec![1; 8 << 20];
    client.read_at(&mut found, 0).unwrap();
    let expected: Vec<u8> = (0..8 << 20).map(|at| if (1001..5_001_001).contains(&at) { 0 } else { 7 }).collect();
    assert!(found == expected);
}

#[test]
fn missing_flush_is_an_error_and_missing_trim_is_not() {
    let server = Nbdkit::start(&["eval", "get_size=echo 1M", "pread=exit 1", "pwrite=exit 1"]);
    let mut client = connect(&server);
    assert_eq!(client.flush().unwrap_err().kind(), Kind::Unsupported);
    client.trim(0, 1 << 20).unwrap();
}

#[test]
fn block_sizes_of_the_server_are_kept() {
    let server = Nbdkit::start(&[
        "--filter=blocksize-policy",
        "memory",
        "size=8M",
        "blocksize-minimum=4096",
        "blocksize-preferred=65536",
        "blocksize-maximum=131072",
        "blocksize-error-policy=error",
    ]);
    let mut client = connect(&server);
    let Capabilities { block_minimum, block_preferred, block_maximum, .. } = client.capabilities();
    assert_eq!((block_minimum, block_preferred, block_maximum), (4096, 65536, 131_072));
    let data = pattern(0, 4 << 20);
    client.write_at(&data, 4096).unwrap();
    let mut found = vec![1; 4 << 20];
    client
        .read_scattered(
            &mut [ReadPiece { offset: 4096, buffer: &mut found }],
            Limits { request_size: 9999, in_flight: 3 },
        )
        .unwrap();
    assert!(found == data);
    client.write_zeroes(4096, 4 << 20, true).unwrap();
    let error = client.read_at(&mut [0; 512], 512).unwrap_err();
    assert_eq!(error.offset(), Some(512), "{}", report(&error));
}

#[test]
fn ranges_are_cut_at_multiples() {
    for (range, expected) in [
        ((0, 0), vec![]),
        ((5, 10), vec![(5, 10)]),
        ((GIB - 1, 2), vec![(GIB - 1, 1), (GIB, 1)]),
        ((512, 2 * GIB), vec![(512, GIB - 512), (GIB, GIB), (2 * GIB, 512)]),
    ] {
        assert_eq!(steps(range.0, range.1).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn causes_are_said_once() {
    for (text, errno, kind, line) in [
        ("x: connect: Connection refused", 111, Kind::Io, "x: connect: Connection refused (os error 111)"),
        (
            "nbd_aio_x: read: command failed: Input/output error",
            5,
            Kind::Io,
            "read: command failed: Input/output error (os error 5)",
        ),
        ("command failed", 95, Kind::Unsupported, "command failed: Operation not supported (os error 95)"),
        ("bad magic", 0, Kind::Io, "bad magic"),
    ] {
        let error = describe(text, errno);
        assert_eq!((error.kind(), report(&error).as_str()), (kind, line));
    }
}
