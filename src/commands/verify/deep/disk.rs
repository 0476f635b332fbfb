//! One disk at all points that have it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::not_restorable;
use super::super::verdict::{Damage, Verdict};
use super::Content;
use super::overlay::Overlays;
use crate::cancel::Cancel;
use crate::chain_device::{self, Buffers, ChainDevice, Content as From};
use crate::commands::Session;
use crate::commands::restore::source::{opening_bytes, watched};
use crate::error::{Error, Result};
use crate::extent::Kind;
use crate::pipeline::Progress;
use crate::pipeline::work::CHAIN_WINDOW;
use crate::set::catalogue::{Catalogue, Run};
use crate::side_by_side::processors;
use crate::stream::reader::{Proof, Scratch, StreamReader};
use crate::stream::{BLOCK, COMPRESSED_LIMIT};
use crate::ui::log::on_disk;
use crate::ui::progress::Meter;

/// Damaged blocks that are told of a disk.
const MAX_TOLD: usize = 100;

/// A block of a stream: the stream's id and the block's number.
type Key = (u64, u64);

/// The disk at one restore point.
struct Point<'c> {
    id: &'c str,
    chain: ChainDevice,
}

/// What threads share.
#[derive(Default)]
struct Found {
    zero: u64,
    read: u64,
    blocks: u64,
    /// Damaged blocks, each with the points that use it, by their places in the list.
    bad: BTreeMap<Key, (Error, Range<u64>, Vec<usize>)>,
    /// Points that don't resolve as they should, the first place of each.
    unresolved: BTreeMap<usize, Error>,
}

/// Checks disk `target` of `runs`.
///
/// # Errors
/// [`Cancelled`](crate::error::Kind::Cancelled); all else is found.
pub fn check(
    session: &Session,
    catalogue: &Catalogue,
    runs: &[&Run],
    target: &str,
    content: &mut Content,
    verdict: &mut Verdict,
) -> Result<()> {
    let _messages = on_disk(target);
    let points = open(session, catalogue, runs, target, content, verdict)?;
    let streams: HashMap<u64, &Arc<StreamReader>> =
        points.iter().flat_map(|point| point.chain.layers()).map(|reader| (reader.id(), reader)).collect();
    let mut unproven: Vec<_> = streams.values().filter(|reader| reader.proof() == Proof::Unproven).collect();
    unproven.sort_unstable_by_key(|reader| reader.path());
    for reader in unproven {
        tracing::warn!("disk {target}: {}: no checksum, unproven", reader.path().display());
        verdict.unproven += 1;
    }
    verdict.files += streams.len();
    verdict.bytes = streams.values().map(|reader| reader.stored_size()).fold(verdict.bytes, u64::saturating_add);
    content.disks += points.len() as u64;
    content.bytes = points.iter().map(|point| point.chain.size()).fold(content.bytes, u64::saturating_add);
    let meter = session.display.meter(target, streams.values().map(|reader| reader.meta().data_size).sum());
    let found = read_all(&points, &meter, &session.cancel)?;
    content.zero += found.zero;
    content.read += found.read;
    content.blocks += found.blocks;
    tell(found, &points, &streams, content, verdict);
    Ok(())
}

/// Opens the chains; what is wrong with them is found.
fn open<'c>(
    session: &Session,
    catalogue: &Catalogue,
    runs: &[&'c Run],
    target: &str,
    content: &mut Content,
    verdict: &mut Verdict,
) -> Result<Vec<Point<'c>>> {
    // None for those that can't be opened: why was said.
    let streams: RefCell<HashMap<String, Option<Arc<StreamReader>>>> = RefCell::default();
    let verdict = RefCell::new(verdict);
    let mut points = Vec::new();
    for run in runs.iter().filter(|run| run.stream(target).is_some()) {
        session.cancel.check()?;
        let told = RefCell::new(false);
        let chain = ChainDevice::open_with(catalogue, run, target, &mut |stream| {
            let known = streams.borrow().get(&stream.file).cloned();
            if let Some(known) = known {
                *told.borrow_mut() |= known.is_none();
                return known.ok_or_else(|| Error::corrupt("is damaged").path(&stream.file));
            }
            let total = opening_bytes(catalogue, stream, session);
            let opened =
                watched(session, target, total, |opening| chain_device::open_layer(catalogue, stream, opening));
            let opened = opened.map(Arc::new);
            let kept = opened.as_ref().ok().cloned();
            streams.borrow_mut().insert(stream.file.clone(), kept);
            opened
        });
        match chain {
            Ok(chain) => points.push(Point { id: &run.id, chain }),
            Err(error) if error.kind() == crate::error::Kind::Cancelled => return Err(error),
            Err(error) => {
                content.damaged.insert(run.id.clone());
                if *told.borrow() {
                    tracing::error!("disk {target}: restore point {} can't be restored, for the same reason", run.id);
                } else {
                    verdict.borrow_mut().damage(not_restorable(&run.id, error).disk(target));
                }
            }
        }
    }
    Ok(points)
}

