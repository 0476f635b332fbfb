//! `verify --against-live`: what a comparison with the domain's disks found, in words and as JSON.

use std::io::Write;
use std::ops::Range;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use crate::cli::read::Verify;
use crate::commands::Session;
use crate::commands::backup::compare::{self, Compared, Comparison, Subject, Why};
use crate::commands::restore::source::open_set;
use crate::commands::whole;
use crate::error::{Error, Kind};
use crate::exit::Exit;
use crate::set::catalogue::{Catalogue, Run};
use crate::set::chain;
use crate::ui::progress::format_duration;
use crate::units::{count, format_bytes};

/// Ranges of a disk that are told one by one.
const MAX_TOLD: usize = 20;

/// Refuses options that only a comparison has a use for.
///
/// # Errors
/// [`Kind::Usage`], naming one.
pub fn refuse_useless(args: &Verify) -> crate::error::Result<()> {
    let (hypervisor, network) = (&args.hypervisor, &args.network);
    // The URI may come from the environment, and be meant for other commands.
    let given = [
        (hypervisor.user.is_some(), "--user"),
        (hypervisor.password.is_some(), "--password"),
        (hypervisor.password_file.is_some(), "--password-file"),
        (hypervisor.ssh_user.is_some(), "--ssh-user"),
        (hypervisor.ssh_port.is_some(), "--ssh-port"),
        (hypervisor.ssh_private_key.is_some(), "--ssh-private-key"),
        (network.nbd_over_ssh, "--nbd-over-ssh"),
        (network.nbd_port.is_some(), "-P/--nbd-port"),
        (network.nbd_ip.is_some(), "-I/--nbd-ip"),
        (network.tls, "--tls"),
    ];
    match given.iter().find(|(given, _)| *given) {
        Some((_, option)) if !args.against_live => Err(Error::usage(format!("{option} is for --against-live"))
            .hint("files of a set are read where -i says: leave it away")),
        _ => Ok(()),
    }
}

/// Compares, and says what came of it.
pub fn run(args: &Verify, session: &Session) -> Result<Exit> {
    let begin = Instant::now();
    let catalogue = open_set(&args.input)?;
    let point = chain::find_point(&catalogue, args.until.as_deref())?;
    whole::check(&catalogue, point, &args.disk)?;
    if let Some(unknown) = args.disk.iter().find(|disk| point.stream(disk).is_none()) {
        let known: Vec<&str> = point.streams.iter().map(|stream| stream.target.as_str()).collect();
        return Err(Error::new(Kind::NotFound, format!("the restore point has no disk {unknown:?}"))
            .path(catalogue.files.place())
            .hint(format!("it has {}", known.join(", ")))
            .into());
    }
    let subject = Subject {
        catalogue: &catalogue,
        point,
        disks: &args.disk,
        domain: domain(args, &catalogue, point)?,
        hypervisor: &args.hypervisor,
        network: &args.network,
        scratchdir: args.scratchdir.as_deref(),
    };
    tracing::info!("comparing restore point {} with domain {}", point.id, subject.domain);
    let found = compare::run(&subject, session)?;
    let exit = exit(&found);
    if !args.json {
        found.disks.iter().for_each(tell);
    }
    for disk in &found.missing {
        tracing::warn!("{disk}: the restore point has it, and the domain has no such disk that could be read");
    }
    if args.json {
        say(&format!("{:#}", to_json(&found, point, exit, begin)))?;
    } else if exit != Exit::Done || !args.talk.quiet {
        say(&line(&found, point, begin))?;
    }
    Ok(exit)
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{text}").map_err(|error| Error::io("write to stdout", error))?)
}

/// The one that is named, or the one that the restore point is of.
fn domain(args: &Verify, catalogue: &Catalogue, point: &Run) -> Result<String> {
    match (&args.domain, compare::owner(catalogue, point)) {
        (Some(name), _) => Ok(name.clone()),
        (None, Some((uuid, _))) => Ok(uuid.to_string()),
        (None, None) => Err(Error::usage("which domain the set is of is not recorded in it")
            .path(catalogue.files.place())
            .hint("name the domain with -d")
            .into()),
    }
}

fn sum(found: &Comparison, bytes: impl Fn(&Compared) -> u64) -> u64 {
    found.disks.iter().map(bytes).sum()
}

