//! Every byte of every data file.

use std::sync::Mutex;

use anyhow::Result;

use super::small::missing;
use super::verdict::{Damage, Verdict};
use crate::cli::read::Verify;
use crate::commands::Session;
use crate::error::{self, Error, Kind};
use crate::phrases::CLASSIC;
use crate::pipeline::Progress;
use crate::set::catalogue::Catalogue;
use crate::set::layout::CHKSUM;
use crate::side_by_side::{self, processors};
use crate::stored::StoredFile;
use crate::stream::raw::{self, RawImage};
use crate::stream::reader::Proof;
use crate::stream::verify::{Expected, Report, Scope, verify};
use crate::ui::log::on_disk;
use crate::ui::progress::Meter;

/// A sum has ten digits.
const MAX_SUM: u64 = 64;

/// A stream to check.
#[derive(Debug)]
struct Stream {
    target: String,
    file: StoredFile,
    size: u64,
    expected: Option<Expected>,
    raw: bool,
    /// Of a raw image of ours.
    index: Option<StoredFile>,
}

/// Files with fewer bytes are not worth several threads.
const LONG: u64 = 16 << 20;

impl Stream {
    /// Whether all processors work on it at once: an index says what is where.
    fn is_shared(&self) -> bool {
        self.size >= LONG && self.expected.is_some()
    }
}

/// The streams: long ones one after another, each by all processors, so that a disk reads one file at a time; then all
/// the rest, several at a time.
pub fn check(args: &Verify, session: &Session, catalogue: &Catalogue, verdict: &mut Verdict) -> Result<()> {
    let streams = streams(catalogue)?;
    let total = if args.quick { 0 } else { streams.iter().map(|stream| stream.size).fold(0, u64::saturating_add) };
    let meter = session.display.meter("verify", total);
    let shared = Mutex::new(verdict);
    let threads = processors();
    let check = |stream: &Stream, threads| {
        session.cancel.check()?;
        check_stream(args, session, stream, threads, &meter, &shared)
    };
    let (long, rest): (Vec<_>, Vec<_>) = streams.into_iter().partition(|stream| !args.quick && stream.is_shared());
    long.iter().try_for_each(|stream| check(stream, threads))?;
    Ok(Error::first_of(side_by_side::map(&rest, threads, |stream| check(stream, 1))?)?)
}

fn streams(catalogue: &Catalogue) -> Result<Vec<Stream>> {
    let mut streams = Vec::new();
    for run in &catalogue.runs {
        for stream in &run.streams {
            let expected =
                run.manifest.as_ref().and_then(|manifest| manifest.disk(&stream.target)).map(|disk| Expected {
                    size: disk.stored_size,
                    adler32: disk.adler32,
                    index_digest: blake3::Hash::from_hex(&disk.index_digest).ok().map(|hash| *hash.as_bytes()),
                });
            let (target, file) = (stream.target.clone(), catalogue.stream_file(stream)?);
            let index = (stream.raw && expected.is_some()).then(|| catalogue.index_file(stream)).transpose()?;
            streams.push(Stream { target, file, size: stream.stored_size, expected, raw: stream.raw, index });
        }
    }
    Ok(streams)
}

fn check_stream(
    args: &Verify,
    session: &Session,
    stream: &Stream,
    threads: usize,
    meter: &Meter,
    shared: &Mutex<&mut Verdict>,
) -> error::Result<()> {
    let _messages = on_disk(&stream.target);
    let path = stream.file.path();
    let (expected, progress) = (stream.expected.as_ref(), |bytes| meter.advance(bytes));
    let scope = if args.quick { Scope::Structure } else { Scope::Bytes { threads } };
    let result = if stream.raw {
        let image = RawImage { target: &stream.target, file: &stream.file, index: stream.index.as_ref() };
        raw::verify(&image, expected, scope, &progress, &session.cancel)
    } else {
        verify(&stream.file, expected, scope, &progress, &session.cancel)
    };
    let mut verdict = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if stream.file.exists() {
        verdict.files += 1;
        let read = if args.quick { 0 } else { stream.size };
        verdict.bytes = verdict.bytes.saturating_add(read);
    }
    let report = match result {
        Err(error) if error.kind() == Kind::Cancelled => return Err(error),
        Err(error) => {
            verdict.bad_streams.insert(path.to_owned());
            verdict.damage(missing(error).disk(&stream.target).path(path));
            return Ok(());
        }
        Ok(report) => report,
    };
    classic(stream, &report);
    if stream.expected.is_none() && report.proof == Proof::Unproven {
        let what = if stream.raw { "a raw image without a checksum" } else { "no checksum" };
        tracing::warn!("disk {}: {}: {what}, unproven", stream.target, path.display());
        verdict.unproven += 1;
    }
    if !report.findings.is_empty() {
        verdict.bad_streams.insert(path.to_owned());
    }
    let findings = report.findings;
    for finding in findings.listed {
        let error = finding.error.disk(&stream.target).path(path);
        verdict.damaged_data(Damage { error, range: finding.range, points: Vec::new() });
    }
    if findings.omitted > 0 {
        tracing::error!("damage: disk {}: {} more in this file", stream.target, findings.omitted);
        verdict.damages += findings.omitted;
    }
    Ok(())
}

/// What virtnbdrestore says of a file.
fn classic(stream: &Stream, report: &Report) {
    let (at, path) = ("root files - verify", stream.file.path().display());
    tracing::info!(target: CLASSIC, at, "Computing checksum for: {path}");
    if let Some(sum) = report.adler32 {
        tracing::info!(target: CLASSIC, at, "Checksum result: {sum}");
    }
    if stream.expected.is_none() && report.proof == Proof::Unproven {
        return;
    }
    tracing::info!(target: CLASSIC, at, "Comparing checksum with stored information");
    if report.is_sound() {
        tracing::info!(target: CLASSIC, at, "OK");
        return;
    }
    let stored = stream.file.beside(&format!("{}{CHKSUM}", stream.file.name())).read(MAX_SUM).unwrap_or_default();
    let stored = String::from_utf8_lossy(&stored).trim().to_owned();
    match report.adler32.map(|sum| sum.to_string()) {
        Some(sum) if stored != sum => {
            tracing::error!(target: CLASSIC, at, "Stored sums do not match: [{sum}]!=[{stored}]");
        }
        _ => {}
    }
}