/// Reads all points, with as many threads as there are processors.
fn read_all(points: &[Point<'_>], meter: &Meter, cancel: &Cancel) -> Result<Found> {
    let size = points.iter().map(|point| point.chain.size()).max().unwrap_or(0);
    // Of virtnbdbackup's frames, of up to 32 MiB, none can be decompressed in part: a thread gets whole ones.
    let has_long = |reader: &Arc<StreamReader>| reader.meta().compression.is_lz4() && reader.index_digest().is_none();
    let long = points.iter().any(|point| point.chain.layers().iter().any(has_long));
    let step = if long { COMPRESSED_LIMIT } else { CHAIN_WINDOW };
    let next = AtomicU64::new(0);
    let found = Mutex::new(Found::default());
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            let mut reading = Reading { points, meter, found: &found, buffers: Buffers::default(), window: Vec::new() };
            loop {
                cancel.check()?;
                let start = next.fetch_add(1, Ordering::Relaxed).saturating_mul(step);
                if start >= size {
                    return Ok(());
                }
                reading.part(start..size.min(start + step));
            }
        };
        let threads: Vec<_> = (0..processors()).map(|_| scope.spawn(work)).collect();
        Error::first_of(threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(Error::panicked()))))
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// One thread.
struct Reading<'r> {
    points: &'r [Point<'r>],
    meter: &'r Meter,
    found: &'r Mutex<Found>,
    buffers: Buffers,
    window: Vec<u8>,
}

impl Reading<'_> {
    /// Checks a part of the disk at every point.
    fn part(&mut self, window: Range<u64>) {
        let mut overlays = Overlays::of(window.clone());
        // Blocks of streams that were read, and whether they were right.
        let mut known: HashMap<Key, bool> = HashMap::new();
        let mut seen = Found::default();
        for (number, point) in self.points.iter().enumerate() {
            let range = window.start..window.end.min(point.chain.size());
            if range.is_empty() {
                continue;
            }
            let parts: Vec<(Range<u64>, From)> = point.chain.parts(range.clone()).collect();
            if let Err(error) = overlays.compare(&point.chain, range.clone(), &parts) {
                seen.unresolved.insert(number, error);
                continue;
            }
            let mut used: BTreeSet<(usize, u64)> = BTreeSet::new();
            for (part, content) in parts {
                match content {
                    From::Zero => seen.zero += part.end - part.start,
                    From::Layer(layer) => {
                        used.extend((part.start / BLOCK..part.end.div_ceil(BLOCK)).map(|block| (layer, block)));
                    }
                }
            }
            let layers = point.chain.layers();
            let unread: Vec<(usize, u64)> = used
                .iter()
                .copied()
                .filter(|(layer, block)| !known.contains_key(&(layers[*layer].id(), *block)))
                .collect();
            self.read(&point.chain, range, &unread, &mut known, &mut seen);
            for (layer, block) in used {
                if let Some((_, _, points)) = seen.bad.get_mut(&(layers[layer].id(), block)) {
                    points.push(number);
                }
            }
        }
        self.found.lock().unwrap_or_else(PoisonError::into_inner).add(seen);
    }

    /// Reads `unread` blocks of layers, as a restore would.
    fn read(
        &mut self,
        chain: &ChainDevice,
        range: Range<u64>,
        unread: &[(usize, u64)],
        known: &mut HashMap<Key, bool>,
        seen: &mut Found,
    ) {
        if unread.is_empty() {
            return;
        }
        let layers = chain.layers();
        self.window.resize((range.end - range.start) as usize, 0);
        let is_known = |layer: usize, block| known.contains_key(&(layers[layer].id(), block));
        let read = chain.read_data_but(range, &mut self.window, &mut self.buffers, &is_known);
        for &(layer, block) in unread {
            let (reader, key) = (&layers[layer], (layers[layer].id(), block));
            let blocks = block * BLOCK..((block + 1) * BLOCK).min(reader.meta().virtual_size);
            // Where something is wrong, block by block: what is wrong, and what is not?
            let alone = if read.is_ok() { Ok(()) } else { self.read_alone(reader, blocks.clone()) };
            known.insert(key, alone.is_ok());
            match alone {
                Ok(()) => {
                    let carried = carried(reader, blocks);
                    seen.read += carried;
                    seen.blocks += 1;
                    self.meter.advance(carried);
                }
                Err(error) => _ = seen.bad.insert(key, (error, blocks, Vec::new())),
            }
        }
    }

    fn read_alone(&mut self, reader: &StreamReader, range: Range<u64>) -> Result<()> {
        let mut block = vec![0; (range.end - range.start) as usize];
        reader.read(range, &mut block, &mut Scratch::default()).map(drop)
    }
}

/// Bytes of `range` that a stream carries.
fn carried(reader: &StreamReader, range: Range<u64>) -> u64 {
    let mut bytes = 0;
    reader.visit(range, &mut |extent| {
        if extent.kind() == Kind::Data {
            bytes += extent.length();
        }
    });
    bytes
}

impl Found {
    fn add(&mut self, other: Self) {
        self.zero += other.zero;
        self.read += other.read;
        self.blocks += other.blocks;
        self.bad.extend(other.bad);
        for (point, error) in other.unresolved {
            self.unresolved.entry(point).or_insert(error);
        }
    }
}

fn tell(
    found: Found,
    points: &[Point<'_>],
    streams: &HashMap<u64, &Arc<StreamReader>>,
    content: &mut Content,
    verdict: &mut Verdict,
) {
    for (point, error) in found.unresolved {
        content.damaged.insert(points[point].id.to_owned());
        verdict.damage(not_restorable(points[point].id, error));
    }
    let all = found.bad.len();
    for (place, ((stream, _), (error, range, users))) in found.bad.into_iter().enumerate() {
        let users: Vec<String> = users.into_iter().map(|point| points[point].id.to_owned()).collect();
        content.damaged.extend(users.iter().cloned());
        if let Some(reader) = streams.get(&stream) {
            verdict.bad_streams.insert(reader.path().to_owned());
        }
        if place < MAX_TOLD {
            verdict.damaged_data(Damage { error, range: Some(range), points: users });
        } else {
            verdict.damages += 1;
        }
    }
    if all > MAX_TOLD {
        tracing::error!("damage: {} more blocks of this disk", all - MAX_TOLD);
    }
}
