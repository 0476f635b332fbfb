//! Tables of streams that have no index, virtnbdbackup's, kept from one time to the next, with a digest of each block:
//! the file is read as a whole once, and compared with its sum; later only what is used is read, and that is proven.
//!
//! A table is believed where its own digest holds and the file is the one that it was made of: its path, inode, size
//! and times, the digests of its head and end, and its sum. What becomes damaged without any of that changing is found
//! by the digests when it is read. Nothing needs the cache: what can't be read or written there is made anew.
//!
//! | module | owns |
//! |---|---|
//! | `entry` | the bytes of a table in the cache |
//! | `tidy` | what goes, so that the cache stays small |

mod entry;
mod tidy;

use std::cell::RefCell;
use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::process::geteuid;

use self::entry::{Entry, Source};
use crate::error::{self, Error, Result};
use crate::stored::StoredFile;
use crate::stream::COMPRESSED_LIMIT;
use crate::stream::codec::Decompressor;
use crate::stream::digest::{BlockHasher, Digest};
use crate::stream::index::{Index, Piece};
use crate::stream::reader::{Opening, Proof, foreign_proof};
use crate::stream::scan::{self, Look, Scanned};
use crate::stream::sequential::Watch;
use crate::stream::source::{MetaFrame, StreamFile};

/// The largest table: a hundred million frames.
const MAX_LEN: u64 = 1 << 30;

/// A directory of tables.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

/// What is known of a stream without an index.
pub(super) struct Known {
    pub(super) index: Index,
    pub(super) proof: Proof,
    /// Those of its blocks; none without a cache.
    pub(super) digests: Option<Vec<Digest>>,
}

impl Cache {
    /// The cache in `directory`, which is made when it is first written to.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Whether there is a table of `file` as it is now. It may turn out to be damaged.
    pub fn knows(&self, file: &StoredFile) -> bool {
        let source = file.open().ok().and_then(|open| Source::of(file.path(), open.stamp().ok()?));
        source.is_some_and(|source| self.open(&source).is_ok_and(|open| source.is_in(&mut (&open).take(1 << 13))))
    }

    /// The entry's file, if it is this user's and nobody else could have written it.
    fn open(&self, source: &Source) -> Result<File> {
        let path = self.directory.join(source.name());
        let failed = |error| Error::io("open", error).path(&path);
        let file = File::open(&path).map_err(failed)?;
        let facts = file.metadata().map_err(failed)?;
        if facts.uid() != geteuid().as_raw() || facts.mode() & 0o022 != 0 || !facts.is_file() || facts.len() > MAX_LEN {
            return Err(Error::unsupported("is not this user's alone").path(&path));
        }
        Ok(file)
    }

    fn load(&self, source: &Source, file: &StreamFile, frame: &MetaFrame) -> Result<Known> {
        let mut stored = self.open(source)?;
        let path = self.directory.join(source.name());
        let mut bytes = Vec::new();
        stored.read_to_end(&mut bytes).map_err(|error| Error::io("read", error).path(&path))?;
        let known = entry::decode(&bytes, source, file, frame).map_err(|error| error.path(&path))?;
        // What is used is not too old. That it can't be said is no matter.
        let _ = stored.set_modified(SystemTime::now());
        Ok(known)
    }

    /// Keeps what was found: all of it or nothing.
    fn store(&self, source: &Source, entry: &Entry<'_>) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("write to the cache", error).path(&self.directory);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(failed)?;
        let mut file = tempfile::Builder::new().prefix(tidy::NEW).tempfile_in(&self.directory).map_err(failed)?;
        file.write_all(&entry::encode(source, entry)).map_err(failed)?;
        file.persist(self.directory.join(source.name())).map_err(|error| failed(error.error))?;
        tidy::tidy(&self.directory);
        Ok(())
    }
}

