//! What every input must stand: no panic, no hang, and answers that agree with each other.
//!
//! Each function is a fuzz target, and a normal test on the corpus.

#![allow(dead_code, reason = "each target uses one of them")]

use std::cell::OnceCell;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virtkeep::cancel::Cancel;
use virtkeep::error::Result;
use virtkeep::extent::{Extent, Kind as ExtentKind};
use virtkeep::libvirt::backup_job::job_server;
use virtkeep::libvirt::checkpoint::Checkpoint;
use virtkeep::libvirt::domain_xml::{Adjustment, DomainConfig, NewSource, adjust};
use virtkeep::nbd::server::export::{Export, Exports, Named};
use virtkeep::nbd::server::gate::Turn;
use virtkeep::nbd::server::handshake::{self, Outcome};
use virtkeep::nbd::server::option::{Options, Tls};
use virtkeep::nbd::server::request::{Action, Request, Rules};
use virtkeep::nbd::server::stream::Stream;
use virtkeep::qemu::img::ImageInfo;
use virtkeep::set::catalogue::Catalogue;
use virtkeep::set::intent::Intent;
use virtkeep::set::layout::Layout;
use virtkeep::set::manifest::Manifest;
use virtkeep::set::{chain, config, cpt};
use virtkeep::stored::StoredFile;
use virtkeep::stream::meta::Meta;
use virtkeep::stream::raw::{self, RawImage};
use virtkeep::stream::reader::{Scratch, StreamReader};
use virtkeep::stream::verify::{Scope, verify};
use virtkeep::stream::{BLOCK, head, index};

/// The largest image that is read for an index: 16 blocks.
const MAX_IMAGE: u64 = 16 * BLOCK;

/// Blocks that are read of a stream.
const READS: usize = 4;

/// A stream of anybody.
pub fn stream(bytes: &[u8]) {
    in_directory(|directory| {
        let path = directory.join("vda.full.data");
        std::fs::write(&path, bytes).unwrap();
        look_at_stream(&path);
    });
}

/// A stream of ours whose index says what its maker wanted: the digests over meta and index are put
/// right, so that what they protect is reached.
pub fn stream_sealed(bytes: &[u8]) {
    stream(&sealed(bytes).unwrap_or_else(|| bytes.to_vec()));
}

fn look_at_stream(path: &Path) {
    let whole = |scope| verify(path, None, scope, &|_| (), &Cancel::new()).unwrap();
    let (full, quick) = (whole(Scope::Bytes { threads: 1 }), whole(Scope::Structure));
    assert!(quick.is_sound() || !full.is_sound(), "{:?}", quick.findings);
    let meta = head::read(path);
    let reader = match StreamReader::open(path) {
        Ok(reader) => reader,
        Err(error) => {
            assert!(!full.is_sound(), "sound, but {error:?}");
            return;
        }
    };
    assert_eq!(&meta.unwrap(), reader.meta());
    read_some(&reader, full.is_sound());
}

/// The content is one line without gaps, and can be read where the file is `sound`.
fn read_some(reader: &StreamReader, sound: bool) {
    let size = reader.meta().virtual_size;
    let mut end = 0;
    let mut scratch = Scratch::default();
    let mut reads = 0;
    for extent in reader.content() {
        assert!(extent.offset == end && extent.length() > 0, "{extent:?} after {end}");
        end = extent.end();
        if extent.kind() == ExtentKind::Data && reads < READS {
            reads += 1;
            let start = extent.offset / BLOCK * BLOCK;
            let range = start..(start + BLOCK).min(size);
            let mut buffer = vec![0; (range.end - range.start) as usize];
            let read = reader.read(range.clone(), &mut buffer, &mut scratch);
            assert!(read.is_ok() || !sound, "sound, but {read:?}");
            if read.is_ok() {
                read_parts(reader, range, &buffer, &mut scratch);
            }
        }
    }
    assert_eq!(end, size);
}

