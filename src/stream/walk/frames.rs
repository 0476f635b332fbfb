//! The headers of a stream's frames, in the order of the file: each is the one that the index says, zero frames fill
//! what the pieces leave, and all together have the digest that the index has.

use super::Walk;
use crate::error::Error;
use crate::stream::frame::{HEADER_LEN, Header, Kind};
use crate::stream::index::Piece;
use crate::stream::verify::Findings;

/// Goes along the headers.
pub(super) struct Frames<'w> {
    walk: Walk<'w>,
    hasher: blake3::Hasher,
    /// Where the next header is in the file.
    position: u64,
    /// The next piece.
    next: usize,
    /// Where the zero frames before it begin in the file.
    room: u64,
    /// Up to where they reach in the guest; none once one is wrong.
    filled: Option<u64>,
}

impl<'w> Frames<'w> {
    pub(super) fn new(walk: &Walk<'w>) -> Self {
        let position = walk.frame.end;
        Self { walk: *walk, hasher: blake3::Hasher::new(), position, next: 0, room: position, filled: Some(0) }
    }

    /// Goes on with `headers`, the next ones in the file.
    pub(super) fn check(&mut self, mut headers: &[u8], findings: &mut Findings) {
        self.hasher.update(headers);
        while let Some((bytes, rest)) = headers.split_first_chunk::<HEADER_LEN>() {
            headers = rest;
            let found = Header::decode(bytes);
            if self.position < self.walk.header(self.next) {
                self.filled = self.filled.and_then(|filled| match found {
                    Ok(Header { kind: Kind::Zero, start, length }) if start == filled && length > 0 => {
                        filled.checked_add(length)
                    }
                    _ => None,
                });
                self.position += HEADER_LEN as u64;
                continue;
            }
            let piece = self.walk.index.pieces.get(self.next);
            self.gap(piece, findings);
            let expected = piece
                .map_or(Header::new(Kind::Stop, 0, 0), |piece| Header::new(Kind::Data, piece.offset, piece.length));
            let error = match found {
                Ok(found) if found == expected => None,
                Ok(_) => Some(Error::corrupt("frame header is not the one in the index")),
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                findings.add(error.at(self.position), piece.map(Piece::range));
            }
            self.next += 1;
            self.position = self.walk.begin(self.next);
            (self.room, self.filled) = (self.position, piece.map(Piece::end));
        }
    }

    /// That the zero frames before `piece`, or before `stop`, reach from the piece before to it.
    fn gap(&self, piece: Option<&Piece>, findings: &mut Findings) {
        let meta = &self.walk.frame.meta;
        let end = piece.map_or(meta.virtual_size, |piece| piece.offset);
        if !meta.incremental && self.filled != Some(end) {
            let before = self.next.checked_sub(1).and_then(|before| self.walk.index.pieces.get(before));
            let gap = before.map_or(0, Piece::end)..end;
            findings.add(Error::corrupt("zero frames don't fill their gap").at(self.room), Some(gap));
        }
    }

    /// The end: all of them together.
    pub(super) fn finish(self, findings: &mut Findings) {
        if *self.hasher.finalize().as_bytes() != self.walk.own.header.headers_hash {
            let error = Error::corrupt("frame headers don't match their digest").at(self.walk.frame.end);
            findings.add(error, None);
        }
    }
}