/// The table of a stream without an index: from the cache, or by reading all of it, which is then kept.
///
/// # Errors
/// Of the stream.
pub(super) fn open(file: &StreamFile, frame: &MetaFrame, opening: Opening<'_>) -> Result<Known> {
    let watch = Watch { progress: opening.progress, cancel: opening.cancel };
    let source = opening.cache.and_then(|cache| Some((cache, Source::of(&file.path, file.stamp().ok()?)?)));
    let Some((cache, source)) = source else {
        let Scanned { index, sums } = scan::scan(file, frame, watch, false, Look::default())?;
        return Ok(Known { index, proof: foreign_proof(file, sums)?, digests: None });
    };
    match cache.load(&source, file, frame) {
        Ok(known) => return Ok(known),
        Err(error) => tracing::debug!("{}: its table is made: {}", file.path.display(), error::report(&error)),
    }
    let (scanned, digests) = read(file, frame, watch)?;
    let proof = foreign_proof(file, scanned.sums)?;
    if let Some(digests) = &digests {
        // Of a file that was written to meanwhile nothing is kept.
        let same = file.stamp().is_ok_and(|stamp| stamp == source.stamp);
        let kept = match Entry::of(file, frame, &scanned.index, proof, digests) {
            Ok(entry) if same => cache.store(&source, &entry),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            tracing::debug!("{}: its table is not kept: {}", file.path.display(), error::report(&error));
        }
    }
    Ok(Known { index: scanned.index, proof, digests })
}

/// Reads a stream and takes its digests; none where a payload can't be decompressed, which is for who reads it.
fn read(file: &StreamFile, frame: &MetaFrame, watch: Watch<'_>) -> Result<(Scanned, Option<Vec<Digest>>)> {
    let taking = RefCell::new(Taking::default());
    let mut plain = |offset: u64, part: &[u8]| taking.borrow_mut().take(offset, part);
    let mut compressed = |piece: &Piece, stored: &mut Vec<u8>| taking.borrow_mut().take_compressed(piece, stored);
    let look = Look { compressed: Some(&mut compressed), plain: Some(&mut plain) };
    let scanned = scan::scan(file, frame, watch, false, look)?;
    let mut taking = taking.into_inner();
    let hasher = std::mem::take(&mut taking.hasher);
    taking.finish(hasher)?;
    Ok((scanned, (!taking.failed).then_some(taking.digests)))
}

#[derive(Default)]
struct Taking {
    hasher: BlockHasher,
    digests: Vec<Digest>,
    decompressor: Decompressor,
    content: Vec<u8>,
    failed: bool,
}

impl Taking {
    fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let digests = &mut self.digests;
        self.hasher.update(offset, bytes, &mut |_, digest| {
            digests.push(digest);
            Ok(())
        })
    }

    fn take_compressed(&mut self, piece: &Piece, stored: &mut Vec<u8>) -> Result<()> {
        if self.failed {
            return Ok(());
        }
        let mut content = std::mem::take(&mut self.content);
        // At most 32 MiB: the scan refuses longer ones.
        content.resize(piece.length.min(COMPRESSED_LIMIT) as usize, 0);
        let taken = match self.decompressor.decompress_exact(stored, &mut content) {
            Ok(()) => self.take(piece.offset, &content),
            Err(_) => {
                self.failed = true;
                Ok(())
            }
        };
        self.content = content;
        taken
    }

    fn finish(&mut self, mut hasher: BlockHasher) -> Result<()> {
        hasher.finish(&mut |_, digest| {
            self.digests.push(digest);
            Ok(())
        })
    }
}

/// The absolute path of a file, as the cache knows it.
fn absolute(path: &Path) -> Option<PathBuf> {
    // Of a member of a zip file the archive is there, and the member below it is not.
    path.canonicalize().ok().or_else(|| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?)))
}

/// Keeps the table of `good` as one of the file at `path`, as if that had always been like this: for tests.
#[cfg(test)]
pub(super) fn forge(cache: &Cache, good: &super::reader::StreamReader, path: &Path) {
    let file = StreamFile::open(path.into()).unwrap();
    let frame = super::source::read_meta(&file).unwrap();
    let source = Source::of(path, file.stamp().unwrap()).unwrap();
    let (index, digests) = good.table();
    let entry = Entry::of(&file, &frame, index, good.proof(), digests).unwrap();
    cache.store(&source, &entry).unwrap();
}
