//! Loads the index of a raw image and proves it.

use crate::error::{Error, Result};
use crate::extent::{self, Extent};
use crate::stored::StoredFile;
use crate::stream::digest::DIGEST_LEN;
use crate::stream::index::{HASH_LEN, HEADER_LEN, Header, Index, OwnIndex, Piece, Pieces};
use crate::stream::load::Hashed;
use crate::stream::source::StreamFile;
use crate::stream::varint::get_varint;

/// Entries of the table that memory is set aside for before they are read.
const RESERVED: u64 = 1 << 16;

/// The index in `stored`, proven, and that file: the digests stay in it.
///
/// # Errors
/// [`Kind::Corrupt`](crate::error::Kind::Corrupt), [`Kind::Incomplete`](crate::error::Kind::Incomplete) where it
/// is missing.
pub(in crate::stream) fn open(stored: &StoredFile) -> Result<(StreamFile, Index)> {
    let path = stored.path();
    let file = StreamFile::open(stored.into()).map_err(|error| match error.kind() {
        crate::error::Kind::NotFound => {
            Error::incomplete("is missing from the set: nothing proves the raw image without it").path(path)
        }
        _ => error,
    })?;
    let index = decode(&file).map_err(|error| error.path(path))?;
    Ok((file, index))
}

fn decode(file: &StreamFile) -> Result<Index> {
    if file.size < (HEADER_LEN + HASH_LEN) as u64 {
        return Err(Error::corrupt("index is too short"));
    }
    let mut fixed = [0; HEADER_LEN];
    file.read_at(&mut fixed, 0)?;
    let header = Header::decode(&fixed, file.size)?;
    if !header.raw || header.first_frame != 0 || header.zeros != 0 || header.zeros_len != 0 {
        return Err(Error::corrupt("is not the index of a raw image"));
    }
    let mut bytes = Hashed::new(file, 0, file.size - HASH_LEN as u64);
    bytes.skip(HEADER_LEN)?;
    let pieces = decode_ranges(&header, &mut bytes)?;
    let mut hash = [0; HASH_LEN];
    file.read_at(&mut hash, file.size - HASH_LEN as u64)?;
    if bytes.finish()? != hash {
        return Err(Error::corrupt("index does not match its digest"));
    }
    if pieces.blocks != header.digests {
        return Err(Error::corrupt(format!("index has {} digests for {} blocks", header.digests, pieces.blocks)));
    }
    let digests = file.size - HASH_LEN as u64 - header.digests * DIGEST_LEN as u64;
    let zeros = complement(&pieces.list, header.virtual_size);
    let own = Some(OwnIndex { header, position: 0, digests, hash });
    Ok(Index { pieces: pieces.list, zeros, stop: 0, own })
}

fn decode_ranges(header: &Header, bytes: &mut Hashed<'_>) -> Result<Pieces> {
    let mut pieces = Pieces { list: Vec::with_capacity(header.frames.min(RESERVED) as usize), ..Pieces::default() };
    let mut left = header.frames_len;
    let mut number = || {
        get_varint(&mut || {
            left = left.checked_sub(1).ok_or_else(|| Error::corrupt("table in the index ends early"))?;
            bytes.next()
        })
    };
    for _ in 0..header.frames {
        let (gap, length) = (number()?, number()?);
        let offset = pieces.end().checked_add(gap).ok_or_else(|| Error::corrupt("number in the index is too large"))?;
        let piece = Piece { offset, length, position: offset, stored: length, rank: 0 };
        pieces.push(piece, header.virtual_size)?;
    }
    if left > 0 {
        return Err(Error::corrupt("table in the index is too long"));
    }
    Ok(pieces)
}

/// What `pieces` leave of `0..size`, as zero extents.
fn complement(pieces: &[Piece], size: u64) -> Vec<Extent> {
    let mut zeros = Vec::new();
    let mut position = 0;
    for piece in pieces {
        extent::push(&mut zeros, Extent::zero(position, piece.offset - position));
        position = piece.offset + piece.length;
    }
    extent::push(&mut zeros, Extent::zero(position, size - position));
    zeros
}

/// What an image without an index holds: everything but the file's holes.
///
/// # Errors
/// [`Kind::Io`](crate::error::Kind::Io).
pub(in crate::stream) fn pieces_of_holes(file: &StreamFile) -> Result<Index> {
    let mut pieces = Pieces::default();
    let mut position = 0;
    while let Some(data) = file.next_data(position)? {
        let end = file.next_hole(data)?;
        pieces
            .push(Piece { offset: data, length: end - data, position: data, stored: end - data, rank: 0 }, file.size)?;
        position = end;
    }
    let zeros = complement(&pieces.list, file.size);
    Ok(Index { pieces: pieces.list, zeros, stop: 0, own: None })
}