/// Parts of a block that was proven are what the block is, in whatever order.
fn read_parts(reader: &StreamReader, block: Range<u64>, content: &[u8], scratch: &mut Scratch) {
    let length = block.end - block.start;
    for (start, end) in [(length / 2, length), (1, length / 3), (length / 3, length / 2 + 1), (0, 1)] {
        let (start, end) = (start.min(length), end.min(length).max(start.min(length)));
        let mut part = vec![0; (end - start) as usize];
        // What the stream does not carry stays zero, as in the block.
        reader.read_proven(block.start + start..block.start + end, &mut part, scratch).unwrap();
        assert!(part == content[start as usize..end as usize], "{start}..{end} of {block:?}");
    }
}

/// The index of a raw image, as it is, and with its digest put right. The image is a hole of the size that the
/// index says, if that is not too much to read.
pub fn raw_index(bytes: &[u8]) {
    let mut sealed = bytes.to_vec();
    if let Some(start) = bytes.len().checked_sub(index::HASH_LEN) {
        let hash = *blake3::hash(&bytes[..start]).as_bytes();
        sealed[start..].copy_from_slice(&hash);
    }
    let size = bytes.get(16..24).map_or(0, |field| u64::from_le_bytes(field.try_into().unwrap()));
    in_directory(|directory| {
        let (image, index) = (directory.join("vda.copy.data"), directory.join("vda.copy.data.index"));
        std::fs::File::create(&image).unwrap().set_len(if size <= MAX_IMAGE { size } else { BLOCK }).unwrap();
        let (image, index_file) = (StoredFile::from(image), StoredFile::from(index.clone()));
        for bytes in [bytes, &sealed] {
            std::fs::write(&index, bytes).unwrap();
            let image = RawImage { target: "vda", file: &image, index: Some(&index_file) };
            let whole = |scope| raw::verify(&image, None, scope, &|_| (), &Cancel::new()).unwrap();
            let (full, quick) = (whole(Scope::Bytes { threads: 1 }), whole(Scope::Structure));
            assert!(quick.is_sound() || !full.is_sound(), "{:?}", quick.findings);
            match StreamReader::open_raw(&image) {
                Ok(reader) => read_some(&reader, full.is_sound()),
                Err(error) => assert!(!full.is_sound(), "sound, but {error:?}"),
            }
        }
    });
}

fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let length = u64::from_str_radix(std::str::from_utf8(bytes.get(22..38)?).ok()?, 16).ok()?;
    let meta_end = 40usize.checked_add(usize::try_from(length).ok()?)?;
    let meta = Meta::decode(bytes.get(40..meta_end)?).ok()?;
    let meta_hash = *blake3::hash(&bytes[..meta_end]).as_bytes();
    let start = find(&bytes, &index::MAGIC, meta_end)?;
    let header = find(&bytes, b"\r\nindx ", start)?;
    let len = header - start;
    if len < index::HEADER_LEN + index::HASH_LEN || bytes.len() < header + 42 {
        return None;
    }
    let part = &mut bytes[start..header];
    part[16..24].copy_from_slice(&meta.virtual_size.to_le_bytes());
    part[24..32].copy_from_slice(&(meta_end as u64 + 2).to_le_bytes());
    part[72..104].copy_from_slice(&meta_hash);
    let hash = *blake3::hash(&part[..len - index::HASH_LEN]).as_bytes();
    part[len - index::HASH_LEN..].copy_from_slice(&hash);
    let line = format!("indx {:016x} {len:016x}\r\n", 0);
    bytes[header + 2..header + 42].copy_from_slice(line.as_bytes());
    Some(bytes)
}

fn find(bytes: &[u8], part: &[u8], from: usize) -> Option<usize> {
    Some(from + bytes.get(from..)?.windows(part.len()).position(|window| window == part)?)
}

