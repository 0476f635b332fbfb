//! Checks every byte of a stream against everything known of it, in one pass.
//!
//! A stream of ours is walked along its index, so that one damaged frame does not hide the next. A
//! stream of virtnbdbackup has no other map than its frames: the walk ends at the first that is not
//! one, while damaged LZ4 payloads are counted on the way.

use std::ops::Range;

use crate::cancel::Cancel;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::stored::StoredFile;
use crate::stream::codec::Decompressor;
use crate::stream::index::{HASH_LEN, Piece};
use crate::stream::load;
use crate::stream::meta::Meta;
use crate::stream::reader::{Proof, foreign_proof, locate};
use crate::stream::scan::Look;
use crate::stream::sequential::Watch;
use crate::stream::source::{MetaFrame, StreamFile, read_meta};
use crate::stream::sum::Sums;
use crate::stream::walk::{PART, Walk};
use crate::stream::{COMPRESSED_LIMIT, scan};

/// Findings listed; the rest is counted.
const MAX_FINDINGS: usize = 20;

/// What is known of a file from elsewhere: the manifest of its run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Bytes of the file.
    pub size: u64,
    /// Adler-32 over them.
    pub adler32: u32,
    /// The digest that ends the index; `None` for a stream without one.
    pub index_digest: Option<[u8; HASH_LEN]>,
}

/// One damage.
#[derive(Debug)]
pub struct Finding {
    /// What is wrong, with the file and the place in it.
    pub error: Error,
    /// The guest range that can't be trusted, if it is known; else suspect all of it.
    pub range: Option<Range<u64>>,
}

/// The first damages, and how many more there are.
#[derive(Debug, Default)]
pub struct Findings {
    /// The first ones.
    pub listed: Vec<Finding>,
    /// Further ones that are not listed.
    pub omitted: u64,
}

impl Findings {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    pub(super) fn add(&mut self, error: Error, range: Option<Range<u64>>) {
        if self.listed.len() < MAX_FINDINGS {
            self.listed.push(Finding { error, range });
        } else {
            self.omitted += 1;
        }
    }

    /// Adds what was found behind.
    pub(super) fn append(&mut self, behind: Self) {
        behind.listed.into_iter().for_each(|finding| self.add(finding.error, finding.range));
        self.omitted += behind.omitted;
    }

    /// Says where all of them are.
    pub(super) fn locate(&mut self, locate: impl Fn(Error) -> Error) {
        for finding in &mut self.listed {
            let error = std::mem::replace(&mut finding.error, Error::cancelled());
            finding.error = locate(error);
        }
    }
}

/// How much of a file is looked at.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// Its structure: the index, or, where there is none, the frame headers.
    Structure,
    /// Every byte. A file with an index is read by `threads` threads.
    Bytes {
        /// At least one, which is the caller's.
        threads: usize,
    },
}

/// What a check found.
#[derive(Debug)]
pub struct Report {
    /// What the stream says about itself, if that could be read.
    pub meta: Option<Meta>,
    /// How far the bytes could be proven.
    pub proof: Proof,
    /// Bytes of the file.
    pub stored_size: u64,
    /// Adler-32 over the file, if all of it was read.
    pub adler32: Option<u32>,
    /// The damages.
    pub findings: Findings,
}

impl Report {
    /// Of a file of `size` bytes, nothing found yet.
    pub(super) fn new(size: u64) -> Self {
        let (meta, proof, findings) = (None, Proof::Unproven, Findings::default());
        Self { meta, proof, stored_size: size, adler32: None, findings }
    }

    /// Whether nothing is wrong with the stream.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    pub(super) fn add(&mut self, error: Error, range: Option<Range<u64>>) {
        self.findings.add(error, range);
    }
}

