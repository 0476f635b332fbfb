//! From an NBD server into a stream and back out of it.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use super::{Source, copy};
use crate::block::memory::MemoryDisk;
use crate::cancel::Cancel;
use crate::chain_device::ChainDevice;
use crate::error::{Kind as ErrorKind, Result};
use crate::extent::{self, Extent, Kind, align_data};
use crate::file_writer::FileWriter;
use crate::nbd::block_status::{ALLOCATION, allocation};
use crate::nbd::client::{Client, Limits};
use crate::nbd::testing::Nbdkit;
use crate::pipeline::{Progress, restore};
use crate::stream::FRAME_ALIGNMENT;
use crate::stream::codec::Compression;
use crate::stream::meta::{Meta, Own};
use crate::stream::out::Placed;
use crate::stream::reader::StreamReader;
use crate::stream::verify::{Scope, verify};
use crate::stream::writer::Finished;

fn connect(server: &Nbdkit) -> Client {
    Client::connect(&server.uri(), &[ALLOCATION], &Cancel::new()).unwrap()
}

fn meta(virtual_size: u64, extents: &[Extent], compression: Compression) -> Meta {
    Meta {
        virtual_size,
        data_size: extent::total(extents, Kind::Data),
        date: String::new(),
        disk_name: "vda".into(),
        disk_format: "qcow2".into(),
        checkpoint_name: "virtnbdbackup.0".into(),
        parent_checkpoint: String::new(),
        incremental: false,
        compression,
        stream_version: 2,
        own: Some(Own { format: 1, run: Uuid::from_u128(1), index: true }),
    }
}

fn backup(
    server: &Nbdkit,
    path: &Path,
    extents: &[Extent],
    compression: Compression,
    threads: usize,
) -> Result<Finished> {
    let clients: Vec<Client> = (0..threads).map(|_| connect(server)).collect();
    let meta = meta(clients[0].size(), extents, compression);
    let spool = path.parent().unwrap();
    let file = std::fs::File::create(path).unwrap();
    let source = Source { extents, meta: &meta, limits: Limits::default(), paces: &[] };
    copy(&source, clients, Placed::new(FileWriter::new(file)), spool, &(), &Cancel::new()).map(|(_, finished)| finished)
}

#[test]
fn scattered_data_survives_with_every_compression() {
    let server = Nbdkit::start(&["sparse-random", "size=37M", "seed=5", "percent=30", "runlength=49152"]);
    let mut client = connect(&server);
    let mut extents = allocation(&mut client).unwrap();
    align_data(&mut extents, FRAME_ALIGNMENT);
    assert!(extents.len() > 100, "the disk must be scattered: {}", extents.len());
    let mut expected = vec![0; client.size() as usize];
    client.read_at(&mut expected, 0).unwrap();
    let directory = tempfile::tempdir().unwrap();
    for (compression, threads) in [
        (Compression::None, 1),
        (Compression::None, 4),
        (Compression::Lz4 { level: 2 }, 3),
        (Compression::Lz4 { level: 4 }, 3),
    ] {
        let path = directory.path().join("vda.full.data");
        let finished = backup(&server, &path, &extents, compression, threads).unwrap();
        assert_eq!(finished.stored_size, path.metadata().unwrap().len());
        assert!(
            verify(&path, None, Scope::Bytes { threads: 2 }, &|_| (), &Cancel::new()).unwrap().is_sound(),
            "{compression:?}"
        );
        let chain = ChainDevice::new("vda", vec![StreamReader::open(&path).unwrap()]).unwrap();
        let disk = MemoryDisk::from_picture(&"0".repeat(37 * 1024), 1024);
        restore::copy(&chain, &chain.extents(0..chain.size()), &disk, 2, &(), &Cancel::new()).unwrap();
        assert!(disk.content() == expected, "{compression:?} with {threads} threads");
    }
}

#[test]
fn a_read_error_ends_all_threads_and_names_the_place() {
    let server = Nbdkit::start(&["--filter=error", "pattern", "size=64M", "error-pread-rate=5%"]);
    let directory = tempfile::tempdir().unwrap();
    let extents = [Extent::data(0, 64 << 20)];
    let error = backup(&server, &directory.path().join("x"), &extents, Compression::None, 4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.offset().is_some(), "{error}");
}

/// However many threads write at their places, and whatever the order, the file is what one thread writes to a pipe.
#[test]
fn the_order_of_threads_is_not_seen() {
    let server = Nbdkit::start(&["--filter=delay", "sparse-random", "size=48M", "seed=8", "percent=50", "rdelay=3ms"]);
    let mut extents = allocation(&mut connect(&server)).unwrap();
    align_data(&mut extents, FRAME_ALIGNMENT);
    let directory = tempfile::tempdir().unwrap();
    for compression in [Compression::None, Compression::Lz4 { level: 1 }] {
        let meta = meta(48 << 20, &extents, compression);
        let source = Source { extents: &extents, meta: &meta, limits: Limits::default(), paces: &[] };
        let one = vec![connect(&server)];
        let (piped, expected) = copy(&source, one, Vec::new(), directory.path(), &(), &Cancel::new()).unwrap();
        let path = directory.path().join("vda.full.data");
        let finished = backup(&server, &path, &extents, compression, 5).unwrap();
        assert_eq!(finished, expected);
        assert!(std::fs::read(&path).unwrap() == piped, "{compression:?}");
        assert_eq!(finished.adler32, simd_adler32::adler32(&piped.as_slice()));
    }
}

/// An output that fails once it has so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0 == 0 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_output_ends_all_threads() {
    let server = Nbdkit::start(&["pattern", "size=64M"]);
    let directory = tempfile::tempdir().unwrap();
    let extents = [Extent::data(0, 64 << 20)];
    let meta = meta(64 << 20, &extents, Compression::None);
    let source = Source { extents: &extents, meta: &meta, limits: Limits::default(), paces: &[] };
    let clients = || (0..4).map(|_| connect(&server)).collect::<Vec<_>>();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let in_order = copy(&source, clients(), Full(20 << 20), directory.path(), &(), &Cancel::new()).map(drop);
    let placed =
        copy(&source, clients(), Placed::new(FileWriter::new(full)), directory.path(), &(), &Cancel::new()).map(drop);
    for error in [in_order.unwrap_err(), placed.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(crate::error::report(&error).contains("pace"), "{}", crate::error::report(&error));
    }
}

/// Cancels when so many bytes are done.
struct CancelAt(Cancel, AtomicU64);

impl Progress for CancelAt {
    fn advance(&self, bytes: u64) {
        if self.1.fetch_add(bytes, Ordering::Relaxed) + bytes >= 16 << 20 {
            self.0.cancel();
        }
    }
}

#[test]
fn a_cancelled_copy_is_no_copy() {
    let server = Nbdkit::start(&["pattern", "size=64M"]);
    let directory = tempfile::tempdir().unwrap();
    let extents = [Extent::data(0, 64 << 20)];
    let meta = meta(64 << 20, &extents, Compression::None);
    let source = Source { extents: &extents, meta: &meta, limits: Limits::default(), paces: &[] };
    let cancel = Cancel::new();
    let clients = (0..4).map(|_| Client::connect(&server.uri(), &[], &cancel).unwrap()).collect();
    let path = directory.path().join("x");
    let out = Placed::new(FileWriter::new(std::fs::File::create(&path).unwrap()));
    let at = CancelAt(cancel.clone(), AtomicU64::new(0));
    let error = copy(&source, clients, out, directory.path(), &at, &cancel).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    StreamReader::open(&path).expect_err("a part taken for the whole");
}