/// A manifest, damaged, or of somebody who can seal; and the catalogue of a set with it.
pub fn manifest(bytes: &[u8]) {
    in_directory(|directory| {
        let layout = Layout::new(directory);
        let raw = directory.join("manifest.00000000-0000-0000-0000-000000000001.json");
        std::fs::write(&raw, bytes).unwrap();
        let _ = Manifest::read(&raw);
        look_at_set(&layout);
        std::fs::remove_file(&raw).unwrap();
        let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else { return };
        let path = layout.file(&Layout::manifest_name(manifest.run)).unwrap();
        manifest.commit(&layout).unwrap();
        match Manifest::read(&path) {
            // Moments are written to the microsecond: read once, nothing changes any more.
            Ok(read) => {
                read.commit(&layout).unwrap();
                assert_eq!(Manifest::read(&path).unwrap(), read);
            }
            Err(error) => assert!(manifest.virtkeep_manifest != virtkeep::set::manifest::VERSION, "{error:?}"),
        }
        look_at_set(&layout);
    });
}

fn look_at_set(layout: &Layout) {
    let catalogue = Catalogue::open(layout.clone()).unwrap();
    let _ = chain::find_point(&catalogue, None);
    for run in &catalogue.runs {
        for stream in &run.streams {
            let _ = chain::resolve(&catalogue, run, &stream.target);
            if let Ok(file) = catalogue.stream_file(stream) {
                is_inside(layout, file.path());
            }
        }
        for file in config::files(&catalogue, run).into_iter().flatten() {
            let _ = file.read();
        }
    }
}

fn is_inside(layout: &Layout, path: &Path) {
    let rest = path.strip_prefix(layout.directory()).unwrap();
    assert!(rest.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{}", path.display());
}

/// The record of an unfinished run.
pub fn intent(bytes: &[u8]) {
    in_directory(|directory| {
        let layout = Layout::new(directory);
        std::fs::create_dir(layout.private()).unwrap();
        std::fs::write(layout.private().join("intent.x.json"), bytes).unwrap();
        for intent in Intent::left_behind(&layout).into_iter().flatten() {
            for name in intent.files.iter().chain(&intent.extra) {
                if let Ok(path) = layout.file(name) {
                    is_inside(&layout, &path);
                }
            }
            assert_eq!(serde_json::from_slice::<Intent>(&serde_json::to_vec(&intent).unwrap()).unwrap(), intent);
        }
    });
}

/// JSON and lists: a stream's meta, an image's description, a chain's checkpoints.
pub fn meta(bytes: &[u8]) {
    if let Ok(meta) = Meta::decode(bytes) {
        match meta.encode() {
            Ok(text) => assert_eq!(Meta::decode(&text).unwrap(), meta),
            // Only what takes more room than it may.
            Err(_) => assert!(bytes.len() > 100_000),
        }
    }
    let _ = cpt::decode(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = ImageInfo::parse(text);
    }
}

/// A domain's XML: read, and adjusted as a restore does.
pub fn domain_xml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(domain) = DomainConfig::parse(text) else {
        assert!(adjust(text, &Adjustment::default()).is_err());
        return;
    };
    let mut plan = Adjustment {
        name: Some("new <&\"'> name".to_owned()),
        drop_uuid: true,
        drop_mac: true,
        loader: Some("/new/loader".into()),
        nvram: Some("/new/nvram".into()),
        kernel: Some("/new/kernel".into()),
        initrd: Some("/new/initrd".into()),
        varstore: Some("/new/varstore".into()),
        ..Adjustment::default()
    };
    for disk in domain.disks.iter().step_by(2) {
        let source = NewSource {
            path: format!("/new/{}", disk.target).into(),
            format: "qcow2".to_owned(),
            block: false,
            data_file: disk.data_store.as_ref().map(|_| ("/new/data".into(), false)),
        };
        plan.disks.insert(disk.target.clone(), source);
    }
    let Ok(adjusted) = adjust(text, &plan) else { return };
    let new = DomainConfig::parse(&adjusted.xml).unwrap_or_else(|error| panic!("{error:?}: {}", adjusted.xml));
    assert_eq!(Some(&new.name), plan.name.as_ref());
    for (target, source) in &plan.disks {
        let disk = new.disk(target).unwrap_or_else(|| panic!("{target} is gone: {}", adjusted.xml));
        assert_eq!(disk.source.path(), Some(&source.path), "{}", adjusted.xml);
    }
}

