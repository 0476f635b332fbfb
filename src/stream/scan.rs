//! Builds the table of a stream without an index, virtnbdbackup's, in one pass over the file.

use std::fmt;
use std::io::Read;
use std::ops::Range;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};
use crate::extent::{self, Extent};
use crate::stream::frame::{Header, Kind};
use crate::stream::index::{Index, Piece, Pieces};
use crate::stream::meta::Meta;
use crate::stream::sequential::{Sequential, Watch};
use crate::stream::source::{MetaFrame, StreamFile};
use crate::stream::sum::Sums;
use crate::stream::{COMPRESSED_LIMIT, codec};

/// Gets each compressed payload with the piece it belongs to. It lends its bytes.
pub(super) type Check<'c> = dyn FnMut(&Piece, &mut Vec<u8>) -> Result<()> + 'c;

/// Gets the bytes of plain payloads in parts, each with its offset in the guest.
pub(super) type Content<'c> = dyn FnMut(u64, &[u8]) -> Result<()> + 'c;

/// Who looks at payloads; what nobody looks at is only summed.
#[derive(Default)]
pub(super) struct Look<'c, 'd> {
    pub(super) compressed: Option<&'c mut Check<'d>>,
    pub(super) plain: Option<&'c mut Content<'d>>,
}

/// What a pass found.
pub(super) struct Scanned {
    pub(super) index: Index,
    /// Sums over the file, if all of it was read.
    pub(super) sums: Option<Sums>,
}

/// Walks all frames. With `hop`, payloads are not read, and nothing is summed.
///
/// # Errors
/// [`Kind::Corrupt`](crate::error::Kind::Corrupt) and
/// [`Kind::Incomplete`](crate::error::Kind::Incomplete) at the first frame that is out of order,
/// overlaps or is not one; and for totals and covers that don't add up.
pub(super) fn scan(
    file: &StreamFile,
    frame: &MetaFrame,
    watch: Watch<'_>,
    hop: bool,
    look: Look<'_, '_>,
) -> Result<Scanned> {
    let (sizes, end) = if frame.meta.compression.is_lz4() {
        let range = file.trailing(Kind::Comp, file.size, frame.end)?;
        let sizes = read_sizes(file, range.clone()).map_err(|error| error.path(&file.path).at(range.start))?;
        (Some(sizes), range.start)
    } else {
        (None, file.size)
    };
    // One flipped bit in the key makes a meta of ours look like one of virtnbdbackup's.
    if file.trailing(Kind::Indx, end, frame.end).is_ok() {
        return Err(Error::corrupt("meta does not announce the index that the stream has").path(&file.path).at(0));
    }
    let mut input = if hop { Sequential::hopping(file, watch) } else { Sequential::new(file, watch) };
    input.skip(frame.end)?;
    let mut scan =
        Scan { meta: &frame.meta, input, sizes, next: 0, pieces: Pieces::default(), zeros: Vec::new(), guest: 0, look };
    let stop = scan.frames().map_err(|error| error.path(&file.path))?;
    scan.totals(stop).map_err(|error| error.path(&file.path).at(stop))?;
    let zeros = scan.zeros;
    let index = Index { pieces: scan.pieces.list, zeros, stop, own: None };
    let sums = scan.input.finish()?;
    Ok(Scanned { index, sums: (!hop).then_some(sums) })
}

struct Scan<'s, 'c, 'd> {
    meta: &'s Meta,
    input: Sequential<'s>,
    sizes: Option<Vec<Stored>>,
    /// Entry of `sizes` for the next data frame.
    next: usize,
    pieces: Pieces,
    zeros: Vec<Extent>,
    /// End of the last frame in the guest.
    guest: u64,
    look: Look<'c, 'd>,
}

