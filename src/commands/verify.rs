//! `virtkeep verify`: every file of a set against what is known of it, and every chain.

use std::collections::BTreeSet;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;

use super::{Session, foreign_raw, whole};
use crate::cli::read::Verify;
use crate::error::{self, Error, Kind};
use crate::exit::Exit;
use crate::phrases::CLASSIC;
use crate::pipeline::Progress;
use crate::set::catalogue::{Catalogue, Run, Stream as CatalogueStream};
use crate::set::chain;
use crate::set::cpt;
use crate::set::files::Files;
use crate::set::intent::Intent;
use crate::set::layout::{CHKSUM, checkpoint_name, checkpoint_position};
use crate::set::manifest::{FileRecord, Manifest};
use crate::stored::StoredFile;
use crate::stream::raw::{self, RawImage};
use crate::stream::reader::Proof;
use crate::stream::verify::{Expected, Report, verify};
use crate::ui::progress::{Meter, format_duration};
use crate::units::format_bytes;

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

/// What was looked at, and what was found.
#[derive(Debug, Default)]
struct Verdict {
    files: usize,
    bytes: u64,
    unproven: usize,
    damages: u64,
    /// Damaged streams, by their paths.
    bad_streams: BTreeSet<PathBuf>,
    /// A file that this user may not read: no verdict is possible.
    forbidden: Option<Error>,
}

impl Verdict {
    /// Tells a damage and counts it.
    fn damage(&mut self, error: Error) {
        if error.is_permission_denied() {
            self.forbidden.get_or_insert(error);
            return;
        }
        tracing::error!("damage: {}", error::report(&error));
        self.damages += 1;
    }
}

/// Verifies.
pub fn run(args: &Verify, session: &Session) -> Result<Exit> {
    let begin = Instant::now();
    let mut catalogue = foreign_raw::open_set(Files::open(&args.input)?)?.with_data()?;
    let mut verdict = Verdict::default();
    for problem in std::mem::take(&mut catalogue.problems) {
        if problem.is_damage() {
            verdict.damage(problem.error);
        } else {
            tracing::warn!("{}", error::report(&problem.error));
            verdict.unproven += 1;
        }
    }
    for name in &catalogue.partial {
        tracing::warn!("{name}: left by a run that did not finish; no restore point needs it");
    }
    check_small_files(&catalogue, &mut verdict)?;
    check_streams(args, session, &catalogue, &mut verdict)?;
    check_whole(&catalogue, &mut verdict)?;
    check_chains(&catalogue, &mut verdict);
    if let Some(error) = verdict.forbidden {
        return Err(error.hint("run this as the user that makes the backups: nothing is said about the set").into());
    }
    conclude(args, &catalogue, &verdict, begin)
}

fn conclude(args: &Verify, catalogue: &Catalogue, verdict: &Verdict, begin: Instant) -> Result<Exit> {
    let what = format!(
        "{} restore points, {} files, {} in {}",
        catalogue.runs.len(),
        verdict.files,
        format_bytes(verdict.bytes),
        format_duration(begin.elapsed())
    );
    let (line, exit) = match (verdict.damages, verdict.unproven, args.quick) {
        (0, 0, _) if catalogue.runs.is_empty() => {
            let error = Error::new(Kind::NotFound, "holds no restore point").path(catalogue.files.place());
            return Err(error.hint("-i takes the directory that `virtkeep backup -o` wrote").into());
        }
        (0, 0, false) => (format!("OK: every byte is proven: {what}"), Exit::Done),
        (0, 0, true) => (format!("OK: the structure is whole, data was not read: {what}"), Exit::Done),
        (0, unproven, _) => (
            format!("OK as far as can be told: {unproven} files have no checksum and are unproven: {what}"),
            Exit::Done,
        ),
        (1, _, _) => (format!("DAMAGED: 1 damage found: {what}"), Exit::Damage),
        (damages, _, _) => (format!("DAMAGED: {damages} damages found: {what}"), Exit::Damage),
    };
    if args.classic {
        let unproven = exit == Exit::Done && verdict.unproven > 0;
        match exit {
            Exit::Done => tracing::info!("{line}"),
            _ => tracing::error!("{line}"),
        }
        return Ok(if unproven { Exit::Look } else { exit });
    }
    if exit == Exit::Done && args.talk.quiet {
        return Ok(exit);
    }
    let mut out = std::io::stdout().lock();
    let mut say = |line: String| writeln!(out, "{line}").map_err(|error| Error::io("write to stdout", error));
    say(line)?;
    if exit == Exit::Damage {
        let whole: Vec<&str> = restorable(catalogue, verdict).map(|run| run.id.as_str()).collect();
        say(match whole.as_slice() {
            [] => "No restore point is whole.".to_owned(),
            _ => format!("Restore points of which all data is whole (restore --until): {}", whole.join(", ")),
        })?;
    }
    Ok(exit)
}