/// The XML of a checkpoint, and of a backup job.
pub fn checkpoint_xml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = job_server(text);
    let Ok(checkpoint) = Checkpoint::parse(text) else { return };
    let same = |xml: &str| {
        let again = Checkpoint::parse(xml).unwrap_or_else(|error| panic!("{error:?}: {xml}"));
        assert_eq!((&again.name, again.creation_time), (&checkpoint.name, checkpoint.creation_time), "{xml}");
        assert_eq!(again.disks, checkpoint.disks, "{xml}");
    };
    same(&checkpoint.xml);
    same(&checkpoint.root_xml().unwrap());
    if let Ok(xml) = checkpoint.redefine_xml() {
        same(&xml);
    }
}

/// Calls `look` with an empty directory, in memory where the system has one.
fn in_directory(look: impl FnOnce(&Path)) {
    thread_local! {
        static PLACE: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
    }
    PLACE.with(|place| {
        let place = place.get_or_init(|| tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
        let directory = place.path().join("set");
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        look(&directory);
    });
}

/// What an NBD client sends: the flags and options of a handshake, then requests.
pub fn nbd_server(bytes: &[u8]) {
    let name = |name: &str| Named { name: name.into(), description: "zeroes".into(), export: Arc::new(Zeroes) };
    let exports = Exports::new(vec![name("vda"), name("vdb")]);
    for tls in [Tls::None, Tls::Required] {
        let stream = Fed { input: Mutex::new(bytes.to_vec()), output: Mutex::default() };
        let mut options = Options::new(&exports, tls);
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut outcome = handshake::begin(&stream, &mut options, deadline);
        if let Ok(Outcome::StartTls) = outcome {
            assert_eq!(tls, Tls::Required);
            outcome = handshake::resume(&stream, &mut options, deadline);
        }
        // A reply is never much longer than what asked for it.
        assert!(stream.output.lock().unwrap().len() <= 1000 + 100 * bytes.len());
        let Ok(Outcome::Agreed(agreed)) = outcome else { continue };
        let rules = Rules {
            size: agreed.export.export.size(),
            writable: bytes.len() % 2 == 0,
            structured: agreed.structured,
            status: agreed.status,
        };
        let rest = stream.input.into_inner().unwrap();
        for header in rest.chunks_exact(28) {
            let Some(request) = Request::decode(header.try_into().unwrap()) else { continue };
            match request.check(&rules) {
                Ok(Action::Read { range, .. } | Action::Cache(range) | Action::Status { range, .. }) => {
                    assert!(range.start <= range.end && range.end <= rules.size);
                }
                Ok(Action::Write { range, .. } | Action::Zero { range, .. }) => {
                    assert!(rules.writable && range.start <= range.end && range.end <= rules.size);
                }
                Ok(Action::Flush | Action::Disconnect) => {}
                Err(error) => assert_ne!(error, 0),
            }
        }
    }
}

/// A disk of zeroes.
struct Zeroes;

impl Export for Zeroes {
    fn size(&self) -> u64 {
        1 << 40
    }

    fn is_writable(&self) -> bool {
        false
    }

    fn preferred_block(&self) -> u32 {
        4096
    }

    fn read(&self, buffer: &mut [u8], _: u64, _: Option<&Turn<'_>>) -> Result<bool> {
        buffer.fill(0);
        Ok(true)
    }

    fn extents(&self, range: Range<u64>, _: usize) -> Vec<Extent> {
        vec![Extent::zero(range.start, range.end - range.start)]
    }

    fn write(&self, _: &[u8], _: u64, _: &Turn<'_>) -> Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _: Range<u64>, _: &Turn<'_>) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// A connection whose client has said all that it will.
struct Fed {
    input: Mutex<Vec<u8>>,
    output: Mutex<Vec<u8>>,
}

impl Stream for Fed {
    fn receive(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut input = self.input.lock().unwrap();
        let len = buffer.len().min(input.len());
        buffer[..len].copy_from_slice(&input[..len]);
        input.drain(..len);
        Ok(len)
    }

    fn send(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.output.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }

    fn shutdown(&self, _: std::net::Shutdown) {}

    fn set_limit(&self, _: Option<Duration>) -> std::io::Result<()> {
        Ok(())
    }
}