impl Scan<'_, '_, '_> {
    /// Walks to `stop` and returns its position.
    fn frames(&mut self) -> Result<u64> {
        loop {
            let position = self.input.position();
            let header = self.input.header()?;
            match header.kind {
                Kind::Data => self.data(header).map_err(|error| error.at(position))?,
                Kind::Zero => {
                    self.advance(header).map_err(|error| error.at(position))?;
                    extent::push(&mut self.zeros, Extent::zero(header.start, header.length));
                }
                Kind::Stop if header == Header::new(Kind::Stop, 0, 0) => return Ok(position),
                Kind::Stop | Kind::Meta | Kind::Comp | Kind::Indx => {
                    return Err(Error::corrupt("frame is out of place").at(position));
                }
            }
        }
    }

    /// Checks that the frame follows the last one within the disk; in a full, without a gap.
    fn advance(&mut self, header: Header) -> Result<()> {
        let Header { start, length, .. } = header;
        let end = start.checked_add(length).filter(|&end| end <= self.meta.virtual_size);
        match end {
            Some(end) if start >= self.guest && length > 0 => {
                if !self.meta.incremental && start != self.guest {
                    return Err(Error::incomplete(format!("frames leave out guest range {}..{start}", self.guest)));
                }
                self.guest = end;
                Ok(())
            }
            _ => Err(Error::corrupt(format!(
                "frame of {length} bytes at guest offset {start} is empty, overlaps or is beyond the disk's end"
            ))),
        }
    }

    fn data(&mut self, header: Header) -> Result<()> {
        self.advance(header)?;
        match self.sizes.take() {
            None => {
                self.push(header.start, header.length, header.length)?;
                match &mut self.look.plain {
                    None => self.input.skip(header.length)?,
                    Some(plain) => {
                        let mut offset = header.start;
                        self.input.feed(header.length, &mut |part| {
                            plain(offset, part)?;
                            offset += part.len() as u64;
                            Ok(())
                        })?;
                    }
                }
            }
            Some(sizes) => {
                let result = self.compressed(header, sizes.get(self.next));
                self.sizes = Some(sizes);
                self.next += 1;
                result?;
            }
        }
        if self.input.terminator()? { Ok(()) } else { Err(Error::corrupt("payload is not followed by a line end")) }
    }

    /// One LZ4 frame, or one for each 32 MiB of a frame that long.
    fn compressed(&mut self, header: Header, stored: Option<&Stored>) -> Result<()> {
        match stored {
            Some(&Stored::One(stored)) if header.length < COMPRESSED_LIMIT => {
                self.payload(header.start, header.length, stored)
            }
            Some(Stored::Many(list)) if list.len() as u64 == header.length.div_ceil(COMPRESSED_LIMIT) => {
                let mut offset = header.start;
                let end = header.start + header.length;
                for &stored in list {
                    let length = (end - offset).min(COMPRESSED_LIMIT);
                    self.payload(offset, length, stored)?;
                    offset += length;
                }
                Ok(())
            }
            Some(_) => Err(Error::corrupt(format!("stored size does not fit a frame of {} bytes", header.length))),
            None => Err(Error::corrupt("more data frames than stored sizes")),
        }
    }

    fn payload(&mut self, offset: u64, length: u64, stored: u64) -> Result<()> {
        if stored > codec::max_stored(length) {
            return Err(Error::corrupt(format!("frame of {length} bytes can't be stored in {stored}")));
        }
        let piece = self.push(offset, length, stored)?;
        match &mut self.look.compressed {
            Some(check) => {
                // Bounded above by what the guest bytes can take, at most 33 MiB.
                let mut bytes = vec![0; stored as usize];
                self.input.take(&mut bytes)?;
                check(&piece, &mut bytes)
            }
            None => self.input.skip(stored),
        }
    }

    fn push(&mut self, offset: u64, length: u64, stored: u64) -> Result<Piece> {
        let piece = Piece { offset, length, position: self.input.position(), stored, rank: 0 };
        self.pieces.push(piece, self.meta.virtual_size)?;
        Ok(piece)
    }

    fn totals(&self, stop: u64) -> Result<()> {
        if self.pieces.data_size != self.meta.data_size {
            return Err(Error::corrupt(format!(
                "frames carry {} bytes, the meta says {}",
                self.pieces.data_size, self.meta.data_size
            )));
        }
        if !self.meta.incremental && self.guest != self.meta.virtual_size {
            return Err(Error::incomplete(format!(
                "frames leave out guest range {}..{}",
                self.guest, self.meta.virtual_size
            ))
            .at(stop));
        }
        match &self.sizes {
            Some(sizes) if sizes.len() != self.next => Err(Error::corrupt("more stored sizes than data frames")),
            _ => Ok(()),
        }
    }
}

/// Stored size of one data frame.
enum Stored {
    One(u64),
    /// Of its parts, 32 MiB of guest bytes each.
    Many(Vec<u64>),
}

/// Reads the list of stored sizes; it grows with what was read, not with what the list claims.
fn read_sizes(file: &StreamFile, range: Range<u64>) -> Result<Vec<Stored>> {
    let input = std::io::BufReader::with_capacity(64 << 10, Part { file, range });
    let mut json = serde_json::Deserializer::from_reader(input);
    let sizes = ListSeed(|| StoredSeed).deserialize(&mut json);
    sizes
        .and_then(|sizes| json.end().map(|()| sizes))
        .map_err(|error| Error::corrupt("list of stored sizes is malformed").caused_by(error))
}

/// A range of the file as a reader.
struct Part<'f> {
    file: &'f StreamFile,
    range: Range<u64>,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = buffer.len().min(usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX));
        self.file.read_at(&mut buffer[..len], self.range.start).map_err(std::io::Error::other)?;
        self.range.start += len as u64;
        Ok(len)
    }
}

/// A JSON array whose elements are read by the seed that the function makes.
struct ListSeed<F>(F);

impl<'de, S: DeserializeSeed<'de>, F: Fn() -> S> DeserializeSeed<'de> for ListSeed<F> {
    type Value = Vec<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, S: DeserializeSeed<'de>, F: Fn() -> S> Visitor<'de> for ListSeed<F> {
    type Value = Vec<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of stored sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = access.next_element_seed((self.0)())? {
            list.push(element);
        }
        Ok(list)
    }
}

/// A number, or an object with one key: the decimal sum of the numbers in its array.
struct StoredSeed;

impl<'de> DeserializeSeed<'de> for StoredSeed {
    type Value = Stored;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Stored, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StoredSeed {
    type Value = Stored;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a stored size")
    }

    fn visit_u64<E>(self, stored: u64) -> Result<Stored, E> {
        Ok(Stored::One(stored))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Stored, A::Error> {
        let sum: Option<String> = access.next_key()?;
        let list: Vec<u64> = access.next_value()?;
        let total = list.iter().try_fold(0u64, |total, &stored| total.checked_add(stored));
        if sum.and_then(|sum| sum.parse().ok()) != total || total.is_none() || access.next_key::<String>()?.is_some() {
            return Err(A::Error::custom("stored sizes of a long frame don't add up"));
        }
        Ok(Stored::Many(list))
    }
}
