//! Payloads of compressed data frames: each is one LZ4 frame of known content length.
//!
//! Its blocks are short, so that a map can decompress little for a small read. Blocks of 64 KiB take about 1 % more
//! than those of 1 MiB. Each has a checksum, which tells other programs of damage; the content has none, which took as
//! long as compressing it, and more in the C library: digests prove it, and of a block that is as it was written the
//! content is, too.

use std::io::{Read, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use crate::error::{Error, Result};

/// How payloads are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// As LZ4 frames.
    Lz4 {
        /// 1–2 fast, 3–16 high compression.
        level: u8,
    },
}

impl Compression {
    /// Whether payloads are LZ4 frames.
    pub fn is_lz4(self) -> bool {
        matches!(self, Self::Lz4 { .. })
    }

    /// Whether compressing takes far more time than all else: levels of LZ4 with high compression.
    pub fn is_high(self) -> bool {
        matches!(self, Self::Lz4 { level: 3.. })
    }
}

/// Compresses payloads one after another, reusing its buffers. One per thread.
pub struct Compressor(Engine);

enum Engine {
    Plain,
    Fast(Box<FrameEncoder<Vec<u8>>>),
    High(u32),
}

impl Compressor {
    /// A compressor for `compression`; levels out of range take the nearest.
    pub fn new(compression: Compression) -> Self {
        Self(match compression {
            Compression::None => Engine::Plain,
            Compression::Lz4 { .. } if !compression.is_high() => {
                let info = FrameInfo::new()
                    .block_mode(BlockMode::Independent)
                    .block_size(BlockSize::Max64KB)
                    .block_checksums(true);
                Engine::Fast(Box::new(FrameEncoder::with_frame_info(info, Vec::new())))
            }
            Compression::Lz4 { level } => Engine::High(u32::from(level.min(16))),
        })
    }

    /// Replaces `stored` with the payload for `input`.
    pub fn compress(&mut self, input: &[u8], stored: &mut Vec<u8>) -> Result<()> {
        stored.clear();
        self.append(input, stored)
    }