/// The restore points that no damage of a stream touches.
fn restorable<'c>(catalogue: &'c Catalogue, verdict: &'c Verdict) -> impl Iterator<Item = &'c Run> {
    let is_sound = |stream: &CatalogueStream| {
        catalogue.stream_file(stream).is_ok_and(|file| file.exists() && !verdict.bad_streams.contains(file.path()))
    };
    let is_whole = move |run: &&Run| {
        whole::missing_files(catalogue, run).is_empty()
            && run.streams.iter().all(|stream| {
                chain::resolve(catalogue, run, &stream.target).is_ok_and(|chain| chain.into_iter().all(is_sound))
            })
    };
    catalogue.runs.iter().filter(is_whole)
}

/// Configuration, sums, logs, and the list of checkpoints.
fn check_small_files(catalogue: &Catalogue, verdict: &mut Verdict) -> Result<()> {
    for manifest in catalogue.runs.iter().filter_map(|run| run.manifest.as_ref()) {
        for record in &manifest.files {
            verdict.files += 1;
            verdict.bytes = verdict.bytes.saturating_add(record.size);
            if let Err(error) = check_file(catalogue, record) {
                verdict.damage(error);
            }
        }
    }
    if let Some(Err(error)) = newest_owner(catalogue).map(|manifest| check_cpt(catalogue, manifest)) {
        verdict.damage(error);
    }
    Ok(())
}

fn check_file(catalogue: &Catalogue, record: &FileRecord) -> error::Result<()> {
    let file = catalogue.files.file(&record.name)?;
    let wrong_size = || Error::corrupt(format!("is no file of {} bytes", record.size)).path(file.path());
    let bad = |error: Error| match error.kind() {
        // A name can lead to a pipe or device that never ends.
        Kind::Usage => wrong_size(),
        _ => missing(error).path(file.path()),
    };
    if file.size().map_err(bad)? != record.size {
        return Err(wrong_size());
    }
    let mut hasher = blake3::Hasher::new();
    file.feed(record.size, &mut |part| _ = hasher.update(part)).map_err(bad)?;
    if hasher.finalize().to_hex().as_str() == record.blake3 {
        Ok(())
    } else {
        Err(Error::corrupt("is not what was backed up").path(file.path()))
    }
}

fn missing(error: Error) -> Error {
    match error.kind() {
        Kind::NotFound => Error::incomplete("is missing from the set"),
        _ => error,
    }
}

/// The manifest of the newest run with a checkpoint, where virtkeep made it: it wrote the list.
fn newest_owner(catalogue: &Catalogue) -> Option<&Manifest> {
    catalogue.newest_base()?.manifest.as_ref()
}