/// Checks the stream in `file`. `progress` gets the bytes read since the last call.
///
/// # Errors
/// When the file can't be opened, or on cancellation. All else is a finding.
pub fn verify(
    file: impl Into<StoredFile>,
    expected: Option<&Expected>,
    scope: Scope,
    progress: &(dyn Fn(u64) + Sync),
    cancel: &Cancel,
) -> Result<Report> {
    let file = StreamFile::open(file.into())?;
    let mut report = Report::new(file.size);
    let watch = Watch { progress, cancel };
    if let Err(error) = check(&file, expected, scope, watch, &mut report) {
        if error.kind() == ErrorKind::Cancelled {
            return Err(error);
        }
        report.add(error, None);
    }
    if let Some(meta) = &report.meta {
        report.findings.locate(|error| error.disk(&meta.disk_name).path(&file.path));
    }
    Ok(report)
}

fn check(
    file: &StreamFile,
    expected: Option<&Expected>,
    scope: Scope,
    watch: Watch<'_>,
    report: &mut Report,
) -> Result<()> {
    if let Some(expected) = expected.filter(|expected| expected.size != file.size) {
        let message = format!("file has {} bytes instead of {}", file.size, expected.size);
        report.add(Error::new(ErrorKind::Incomplete, message).path(&file.path), None);
    }
    let frame = read_meta(file)?;
    report.meta = Some(frame.meta.clone());
    let mut sums = None;
    if frame.meta.has_index() {
        let (index, tail) = load::load(file, &frame)?;
        let Some(own) = &index.own else { return Ok(()) };
        report.proof = Proof::Digests;
        if expected.is_some_and(|expected| expected.index_digest != Some(own.hash)) {
            report.add(Error::corrupt("stream is not the one the manifest names").path(&file.path), None);
        }
        if let Scope::Bytes { threads } = scope {
            let walk = Walk { file, frame: &frame, index: &index, own, tail: &tail, part: PART };
            sums = Some(walk.run(threads, watch, &mut report.findings)?);
        }
    } else {
        sums = check_foreign(file, &frame, expected, scope, watch, report)?;
    }
    report.adler32 = sums.map(|sums| sums.adler32);
    // A sum over the file says no more than what was found within it.
    match sums {
        Some(sums) if report.is_sound() => check_sums(file, expected, sums, report),
        _ => Ok(()),
    }
}

fn check_sums(file: &StreamFile, expected: Option<&Expected>, sums: Sums, report: &mut Report) -> Result<()> {
    let adler32 = sums.adler32;
    if let Some(expected) = expected.filter(|expected| expected.adler32 != adler32) {
        let message = format!("Adler-32 of the file is {adler32} instead of {}", expected.adler32);
        report.add(Error::corrupt(message).path(&file.path), None);
    }
    let proof = foreign_proof(file, Some(sums))?;
    if report.proof == Proof::Unproven {
        report.proof = if expected.is_some() { Proof::Checksum } else { proof };
    }
    Ok(())
}

/// A stream without an index.
fn check_foreign(
    file: &StreamFile,
    frame: &MetaFrame,
    expected: Option<&Expected>,
    scope: Scope,
    watch: Watch<'_>,
    report: &mut Report,
) -> Result<Option<Sums>> {
    if expected.is_some_and(|expected| expected.index_digest.is_some()) {
        report.add(Error::corrupt("stream is not the one the manifest names").path(&file.path), None);
    }
    let mut decompressor = Decompressor::new();
    let mut content = Vec::new();
    let mut check = |piece: &Piece, stored: &mut Vec<u8>| {
        // At most 32 MiB: the scan refuses longer ones.
        content.resize(piece.length.min(COMPRESSED_LIMIT) as usize, 0);
        if let Err(error) = decompressor.decompress_exact(stored, &mut content) {
            report.add(locate(error, piece, piece.range(), true), Some(piece.range()));
        }
        Ok(())
    };
    let hop = matches!(scope, Scope::Structure);
    let look = Look { compressed: if hop { None } else { Some(&mut check) }, plain: None };
    let scanned = scan::scan(file, frame, watch, hop, look)?;
    Ok(scanned.sums)
}