    /// Adds the payload for `input` to what is in `stored`.
    pub fn append(&mut self, input: &[u8], stored: &mut Vec<u8>) -> Result<()> {
        match &mut self.0 {
            Engine::Plain => stored.extend_from_slice(input),
            Engine::Fast(encoder) => {
                std::mem::swap(encoder.get_mut(), stored);
                let result =
                    encoder.write_all(input).map_err(failed).and_then(|()| encoder.try_finish().map_err(failed));
                std::mem::swap(encoder.get_mut(), stored);
                result?;
            }
            Engine::High(level) => {
                let encoder = lz4::EncoderBuilder::new()
                    .level(*level)
                    .block_mode(lz4::BlockMode::Independent)
                    .block_size(lz4::BlockSize::Max64KB)
                    .block_checksum(lz4::liblz4::BlockChecksum::BlockChecksumEnabled)
                    .checksum(lz4::ContentChecksum::NoChecksum)
                    .build(&mut *stored);
                let mut encoder = encoder.map_err(failed)?;
                encoder.write_all(input).map_err(failed)?;
                encoder.finish().1.map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(crate::error::Kind::Io, "LZ4 compression").caused_by(error)
}

/// Most bytes that `length` guest bytes can take as an LZ4 frame: incompressible blocks are stored
/// as they are, with a few bytes each. Generous, since others cut blocks differently.
pub fn max_stored(length: u64) -> u64 {
    length.saturating_add(length / 64).saturating_add(4096)
}

/// The start of an LZ4 frame whose blocks can be decompressed each for itself, and where they are is known
/// from their sizes: what [`Compressor`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Content of each block but the last, in bytes.
    pub content: u64,
    /// Bytes behind each block's data.
    pub trailer: u64,
}

/// Bytes at the start of a frame that [`Blocks::of`] looks at; the first block's size follows them.
pub const FRAME_START: usize = 7;

impl Blocks {
    /// What the first bytes of a frame say; none where its blocks depend on each other, or something stands
    /// between its start and them.
    pub fn of(start: &[u8; FRAME_START]) -> Option<Self> {
        let (flags, sizes) = (start[4], start[5]);
        let is_frame = start[..4] == 0x184D_2204u32.to_le_bytes() && flags >> 6 == 1;
        // Independent blocks, no content size, no dictionary.
        if !is_frame || flags & 0b10_1001 != 0b10_0000 {
            return None;
        }
        let content = match sizes >> 4 & 7 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => return None,
        };
        Some(Self { content, trailer: if flags & 0b1_0000 == 0 { 0 } else { 4 } })
    }
}

/// Fills `output` from the data of one block; false if it is not what fills it exactly.
pub fn decompress_block(data: &[u8], is_plain: bool, output: &mut [u8]) -> bool {
    if !is_plain {
        return lz4_flex::block::decompress_into(data, output).is_ok_and(|len| len == output.len());
    }
    let fits = data.len() == output.len();
    if fits {
        output.copy_from_slice(data);
    }
    fits
}

/// Decompresses payloads one after another, reusing its buffers. One per thread.
#[derive(Default)]
pub struct Decompressor {
    /// Descriptor bytes (flags, block size) and the decoder that has buffers for them.
    decoder: Option<([u8; 2], FrameDecoder<Feed>)>,
}

impl Decompressor {
    /// A decompressor without buffers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fills `output` from the LZ4 frame `stored`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt) unless `stored` is exactly one whole frame,
    /// end mark and checksums included, of exactly `output.len()` bytes of content.
    pub fn decompress_exact(&mut self, stored: &mut Vec<u8>, output: &mut [u8]) -> Result<()> {
        // The decoder takes an end of input between blocks for the end of the content.
        let descriptor = check_structure(stored)?;
        let mut decoder = match self.decoder.take() {
            // The decoder's buffers depend on the descriptor; others need a new one.
            Some((known, decoder)) if known == descriptor => decoder,
            _ => FrameDecoder::new(Feed::default()),
        };
        std::mem::swap(&mut decoder.get_mut().bytes, stored);
        decoder.get_mut().position = 0;
        let result = fill(&mut decoder, output);
        let consumed = decoder.get_ref().position;
        std::mem::swap(&mut decoder.get_mut().bytes, stored);
        result?;
        if consumed != stored.len() {
            return Err(Error::corrupt("LZ4 frame ends early"));
        }
        // A decoder that failed is dropped: its state is unknown.
        self.decoder = Some((descriptor, decoder));
        Ok(())
    }
}

/// Reads `output.len()` bytes and proves that the content ends there.
fn fill(decoder: &mut FrameDecoder<Feed>, output: &mut [u8]) -> Result<()> {
    let bad = |error: std::io::Error| Error::corrupt("LZ4 frame is damaged").caused_by(error);
    let mut filled = 0;
    while filled < output.len() {
        match decoder.read(&mut output[filled..]).map_err(bad)? {
            0 => return Err(Error::corrupt(format!("LZ4 frame holds {filled} bytes instead of {}", output.len()))),
            read => filled += read,
        }
    }
    match decoder.read(&mut [0]).map_err(bad)? {
        0 => Ok(()),
        _ => Err(Error::corrupt(format!("LZ4 frame holds more than {} bytes", output.len()))),
    }
}

/// Walks the blocks: proves that `frame` is one LZ4 frame from its magic to its end mark and content
/// checksum, with nothing behind. Returns the two descriptor bytes.
fn check_structure(frame: &[u8]) -> Result<[u8; 2]> {
    let cut = || Error::corrupt("LZ4 frame is cut off");
    let word = |position: usize| -> Result<u32> {
        let bytes = frame.get(position..).and_then(|rest| rest.first_chunk::<4>()).ok_or_else(cut)?;
        Ok(u32::from_le_bytes(*bytes))
    };
    if word(0)? != 0x184D_2204 {
        return Err(Error::corrupt("no LZ4 frame"));
    }
    let (flags, sizes) = (*frame.get(4).ok_or_else(cut)?, *frame.get(5).ok_or_else(cut)?);
    let flag = |bit: u8| usize::from(flags >> bit & 1);
    // Descriptor: flags, block size, content size, dictionary, header checksum.
    let mut position = 4 + 2 + 8 * flag(3) + 4 * flag(0) + 1;
    loop {
        let size = (word(position)? & 0x7fff_ffff) as usize;
        position += 4;
        if size == 0 {
            break;
        }
        position += size + 4 * flag(4);
    }
    position += 4 * flag(2);
    match position.cmp(&frame.len()) {
        std::cmp::Ordering::Less => Err(Error::corrupt("LZ4 frame has bytes behind its end")),
        std::cmp::Ordering::Equal => Ok([flags, sizes]),
        std::cmp::Ordering::Greater => Err(cut()),
    }
}

/// The input of the decoder; the bytes are lent for one frame.
#[derive(Default)]
struct Feed {
    bytes: Vec<u8>,
    position: usize,
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut rest = &self.bytes[self.position..];
        let read = rest.read(buffer)?;
        self.position += read;
        Ok(read)
    }
}
