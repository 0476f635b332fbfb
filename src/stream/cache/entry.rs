//! The bytes of a table in the cache. All numbers are little-endian; a list is its count and its entries, as varints
//! from one to the next.
//!
//! ```text
//! magic │ path │ stamp │ digests of head and end, sum, proof │ frames │ zeroes │ digests │ digest of all before
//! ```

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Known, absolute};
use crate::error::{Error, Result};
use crate::extent::{self, Extent};
use crate::stored::Stamp;
use crate::stream::digest::{DIGEST_LEN, Digest};
use crate::stream::index::{HASH_LEN, Index, Piece, Pieces};
use crate::stream::reader::Proof;
use crate::stream::source::{MetaFrame, StreamFile};
use crate::stream::varint::{put_varint, varint_of};

/// With the version.
const MAGIC: [u8; 8] = *b"VKTABLE\x01";
/// Ends the names of tables.
pub(super) const ENDING: &str = ".table";
/// Bytes of the file's end that are compared.
const END: u64 = 4096;

/// The file that a table is of.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    pub(super) stamp: Stamp,
}

impl Source {
    /// The file at `path`; none where that can't be said.
    pub(super) fn of(path: &Path, stamp: Stamp) -> Option<Self> {
        Some(Self { path: absolute(path)?, stamp })
    }

    /// The name of its table.
    pub(super) fn name(&self) -> String {
        let hash = blake3::hash(self.path.as_os_str().as_bytes()).to_hex();
        format!("{}{ENDING}", &hash[..32])
    }

    /// How a table begins that is of this file.
    fn head(&self) -> Vec<u8> {
        let path = self.path.as_os_str().as_bytes();
        let mut bytes = Vec::from(MAGIC);
        bytes.extend((path.len() as u64).to_le_bytes());
        bytes.extend(path);
        self.stamp.0.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes
    }

    /// Whether the table in `file` is of this one.
    pub(super) fn is_in(&self, file: &mut dyn Read) -> bool {
        let head = self.head();
        let mut found = vec![0; head.len()];
        file.read_exact(&mut found).is_ok() && found == head
    }
}

/// The path in the head of a table.
pub(super) fn path_of(file: &mut dyn Read) -> Option<PathBuf> {
    let mut fixed = [0; 16];
    file.read_exact(&mut fixed).ok()?;
    let (magic, length) = fixed.split_at(MAGIC.len());
    let length = u64::from_le_bytes(length.try_into().ok()?);
    if magic != MAGIC || length > 1 << 16 {
        return None;
    }
    let mut path = vec![0; length as usize];
    file.read_exact(&mut path).ok()?;
    Some(std::ffi::OsStr::from_bytes(&path).into())
}

/// What is kept.
pub(super) struct Entry<'e> {
    identity: [u8; HASH_LEN],
    index: &'e Index,
    proof: Proof,
    digests: &'e [Digest],
}

impl<'e> Entry<'e> {
    /// What was found of `file`.
    pub(super) fn of(
        file: &StreamFile,
        frame: &MetaFrame,
        index: &'e Index,
        proof: Proof,
        digests: &'e [Digest],
    ) -> Result<Self> {
        Ok(Self { identity: identity(file, frame)?, index, proof, digests })
    }
}

/// One digest over the head of a file, its end and what is known of its sum.
fn identity(file: &StreamFile, frame: &MetaFrame) -> Result<[u8; HASH_LEN]> {
    let start = file.size.saturating_sub(END);
    let mut end = vec![0; (file.size - start) as usize];
    file.read_at(&mut end, start)?;
    let sum = format!("{:?} {:?}", file.checksum()?, file.stored.crc32());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&frame.hash).update(blake3::hash(&end).as_bytes()).update(sum.as_bytes());
    Ok(*hasher.finalize().as_bytes())
}

