//! A chain as an NBD export: read in any order by many clients, each block proven when it is first read.
//!
//! ```text
//! request ─▶ parts of the chain ─▶ zeroes
//!                               ├▶ plain stream, block proven before: read from the file
//!                               ├▶ compressed, block proven before: a slice of it, from memory or decompressed
//!                               └▶ else the whole block: from memory, or loaded and proven
//! ```
//!
//! | module | owns |
//! |---|---|
//! | `layer` | one stream of the chain and what of it was proven |
//! | `cells` | blocks and slices of them in memory, bounded, each loaded by one thread at a time |
//! | [`overlay`] | changes on top of it, for a map that can be written |

mod cells;
pub mod dumped;
mod layer;
pub mod overlay;

use std::ops::Range;
use std::sync::Arc;

use self::cells::Memory;
use self::layer::Layer;
use crate::chain_device::{ChainDevice, Content};
use crate::error::{Error, Kind, Result};
use crate::extent::{self, Extent};
use crate::nbd::server::export::Export;
use crate::nbd::server::gate::Turn;

/// Part of the disk whose extents are looked up at a time.
const STATUS_STEP: u64 = 64 << 20;

/// Memory for blocks, shared by all disks that are served.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Memory>);

impl Cache {
    /// Room for `bytes` of blocks.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Memory::new(bytes)))
    }
}

/// A restore point of a disk, to be served. Read-only.
pub struct MappedDisk {
    chain: ChainDevice,
    layers: Vec<Layer>,
    memory: Arc<Memory>,
}

impl MappedDisk {
    /// Serves `chain`.
    pub fn new(chain: ChainDevice, cache: &Cache) -> Self {
        let layers = chain.layers().iter().map(|reader| Layer::new(reader)).collect();
        Self { chain, layers, memory: Arc::clone(&cache.0) }
    }

    /// Names the content: of equal chains it is equal.
    fn identity(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.chain.target().as_bytes());
        for layer in self.chain.layers() {
            let meta = layer.meta();
            let content = layer.index_digest().unwrap_or_else(|| {
                // virtnbdbackup's streams have no digest: what they say of themselves.
                let text = format!("{} {} {}", meta.checkpoint_name, meta.date, meta.data_size);
                *blake3::hash(text.as_bytes()).as_bytes()
            });
            hasher.update(&layer.stored_size().to_le_bytes()).update(&content);
        }
        *hasher.finalize().as_bytes()
    }

    /// The chain below.
    pub fn chain(&self) -> &ChainDevice {
        &self.chain
    }
}

impl Export for MappedDisk {
    fn size(&self) -> u64 {
        self.chain.size()
    }

    fn is_writable(&self) -> bool {
        false
    }

    fn preferred_block(&self) -> u32 {
        64 << 10
    }

    fn read(&self, buffer: &mut [u8], offset: u64, turn: Option<&Turn<'_>>) -> Result<bool> {
        let range = offset..offset + buffer.len() as u64;
        let mut filled = offset;
        for (part, content) in self.chain.parts(range.clone()) {
            filled = part.end;
            let place = &mut buffer[(part.start - offset) as usize..(part.end - offset) as usize];
            let Content::Layer(layer) = content else {
                place.fill(0);
                continue;
            };
            let (layer, reader) = (&self.layers[layer], &self.chain.layers()[layer]);
            let read = layer.read(reader, part, place, &self.memory, turn);
            if !read.map_err(|error| error.disk(self.chain.target()))? {
                return Ok(false);
            }
        }
        if filled == range.end {
            Ok(true)
        } else {
            Err(Error::incomplete("no stream of the chain has the content").at(filled))
        }
    }

    fn extents(&self, range: Range<u64>, limit: usize) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut position = range.start;
        // A part at a time: a list that is cut must not cost what a whole one does.
        while position < range.end {
            let stop = range.end.min(position.saturating_add(STATUS_STEP));
            for (part, content) in self.chain.parts(position..stop) {
                let kind = if content == Content::Zero { extent::Kind::Zero } else { extent::Kind::Data };
                if extents.len() == limit && extents.last().is_some_and(|last| last.kind() != kind) {
                    return extents;
                }
                extent::push(&mut extents, Extent::new(part.start, part.end - part.start, kind));
            }
            position = stop;
        }
        extents
    }

    fn write(&self, _: &[u8], _: u64, _: &Turn<'_>) -> Result<()> {
        Err(Error::new(Kind::Unsupported, "a backup is never written to"))
    }

    fn write_zeroes(&self, _: Range<u64>, _: &Turn<'_>) -> Result<()> {
        Err(Error::new(Kind::Unsupported, "a backup is never written to"))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}
