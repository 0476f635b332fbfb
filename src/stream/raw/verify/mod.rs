//! Checks every byte of a raw image against its index: data against digests, the rest against zero.
//!
//! Several threads read the image, each a part of it at a time.

mod part;
mod parts;

use std::ops::Range;

use self::part::{Checked, Reading};
use self::parts::{PART, Parts};
use super::{RawImage, load};
use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::side_by_side::in_order;
use crate::stream::index::{Index, OwnIndex};
use crate::stream::page_cache::Forgotten;
use crate::stream::reader::Proof;
use crate::stream::sequential::Watch;
use crate::stream::source::StreamFile;
use crate::stream::verify::{Expected, Findings, Report, Scope};
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
    scope: Scope,
    progress: &(dyn Fn(u64) + Sync),
    cancel: &Cancel,
) -> Result<Report> {
    let file = StreamFile::open(image.file.into())?;
    let mut report = Report::new(file.size);
    let opened = Image { file: &file, watch: Watch { progress, cancel } };
    match check(opened, image, expected, scope, &mut report) {
        Err(error) if error.kind() == Kind::Cancelled => return Err(error),
        Err(error) => report.add(error, None),
        Ok(()) => {}
    }
    report.findings.locate(|error| error.disk(image.target).path(image.file.path()));
    Ok(report)
}

fn check(
    opened: Image<'_>,
    image: &RawImage<'_>,
    expected: Option<&Expected>,
    scope: Scope,
    report: &mut Report,
) -> Result<()> {
    let size = opened.file.size;
    if let Some(expected) = expected.filter(|expected| expected.size != size) {
        let message = format!("file has {size} bytes instead of {}", expected.size);
        report.add(Error::incomplete(message), None);
    }
    let Some(index_file) = image.index else {
        return match scope {
            Scope::Structure => Ok(()),
            Scope::Bytes { .. } => foreign(opened, report),
        };
    };
    let index_path = index_file.path();
    let (index_file, index) = load::open(index_file)?;
    let Some(own) = &index.own else { return Ok(()) };
    report.proof = Proof::Digests;
    if expected.is_some_and(|expected| expected.index_digest != Some(own.hash)) {
        report.add(Error::corrupt("index is not the one the manifest names").path(index_path), None);
    }
    if own.header.virtual_size != size {
        let message = format!("file has {size} bytes, the disk {}", own.header.virtual_size);
        report.add(Error::incomplete(message), None);
        return Ok(());
    }
    if let Scope::Bytes { threads } = scope {
        let adler32 = content(opened, &index_file, &index, own, threads, &mut report.findings)?;
        report.adler32 = Some(adler32);
        // A sum over the file says no more than what was found within it.
        if let Some(expected) = expected.filter(|expected| report.is_sound() && expected.adler32 != adler32) {
            let message = format!("Adler-32 of the file is {adler32} instead of {}", expected.adler32);
            report.add(Error::corrupt(message), None);
        }
    }
    Ok(())
}

/// All bytes; their Adler-32.
fn content(
    opened: Image<'_>,
    digests: &StreamFile,
    index: &Index,
    own: &OwnIndex,
    threads: usize,
    findings: &mut Findings,
) -> Result<u32> {
    let (mut adler32, mut forgotten) = (sum::EMPTY, Forgotten::new(opened.file));
    let parts = Parts::new(&index.pieces, opened.file.size);
    let state = || Reading::new(opened, digests, own);
    let merge = |checked: Checked| {
        findings.append(checked.findings);
        adler32 = sum::combine(adler32, checked.adler32?, checked.length);
        forgotten.advance(checked.length);
        Ok(())
    };
    let most = usize::try_from(opened.file.size.div_ceil(PART)).unwrap_or(usize::MAX);
    in_order(parts, threads.min(most), state, |reading, (range, pieces)| reading.check(range, pieces), merge)?;
    Ok(adler32)
}

/// An image of virtnbdbackup: only a zip file has a sum of it. That it can be read is something.
fn foreign(opened: Image<'_>, report: &mut Report) -> Result<()> {
    let all = 0..opened.file.size;
    let mut buffer = Vec::new();
    let Some(known) = opened.file.stored.crc32() else {
        return opened.each_data(all, &mut buffer, &mut |_, _| Ok(()));
    };
    let mut crc = crc32fast::Hasher::new();
    opened.read(all, &mut buffer, &mut |_, bytes| {
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

/// An image that is read.
#[derive(Clone, Copy)]
struct Image<'i> {
    file: &'i StreamFile,
    watch: Watch<'i>,
}

impl Image<'_> {
    /// Reads what is no hole of `range`.
    fn each_data(
        &self,
        range: Range<u64>,
        buffer: &mut Vec<u8>,
        each: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Range { start: mut position, end } = range;
        while position < end {
            let data = self.file.next_data(position)?.unwrap_or(end).min(end);
            (self.watch.progress)(data - position);
            if data == end {
                break;
            }
            let stop = self.file.next_hole(data)?.min(end);
            self.read(data..stop, buffer, each)?;
            position = stop;
        }
        Ok(())
    }

    /// Reads all of `range`.
    fn read(
        &self,
        range: Range<u64>,
        buffer: &mut Vec<u8>,
        each: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        buffer.resize(CHUNK as usize, 0);
        let Range { start: mut position, end } = range;
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