/// The bytes of a table.
pub(super) fn encode(source: &Source, entry: &Entry<'_>) -> Vec<u8> {
    let mut bytes = source.head();
    bytes.extend(entry.identity);
    bytes.push(u8::from(entry.proof == Proof::Checksum));
    put_varint(&mut bytes, entry.index.stop);
    put_varint(&mut bytes, entry.index.pieces.len() as u64);
    let (mut guest, mut position) = (0, 0);
    for piece in &entry.index.pieces {
        for number in [piece.offset - guest, piece.length, piece.position - position, piece.stored] {
            put_varint(&mut bytes, number);
        }
        (guest, position) = (piece.end(), piece.position + piece.stored);
    }
    put_varint(&mut bytes, entry.index.zeros.len() as u64);
    let mut guest = 0;
    for zero in &entry.index.zeros {
        put_varint(&mut bytes, zero.offset - guest);
        put_varint(&mut bytes, zero.length());
        guest = zero.end();
    }
    bytes.extend(entry.digests.as_flattened());
    let seal = blake3::hash(&bytes);
    bytes.extend(seal.as_bytes());
    bytes
}

/// What a table says of `file`, if it is of that.
///
/// # Errors
/// [`Corrupt`](crate::error::Kind::Corrupt) where it is damaged, or of another file.
pub(super) fn decode(bytes: &[u8], source: &Source, file: &StreamFile, frame: &MetaFrame) -> Result<Known> {
    let (bytes, seal) = bytes
        .len()
        .checked_sub(HASH_LEN)
        .map(|end| bytes.split_at(end))
        .ok_or_else(|| Error::corrupt("table is too short"))?;
    if blake3::hash(bytes).as_bytes() != seal {
        return Err(Error::corrupt("table does not match its digest"));
    }
    let other = || Error::corrupt("table is of another file, or of what it was before");
    let rest = bytes.strip_prefix(source.head().as_slice()).ok_or_else(other)?;
    let rest = rest.strip_prefix(identity(file, frame)?.as_slice()).ok_or_else(other)?;
    let (&proof, rest) = rest.split_first().ok_or_else(other)?;
    let mut rest = Rest(rest);
    let stop = rest.number()?;
    let too_large = || Error::corrupt("number in the table is too large");
    let sum = |one: u64, other: u64| one.checked_add(other).ok_or_else(too_large);
    let mut pieces = Pieces::default();
    let mut position = 0;
    for _ in 0..rest.number()? {
        let offset = sum(pieces.end(), rest.number()?)?;
        let length = rest.number()?;
        position = sum(position, rest.number()?)?;
        let stored = rest.number()?;
        pieces.push(Piece { offset, length, position, stored, rank: 0 }, frame.meta.virtual_size)?;
        position = sum(position, stored)?;
    }
    let mut zeros = Vec::new();
    let mut guest = 0;
    for _ in 0..rest.number()? {
        let zero = Extent::zero(sum(guest, rest.number()?)?, rest.number()?);
        guest = sum(zero.offset, zero.length())?;
        extent::push(&mut zeros, zero);
    }
    let digests: Vec<Digest> = rest.0.chunks_exact(DIGEST_LEN).filter_map(|bytes| bytes.try_into().ok()).collect();
    if position.max(stop) > file.size
        || guest > frame.meta.virtual_size
        || digests.len() as u64 != pieces.blocks
        || pieces.data_size != frame.meta.data_size
    {
        return Err(Error::corrupt("table does not fit the file"));
    }
    let proof = if proof == 1 { Proof::Checksum } else { Proof::Unproven };
    Ok(Known { index: Index { pieces: pieces.list, zeros, stop, own: None }, proof, digests: Some(digests) })
}

struct Rest<'b>(&'b [u8]);

impl Rest<'_> {
    fn number(&mut self) -> Result<u64> {
        let (number, len) = varint_of(self.0)?;
        self.0 = &self.0[len..];
        Ok(number)
    }
}
