//! The last word: a line for people, or JSON.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::deep::Content;
use super::verdict::{Damage, Verdict};
use crate::cli::read::Verify;
use crate::commands::whole;
use crate::error::{self, Error, Kind};
use crate::exit::Exit;
use crate::set::catalogue::{Catalogue, Run, Stream};
use crate::set::chain;
use crate::ui::progress::format_duration;
use crate::units::{count, format_bytes};

/// Says what was looked at and what came of it.
///
/// # Errors
/// Where the set holds nothing; where standard output takes nothing.
pub fn tell(
    args: &Verify,
    catalogue: &Catalogue,
    verdict: &Verdict,
    content: Option<&Content>,
    time: Duration,
) -> Result<Exit> {
    if verdict.damages == 0 && verdict.unproven == 0 && catalogue.runs.is_empty() {
        let error = Error::new(Kind::NotFound, "holds no restore point").path(catalogue.files.place());
        return Err(error.hint("-i takes the directory that `virtkeep backup -o` wrote").into());
    }
    let exit = if verdict.damages == 0 { Exit::Done } else { Exit::Damage };
    let whole: Vec<&str> = restorable(catalogue, verdict, content).map(|run| run.id.as_str()).collect();
    if args.json {
        say(&format!("{:#}", to_json(args, catalogue, verdict, content, &whole, time)))?;
        return Ok(exit);
    }
    let line = line(args, catalogue, verdict, content, time);
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
    say(&line)?;
    if exit == Exit::Damage {
        let some = !catalogue.runs.is_empty();
        say(&match whole.as_slice() {
            [] if content.is_none() && some => {
                "Every restore point needs a file that is damaged or missing. What is damaged may be nothing but data that \
                 a later run replaced: `verify --deep` tells for each point."
                    .to_owned()
            }
            [] => "No restore point is whole.".to_owned(),
            _ => format!("Restore points of which all data is whole (restore --until): {}", whole.join(", ")),
        })?;
    }
    Ok(exit)
}

fn say(text: &str) -> error::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(|error| Error::io("write to stdout", error))
}

fn line(args: &Verify, catalogue: &Catalogue, verdict: &Verdict, content: Option<&Content>, time: Duration) -> String {
    let what = match content {
        Some(content) => format!("{content} in {}", format_duration(time)),
        None => {
            // Of their data nothing was read.
            let bytes = if args.quick { String::new() } else { format!(", {}", format_bytes(verdict.bytes)) };
            let (points, files) = (count(catalogue.runs.len(), "restore point"), count(verdict.files, "file"));
            format!("{points}, {files}{bytes} in {}", format_duration(time))
        }
    };
    match (verdict.damages, verdict.unproven) {
        (0, 0) if args.deep => format!("OK: all content is proven: {what}"),
        (0, 0) if args.quick => format!("OK: the structure is whole, data was not read: {what}"),
        (0, 0) => format!("OK: every byte is proven: {what}"),
        (0, 1) => format!("OK as far as can be told: 1 file has no checksum and is unproven: {what}"),
        (0, unproven) => {
            format!("OK as far as can be told: {unproven} files have no checksum and are unproven: {what}")
        }
        (1, _) => format!("DAMAGED: 1 damage found: {what}"),
        (damages, _) => format!("DAMAGED: {damages} damages found: {what}"),
    }
}

/// The restore points that no damage of their data touches; of the content that is looked at in those that were.
fn restorable<'c>(
    catalogue: &'c Catalogue,
    verdict: &'c Verdict,
    content: Option<&'c Content>,
) -> impl Iterator<Item = &'c Run> {
    let is_sound = |stream: &Stream| {
        catalogue.stream_file(stream).is_ok_and(|file| file.exists() && !verdict.bad_streams.contains(file.path()))
    };
    let is_whole = move |run: &&Run| {
        whole::missing_files(catalogue, run).is_empty()
            && match content {
                Some(content) => content.is_whole(&run.id),
                None => run.streams.iter().all(|stream| {
                    chain::resolve(catalogue, run, &stream.target).is_ok_and(|chain| chain.into_iter().all(is_sound))
                }),
            }
    };
    catalogue.runs.iter().filter(is_whole)
}

fn to_json(
    args: &Verify,
    catalogue: &Catalogue,
    verdict: &Verdict,
    content: Option<&Content>,
    whole: &[&str],
    time: Duration,
) -> Value {
    json!({
        "set": catalogue.files.place(),
        "looked_at": if args.deep { "content" } else if args.quick { "structure" } else { "files" },
        "verdict": match (verdict.damages, verdict.unproven) {
            (0, 0) => "ok",
            (0, _) => "unproven",
            _ => "damaged",
        },
        "restore_points": catalogue.runs.iter().map(|run| &run.id).collect::<Vec<_>>(),
        "whole": whole,
        "files": verdict.files,
        "bytes": verdict.bytes,
        "unproven": verdict.unproven,
        "damages": verdict.damages,
        "damage": verdict.kept.iter().map(damage).collect::<Vec<_>>(),
        "content": content.map(Content::to_json),
        "seconds": time.as_secs_f64(),
    })
}

fn damage(damage: &Damage) -> Value {
    json!({
        "message": error::report(&damage.error),
        "disk": damage.error.disk_name(),
        "file": damage.error.file(),
        "offset": damage.error.offset(),
        "guest_range": damage.range.as_ref().map(|range| [range.start, range.end]),
        "restore_points": damage.points,
    })
}