fn exit(found: &Comparison) -> Exit {
    if sum(found, |disk| disk.unexplained) > 0 {
        Exit::Damage
    } else if sum(found, |disk| disk.unknown) > 0 || !found.missing.is_empty() {
        Exit::Look
    } else {
        Exit::Done
    }
}

/// Says what was found of a disk, beginning with what matters most.
fn tell(disk: &Compared) {
    let target = &disk.target;
    let (then, now) = disk.sizes;
    if then != now {
        tracing::warn!("{target}: it had {then} bytes and now has {now}");
    }
    if let (Err(reason), true) = (&disk.since, disk.unknown > 0) {
        tracing::warn!("{target}: what was written since the backup is not known: {reason}");
    }
    let of = |why: Why| disk.ranges.iter().filter(move |(_, known)| *known == why).map(|(range, _)| range);
    let describe = |range: &Range<u64>| {
        let length = format_bytes(range.end - range.start);
        format!("bytes {} to {} of the disk ({length})", range.start, range.end)
    };
    for range in of(Why::Unexplained).take(MAX_TOLD) {
        tracing::error!("{target}: differs though nothing was written there since: {}", describe(range));
    }
    for range in of(Why::Unknown).take(MAX_TOLD) {
        tracing::warn!("{target}: differs: {}", describe(range));
    }
    for range in of(Why::Changed).take(MAX_TOLD) {
        tracing::debug!("{target}: written since, and differs: {}", describe(range));
    }
    let more = [Why::Unexplained, Why::Unknown].map(|why| of(why).count().saturating_sub(MAX_TOLD));
    let more = more.into_iter().sum::<usize>() as u64 + disk.omitted;
    if more > 0 {
        tracing::warn!("{target}: {more} more ranges; --json lists them");
    }
}

fn line(found: &Comparison, point: &Run, begin: Instant) -> String {
    let what = format!(
        "restore point {} and domain {}, {}, {} read in {}",
        point.id,
        found.domain,
        count(found.disks.len(), "disk"),
        format_bytes(sum(found, |disk| disk.read)),
        format_duration(begin.elapsed())
    );
    let [unexplained, unknown, changed] =
        [sum(found, |disk| disk.unexplained), sum(found, |disk| disk.unknown), sum(found, |disk| disk.changed)];
    if unexplained > 0 {
        let bytes = format_bytes(unexplained);
        format!("DIFFERENT: {bytes} differ though nothing was written there since the backup: {what}")
    } else if unknown > 0 {
        let bytes = format_bytes(unknown);
        format!("DIFFERENT: {bytes} differ, and it is not known what was written since the backup: {what}")
    } else if !found.missing.is_empty() {
        format!("NOT ALL COMPARED: {} of the restore point not: {what}", found.missing.join(", "))
    } else if changed > 0 {
        format!("OK: all that differs ({}) was written since the backup: {what}", format_bytes(changed))
    } else {
        format!("OK: identical: {what}")
    }
}

fn to_json(found: &Comparison, point: &Run, exit: Exit, begin: Instant) -> Value {
    json!({
        "domain": found.domain,
        "restore_point": point.id,
        "verdict": match exit {
            Exit::Damage => "different",
            Exit::Look => "unknown",
            _ if sum(found, |disk| disk.changed) > 0 => "changed",
            _ => "identical",
        },
        "missing": found.missing,
        "disks": found.disks.iter().map(disk).collect::<Vec<_>>(),
        "seconds": begin.elapsed().as_secs_f64(),
    })
}

fn disk(disk: &Compared) -> Value {
    let ranges: Vec<Value> = disk
        .ranges
        .iter()
        .map(|(range, why)| {
            let why = match why {
                Why::Changed => "changed",
                Why::Unexplained => "unexplained",
                Why::Unknown => "unknown",
            };
            json!({ "start": range.start, "end": range.end, "why": why })
        })
        .collect();
    json!({
        "target": disk.target,
        "size": disk.sizes.0,
        "size_now": disk.sizes.1,
        "changes_known_since": disk.since.as_ref().ok(),
        "changes_unknown_because": disk.since.as_ref().err(),
        "read_bytes": disk.read,
        "changed_bytes": disk.changed,
        "unexplained_bytes": disk.unexplained,
        "unknown_bytes": disk.unknown,
        "ranges": ranges,
        "omitted": disk.omitted,
    })
}
