//! From an NBD server into a stream and back out of it.

use std::path::Path;

use uuid::Uuid;

use super::{SMALL_GAP, Source, copy, spans};
use crate::block::memory::MemoryDisk;
use crate::cancel::Cancel;
use crate::chain_device::ChainDevice;
use crate::error::{Kind as ErrorKind, Result};
use crate::extent::{self, Extent, Kind, align_data};
use crate::nbd::block_status::{ALLOCATION, allocation};
use crate::nbd::client::{Client, Limits};
use crate::nbd::testing::Nbdkit;
use crate::pipeline::restore;
use crate::stream::FRAME_ALIGNMENT;
use crate::stream::codec::Compression;
use crate::stream::meta::{Meta, Own};
use crate::stream::reader::StreamReader;
use crate::stream::verify::verify;
use crate::stream::writer::Finished;

fn connect(server: &Nbdkit) -> Client {
    Client::connect(&server.uri(), &[ALLOCATION], &Cancel::new()).unwrap()
}

fn backup(
    server: &Nbdkit,
    path: &Path,
    extents: &[Extent],
    compression: Compression,
    threads: usize,
) -> Result<Finished> {
    let clients: Vec<Client> = (0..threads).map(|_| connect(server)).collect();
    let meta = Meta {
        virtual_size: clients[0].size(),
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
    };
    let spool = path.parent().unwrap();
    let file = std::fs::File::create(path).unwrap();
    let source = Source { extents, meta: &meta, limits: Limits::default(), paces: &[] };
    copy(&source, clients, file, spool, &(), &Cancel::new()).map(|(_, finished)| finished)
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
        assert!(verify(&path, None, false, &|_| (), &Cancel::new()).unwrap().is_sound(), "{compression:?}");
        let chain = ChainDevice::new("vda", vec![StreamReader::open(&path).unwrap()]).unwrap();
        let disk = MemoryDisk::from_picture(&"0".repeat(37 * 1024), 1024);
        restore::copy(&chain, &disk, 2, &(), &Cancel::new()).unwrap();
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

#[test]
fn small_gaps_are_read_along() {
    let data = [(0, 4096), (8192, 4096), (12288 + SMALL_GAP, 512), (12801 + 2 * SMALL_GAP, 512)];
    let data = data.map(|(offset, length)| Extent::data(offset, length));
    assert_eq!(spans(&data), [0..12800 + SMALL_GAP, data[3].offset..data[3].end()]);
    assert_eq!(spans(&[]), []);
}
