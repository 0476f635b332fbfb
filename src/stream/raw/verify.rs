//! Checks every byte of a raw image against its index: data against digests, the rest against zero.

use simd_adler32::Adler32;

use super::{RawImage, load};
use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::stream::digest::{BlockHasher, DIGEST_LEN, Digest};
use crate::stream::index::{Index, OwnIndex};
use crate::stream::load::read_digests;
use crate::stream::reader::Proof;
use crate::stream::source::{StreamFile, Watch};
use crate::stream::verify::{Expected, Report};
use crate::stream::{BLOCK, sum};

/// Bytes read at once.
const CHUNK: u64 = BLOCK;

/// Checks `image`, as [`crate::stream::verify::verify`] does a stream.
///
/// # Errors
/// When the image can't be opened, or on cancellation. All else is a finding.
pub fn verify(
    image: &RawImage<'_>,
    expected: Option<&Expected>,
    quick: bool,
    progress: &dyn Fn(u64),
    cancel: &Cancel,
) -> Result<Report> {
    let file = StreamFile::open(image.file.into())?;
    let mut report = Report::new(file.size);
    let check = Check { file: &file, watch: Watch { progress, cancel }, quick };
    match check.run(image, expected, &mut report) {
        Err(error) if error.kind() == Kind::Cancelled => return Err(error),
        Err(error) => report.add(error, None),
        Ok(()) => {}
    }
    for finding in &mut report.findings {
        let error = std::mem::replace(&mut finding.error, Error::cancelled());
        finding.error = error.disk(image.target).path(image.file.path());
    }
    Ok(report)
}

struct Check<'c> {
    file: &'c StreamFile,
    watch: Watch<'c>,
    quick: bool,
}

impl Check<'_> {
    fn run(&self, image: &RawImage<'_>, expected: Option<&Expected>, report: &mut Report) -> Result<()> {
        if let Some(expected) = expected.filter(|expected| expected.size != self.file.size) {
            let message = format!("file has {} bytes instead of {}", self.file.size, expected.size);
            report.add(Error::incomplete(message), None);
        }
        let Some(index_file) = image.index else { return self.foreign(report) };
        let index_path = index_file.path();
        let (index_file, index) = load::open(index_file)?;
        let Some(own) = &index.own else { return Ok(()) };
        report.proof = Proof::Digests;
        if expected.is_some_and(|expected| expected.index_digest != Some(own.hash)) {
            report.add(Error::corrupt("index is not the one the manifest names").path(index_path), None);
        }
        if own.header.virtual_size != self.file.size {
            let message = format!("file has {} bytes, the disk {}", self.file.size, own.header.virtual_size);
            report.add(Error::incomplete(message), None);
            return Ok(());
        }
        if !self.quick {
            let adler32 = self.content(&index_file, &index, own, report)?;
            report.adler32 = Some(adler32);
            // A sum over the file says no more than what was found within it.
            if let Some(expected) = expected.filter(|expected| report.is_sound() && expected.adler32 != adler32) {
                let message = format!("Adler-32 of the file is {adler32} instead of {}", expected.adler32);
                report.add(Error::corrupt(message), None);
            }
        }
        Ok(())
    }

    /// An image of virtnbdbackup: only a zip file has a sum of it. That it can be read is something.
    fn foreign(&self, report: &mut Report) -> Result<()> {
        if self.quick {
            return Ok(());
        }
        let Some(known) = self.file.stored.crc32() else {
            return self.each_data(0, self.file.size, &mut |_, _| Ok(()));
        };
        let mut crc = crc32fast::Hasher::new();
        self.read(0, self.file.size, &mut |_, bytes| {
            crc.update(bytes);
            Ok(())
        })?;
        let computed = crc.finalize();
        if computed == known {
            report.proof = Proof::Checksum;
        } else {
            let message = format!("CRC-32 is {computed:08x}, the zip file says {known:08x}");
            report.add(Error::corrupt(message), None);
        }
        Ok(())
    }

    /// All bytes; their Adler-32.
    fn content(&self, digests: &StreamFile, index: &Index, own: &OwnIndex, report: &mut Report) -> Result<u32> {
        let mut adler = Adler32::new();
        let mut blocks = Blocks { digests, own, rank: 0, report };
        let mut hasher = BlockHasher::new();
        let mut position = 0;
        for piece in &index.pieces {
            self.gap(position, piece.offset, &mut adler, blocks.report)?;
            self.read(piece.offset, piece.end(), &mut |offset, bytes| {
                adler.write(bytes);
                hasher.update(offset, bytes, &mut |block, digest| blocks.compare(block, digest))
            })?;
            position = piece.end();
        }
        hasher.finish(&mut |block, digest| blocks.compare(block, digest))?;
        self.gap(position, self.file.size, &mut adler, blocks.report)?;
        Ok(adler.finish())
    }

    /// What the index says is zero must read so.
    fn gap(&self, start: u64, end: u64, adler: &mut Adler32, report: &mut Report) -> Result<()> {
        let mut summed = start;
        self.each_data(start, end, &mut |offset, bytes| {
            add_zeroes(adler, offset - summed);
            adler.write(bytes);
            summed = offset + bytes.len() as u64;
            if bytes.iter().any(|byte| *byte != 0) {
                let range = offset..summed;
                report.add(Error::corrupt("has data where it should read as zeroes").at(offset), Some(range));
            }
            Ok(())
        })?;
        add_zeroes(adler, end - summed);
        Ok(())
    }

    /// Reads what is no hole of `start..end`.
    fn each_data(&self, start: u64, end: u64, each: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let mut position = start;
        while position < end {
            let data = self.file.next_data(position)?.unwrap_or(end).min(end);
            (self.watch.progress)(data - position);
            if data == end {
                break;
            }
            let stop = self.file.next_hole(data)?.min(end);
            self.read(data, stop, each)?;
            position = stop;
        }
        Ok(())
    }

    fn read(&self, start: u64, end: u64, each: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; (end - start).min(CHUNK) as usize];
        let mut position = start;
        while position < end {
            self.watch.cancel.check()?;
            let part = (end - position).min(CHUNK) as usize;
            self.file.read_at(&mut buffer[..part], position)?;
            each(position, &buffer[..part])?;
            position += part as u64;
            (self.watch.progress)(part as u64);
        }
        Ok(())
    }
}

/// As if `length` zero bytes were summed.
fn add_zeroes(adler: &mut Adler32, length: u64) {
    *adler = Adler32::from_checksum(sum::combine(adler.finish(), sum::zeroes(length), length));
}

/// Compares blocks with their digests, in the order of the table.
struct Blocks<'b> {
    digests: &'b StreamFile,
    own: &'b OwnIndex,
    rank: u64,
    report: &'b mut Report,
}

impl Blocks<'_> {
    fn compare(&mut self, block: u64, digest: Digest) -> Result<()> {
        let mut known = [[0; DIGEST_LEN]];
        read_digests(self.digests, self.own, self.rank, &mut known)?;
        self.rank += 1;
        if known[0] != digest {
            let guest = block * BLOCK..((block + 1) * BLOCK).min(self.own.header.virtual_size);
            let error = Error::corrupt("block does not match its digest").at(guest.start);
            self.report.add(error, Some(guest));
        }
        Ok(())
    }
}