fn check_cpt(catalogue: &Catalogue, manifest: &Manifest) -> error::Result<()> {
    let Some(position) = manifest.checkpoint.as_deref().and_then(checkpoint_position) else { return Ok(()) };
    // Between the commit and the end of its run the list is a step behind.
    let unfinished = catalogue.files.layout().map_or_else(|| Ok(Vec::new()), Intent::left_behind)?;
    if unfinished.iter().any(|intent| intent.run == manifest.run) {
        return Ok(());
    }
    let file = cpt::file(&catalogue.files, &manifest.domain)?;
    let names = cpt::decode(&file.read(cpt::MAX_SIZE).map_err(|error| missing(error).path(file.path()))?);
    // virtnbdbackup also lists runs that it began on this chain and did not finish.
    let expected = (0..=position).map(checkpoint_name);
    if names.is_some_and(|names| names.iter().take(position as usize + 1).cloned().eq(expected)) {
        Ok(())
    } else {
        Err(Error::corrupt("is not the list of the chain's checkpoints").path(file.path()))
    }
}

/// The streams, several at a time.
fn check_streams(args: &Verify, session: &Session, catalogue: &Catalogue, verdict: &mut Verdict) -> Result<()> {
    let streams = streams(catalogue)?;
    let total = if args.quick { 0 } else { streams.iter().map(|stream| stream.size).fold(0, u64::saturating_add) };
    let meter = session.display.meter("verify", total);
    let next = AtomicUsize::new(0);
    let shared = Mutex::new(verdict);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(streams.len().max(1));
    std::thread::scope(|scope| {
        let work = || -> error::Result<()> {
            while let Some(stream) = streams.get(next.fetch_add(1, Ordering::Relaxed)) {
                check_stream(args, session, stream, &meter, &shared)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        Error::first_of(threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(Error::panicked()))))
    })?;
    Ok(())
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
    meter: &Meter,
    shared: &Mutex<&mut Verdict>,
) -> error::Result<()> {
    let path = stream.file.path();
    let (expected, progress) = (stream.expected.as_ref(), |bytes| meter.advance(bytes));
    let result = if stream.raw {
        let image = RawImage { target: &stream.target, file: &stream.file, index: stream.index.as_ref() };
        raw::verify(&image, expected, args.quick, &progress, &session.cancel)
    } else {
        verify(&stream.file, expected, args.quick, &progress, &session.cancel)
    };
    let mut verdict = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    verdict.files += 1;
    verdict.bytes = verdict.bytes.saturating_add(stream.size);
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
    for finding in report.findings {
        let range = finding.range.map_or_else(|| "unknown, suspect the whole disk".to_owned(), describe_range);
        tracing::error!(
            "damage: {}; guest range: {range}",
            error::report(&finding.error.disk(&stream.target).path(path))
        );
        verdict.damages += 1;
    }
    if report.omitted > 0 {
        tracing::error!("damage: disk {}: {} more in this file", stream.target, report.omitted);
        verdict.damages += report.omitted;
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

fn describe_range(range: Range<u64>) -> String {
    format!("bytes {} to {} of the disk", range.start, range.end)
}

/// That virtnbdbackup's runs have all their disks.
fn check_whole(catalogue: &Catalogue, verdict: &mut Verdict) -> Result<()> {
    for run in &catalogue.runs {
        for (disk, file) in whole::missing_files(catalogue, run) {
            verdict.damage(whole::incomplete(catalogue, run, &disk, &file));
        }
    }
    for checkpoint in whole::vanished(catalogue)? {
        tracing::warn!("{checkpoint}: the set has its configuration, but no data: is a file missing?");
    }
    Ok(())
}

/// That every point can be restored: links, identities, no gaps. What the links lead to was checked
/// file by file.
fn check_chains(catalogue: &Catalogue, verdict: &mut Verdict) {
    for run in &catalogue.runs {
        for stream in &run.streams {
            if let Err(error) = chain::resolve(catalogue, run, &stream.target) {
                let error =
                    Error::new(error.kind(), format!("restore point {} can't be restored", run.id)).caused_by(error);
                verdict.damage(error.disk(&stream.target));
            }
        }
    }
}
