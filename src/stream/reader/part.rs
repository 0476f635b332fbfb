//! Reading a part of one piece: as it is, or by decompressing no more of its frame than needed.

use super::{Scratch, StreamReader};
use crate::error::{Error, Result};
use crate::stream::codec::{self, Blocks, FRAME_START};
use crate::stream::frame::{HEADER_LEN, Header, Kind};
use crate::stream::index::Piece;

impl StreamReader {
    /// Reads the bytes of piece `number` from guest offset `skip` within it.
    pub(super) fn read_part(&self, number: usize, skip: u64, buffer: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        let piece = &self.index.pieces[number];
        let key = Some((self.id, number));
        if self.index.own.is_some() && !self.raw && scratch.checked != key {
            let header = self.file.header_at(piece.position - HEADER_LEN as u64)?;
            if header != Header::new(Kind::Data, piece.offset, piece.length) {
                return Err(Error::corrupt("frame header is not the one in the index"));
            }
            scratch.checked = key;
        }
        if !self.meta.compression.is_lz4() {
            return self.file.read_at(buffer, piece.position + skip);
        }
        if scratch.cached != key {
            let is_whole = buffer.len() as u64 == piece.length;
            if !is_whole && self.index.own.is_some() && self.read_part_of_frame(number, skip, buffer, scratch)? {
                return Ok(());
            }
            // Bounded by the file and by what the guest bytes can take, when the index was made.
            scratch.stored.resize(piece.stored as usize, 0);
            self.file.read_at(&mut scratch.stored, piece.position)?;
            if is_whole {
                return scratch.decompressor.decompress_exact(&mut scratch.stored, buffer);
            }
            scratch.cached = None;
            scratch.content.resize(piece.length as usize, 0);
            scratch.decompressor.decompress_exact(&mut scratch.stored, &mut scratch.content)?;
            scratch.cached = key;
        }
        let skip = skip as usize;
        buffer.copy_from_slice(&scratch.content[skip..skip + buffer.len()]);
        Ok(())
    }

    /// What the start of a piece's frame says of its LZ4 blocks; none where they can't be decompressed each for
    /// itself.
    pub(super) fn blocks_of(&self, piece: &Piece) -> Result<Option<Blocks>> {
        let mut start = [0; FRAME_START];
        if piece.stored <= FRAME_START as u64 {
            return Ok(None);
        }
        self.file.read_at(&mut start, piece.position)?;
        Ok(Blocks::of(&start))
    }

    /// Decompresses only those LZ4 blocks of a frame that hold what is wanted; false where that can't be done:
    /// then the whole frame is looked at, and tells what is wrong with it. The digests are what proves it.
    fn read_part_of_frame(&self, number: usize, skip: u64, buffer: &mut [u8], scratch: &mut Scratch) -> Result<bool> {
        let (piece, key) = (&self.index.pieces[number], (self.id, number));
        let Some(blocks) = self.blocks_of(piece)? else { return Ok(false) };
        let wanted = skip..skip + buffer.len() as u64;
        let end = piece.position + piece.stored;
        // A later part of the frame that was last looked at needs no walk from its start.
        let known = scratch.walked.filter(|(walked, content, _)| *walked == key && *content <= wanted.start);
        let (mut content, mut position) = match known {
            Some((_, content, position)) => (content, position),
            None => (0, piece.position + FRAME_START as u64),
        };
        while content < wanted.end {
            let mut size = [0; 4];
            if end - position < size.len() as u64 {
                return Ok(false);
            }
            self.file.read_at(&mut size, position)?;
            let size = u32::from_le_bytes(size);
            let (len, is_plain) = (u64::from(size & 0x7fff_ffff), size >> 31 == 1);
            let (data, next) = (position + 4, position + 4 + len + blocks.trailer);
            if len == 0 || len > blocks.content || next > end {
                return Ok(false);
            }
            let stop = piece.length.min(content + blocks.content);
            if stop > wanted.start {
                scratch.walked = Some((key, content, position));
                // Both lengths are at most those of a block.
                scratch.stored.resize(len as usize, 0);
                self.file.read_at(&mut scratch.stored, data)?;
                let (from, to) = (content.max(wanted.start), stop.min(wanted.end));
                let place = (from - skip) as usize..(to - skip) as usize;
                let whole = from == content && to == stop;
                if !whole {
                    scratch.cached = None;
                    scratch.content.resize((stop - content) as usize, 0);
                }
                let output = if whole { &mut buffer[place.clone()] } else { &mut scratch.content[..] };
                if !codec::decompress_block(&scratch.stored, is_plain, output) {
                    return Ok(false);
                }
                if !whole {
                    let part = (from - content) as usize..(to - content) as usize;
                    buffer[place].copy_from_slice(&scratch.content[part]);
                }
            }
            (content, position) = (stop, next);
        }
        Ok(true)
    }
}
