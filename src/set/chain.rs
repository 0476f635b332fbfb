//! Which streams make up a disk at a restore point: from the point's stream along its bases to one
//! that holds the whole disk. Links are followed by name and identity, never by time or file order.

use super::Level;
use super::catalogue::{Catalogue, Run, Stream};
use super::layout::{PARTIAL, checkpoint_position, data_name};
use crate::error::{self, Error, Kind, Result};

/// Finds a restore point: the newest one, or what `until` names: a checkpoint, a run's id (or the
/// first characters of it, as long as only one run has them), or a date in local time, which
/// selects the newest run that had started by then (a date without a time: by the end of that day).
///
/// # Errors
/// [`Kind::NotFound`] with a hint on how to list the points; [`Kind::Corrupt`] where damage hides which
/// one is the newest.
pub fn find_point<'c>(catalogue: &'c Catalogue, until: Option<&str>) -> Result<&'c Run> {
    let unknown = |message: String| {
        let directory = catalogue.files.place();
        Error::new(Kind::NotFound, message)
            .path(directory)
            .hint(format!("`virtkeep dump -i {}` lists the restore points", directory.display()))
    };
    let Some(until) = until else {
        refuse_damaged(catalogue)?;
        return catalogue.runs.last().ok_or_else(|| unknown("the set holds no restore point".to_owned()));
    };
    if let Some(run) = catalogue.run_of_checkpoint(until) {
        return Ok(run);
    }
    let by_id: Vec<&Run> = catalogue.runs.iter().filter(|run| run.id == until).collect();
    let by_id = if by_id.is_empty() && until.len() >= 4 {
        catalogue.runs.iter().filter(|run| run.id.starts_with(until)).collect()
    } else {
        by_id
    };
    match (by_id.as_slice(), parse_date(until)) {
        ([run], _) => Ok(run),
        ([], Some(date)) => {
            refuse_damaged(catalogue)?;
            newest_by(catalogue, &date).ok_or_else(|| {
                unknown(format!("no run of the set had started by {}", date.strftime("%Y-%m-%d %H:%M:%S")))
            })
        }
        ([], None) if is_meant_as_date(until) => Err(no_date(catalogue, until)),
        ([], None) => Err(unknown(format!("no restore point is called {until:?}"))),
        (several, _) => Err(unknown(format!("{until:?} fits {} restore points", several.len()))),
    }
}

fn no_date(catalogue: &Catalogue, until: &str) -> Error {
    let directory = catalogue.files.place();
    Error::new(Kind::NotFound, format!("no date is written {until:?}")).path(directory).hint(format!(
        "dates are 2026-11-20, \"2026-11-20 06:15\" or \"2026-11-20 06:15:10\"; `virtkeep dump -i {}` lists the points",
        directory.display()
    ))
}

/// Where a manifest or a stream's head is damaged, a whole run may be missing from the catalogue: the
/// newest point left is not what was asked for, and must not be taken for it.
fn refuse_damaged(catalogue: &Catalogue) -> Result<()> {
    let Some(problem) = catalogue.problems.iter().find(|problem| problem.may_hide_run()) else { return Ok(()) };
    let directory = catalogue.files.place();
    Err(Error::corrupt("a run may be missing from the damaged set: its newest point is unknown")
        .path(directory)
        .caused_by(Error::corrupt(error::report(&problem.error)))
        .hint(match catalogue.runs.is_empty() {
            false => format!(
                "`virtkeep verify -i {}` lists the damage; --until with a checkpoint or a run id restores a point that is whole",
                directory.display()
            ),
            true => "`virtkeep restore -s FULL,INC,…` restores a disk from streams that are named, without the manifests"
                .to_owned(),
        }))
}

fn newest_by<'c>(catalogue: &'c Catalogue, date: &jiff::Zoned) -> Option<&'c Run> {
    catalogue.runs.iter().rev().find(|run| run.started.timestamp() <= date.timestamp())
}

/// Whether somebody who wrote `text` thought of a day, in other ways than [`parse_date`] reads.
fn is_meant_as_date(text: &str) -> bool {
    let is_number = text.starts_with(|c: char| c.is_ascii_digit()) && text.contains(['-', '.', '/', ':']);
    let has_letters = text.contains(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'T' | 'Z'));
    let word = text.to_ascii_lowercase();
    (is_number && !has_letters) || ["yesterday", "today", "now"].contains(&word.as_str()) || word.ends_with(" ago")
}

/// The last moment that `text` describes, in local time unless it carries an offset.
fn parse_date(text: &str) -> Option<jiff::Zoned> {
    let zone = jiff::tz::TimeZone::system();
    if let Ok(zoned) = text.parse::<jiff::Zoned>() {
        return Some(zoned);
    }
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Some(timestamp.to_zoned(zone));
    }
    let text = text.replacen(' ', "T", 1);
    let last = if let Ok(time) = text.parse::<jiff::civil::DateTime>() {
        // What the text leaves open is still within: a date means its day, minutes their seconds.
        match text.len() {
            0..=10 => time.date().at(23, 59, 59, 999_999_999),
            11..=16 => time.with().second(59).subsec_nanosecond(999_999_999).build().ok()?,
            17..=19 => time.with().subsec_nanosecond(999_999_999).build().ok()?,
            _ => time,
        }
    } else {
        return None;
    };
    last.to_zoned(zone).ok()
}

/// The streams of disk `target` at `point`, newest first; the last one holds the whole disk.
///
/// # Errors
/// [`Kind::NotFound`] where the point has no such disk, [`Kind::Incomplete`] for a missing link,
/// [`Kind::Corrupt`] for links that contradict each other.
pub fn resolve<'c>(catalogue: &'c Catalogue, point: &'c Run, target: &str) -> Result<Vec<&'c Stream>> {
    Ok(links(catalogue, point, target)?.into_iter().map(|(_, stream)| stream).collect())
}

/// The run that made the full which disk `target` at `point` is built on.
///
/// # Errors
/// As for [`resolve`].
pub fn root<'c>(catalogue: &'c Catalogue, point: &'c Run, target: &str) -> Result<&'c Run> {
    Ok(links(catalogue, point, target)?.last().map_or(point, |(run, _)| run))
}

/// The streams of [`resolve`], each with its run.
fn links<'c>(catalogue: &'c Catalogue, point: &'c Run, target: &str) -> Result<Vec<(&'c Run, &'c Stream)>> {
    let mut run = point;
    let mut stream = point.stream(target).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("restore point {} does not have it", point.id)).disk(target)
    })?;
    let mut chain = vec![(run, stream)];
    while let Some(base) = &stream.base {
        let parent = catalogue.run_of_checkpoint(base).ok_or_else(|| missing(catalogue, stream, base))?;
        let next = parent.stream(target).ok_or_else(|| missing(catalogue, stream, base))?;
        if run.manifest.is_some() && stream.base_run != parent.run_id() {
            return Err(Error::corrupt(format!(
                "{} builds on another run's {base} than the one in this set",
                stream.file
            ))
            .disk(target)
            .path(catalogue.files.place()));
        }
        // A base lies before what builds on it; without this a loop of names would never end.
        if std::ptr::eq(parent, run) || chain.len() > catalogue.runs.len() {
            return Err(Error::corrupt(format!("{} builds on itself", stream.file)).disk(target));
        }
        chain.push((parent, next));
        (run, stream) = (parent, next);
    }
    Ok(chain)
}

fn missing(catalogue: &Catalogue, stream: &Stream, base: &str) -> Error {
    let wanted = match checkpoint_position(base) {
        Some(0) => data_name(&stream.target, Level::Full, base, 0),
        _ => data_name(&stream.target, Level::Inc, base, 0),
    };
    let state = if catalogue.partial.iter().any(|name| name.strip_suffix(PARTIAL) == Some(&wanted)) {
        "was never finished"
    } else {
        "the set does not have, or not whole"
    };
    let error = Error::incomplete(format!("{} builds on {wanted} (checkpoint {base}), which {state}", stream.file))
        .disk(&stream.target)
        .path(catalogue.files.place())
        .hint("a file of the set is missing or damaged: `virtkeep verify` says which; an earlier point may be whole (--until)");
    match catalogue.problems.first() {
        Some(problem) => error.caused_by(Error::corrupt(format!("{}: {}", problem.file, problem.error))),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::catalogue::tests::run;
    use crate::set::layout::Layout;

    fn catalogue(runs: Vec<Run>) -> Catalogue {
        Catalogue { files: Layout::new("/set").into(), runs, problems: vec![], partial: vec![], is_of_stdout: false }
    }

    fn chain_of_four() -> Catalogue {
        catalogue(vec![
            run("aaaa1", Level::Full, Some("virtnbdbackup.0"), None, "2026-01-01T01:00:00"),
            run("aaaa2", Level::Inc, Some("virtnbdbackup.1"), Some("virtnbdbackup.0"), "2026-01-02T01:00:00"),
            run("bbbb3", Level::Diff, None, Some("virtnbdbackup.1"), "2026-01-03T01:00:00"),
            run("cccc4", Level::Inc, Some("virtnbdbackup.2"), Some("virtnbdbackup.1"), "2026-01-03T02:00:00"),
        ])
    }

    #[test]
    fn points_are_found_by_name_id_and_date() {
        let set = chain_of_four();
        for (until, id) in [
            (None, "cccc4"),
            (Some("virtnbdbackup.1"), "aaaa2"),
            (Some("bbbb3"), "bbbb3"),
            (Some("bbbb"), "bbbb3"),
            (Some("2026-01-02"), "aaaa2"),
            (Some("2026-01-03"), "cccc4"),
            (Some("2026-01-03 01:00"), "bbbb3"),
            (Some("2026-01-03T01:59:59"), "bbbb3"),
        ] {
            assert_eq!(find_point(&set, until).unwrap().id, id, "{until:?}");
        }
        for bad in ["aaaa", "b", "virtnbdbackup.9", "2025-12-31", "yesterday", ""] {
            assert_eq!(find_point(&set, Some(bad)).unwrap_err().kind(), Kind::NotFound, "{bad}");
        }
        for (text, is_date) in [
            ("29.11.2026", true),
            ("2026-13-29", true),
            ("2026/01/02", true),
            ("yesterday", true),
            ("2 days ago", true),
            ("zzzz", false),
            ("virtnbdbackup.9", false),
        ] {
            let error = find_point(&set, Some(text)).unwrap_err();
            assert_eq!(error.hint_text().unwrap().contains("\"2026-11-20 06:15\""), is_date, "{text}: {error}");
        }
    }

    #[test]
    fn chains_follow_their_bases() {
        let set = chain_of_four();
        let files = |id: &str| -> Vec<String> {
            let point = find_point(&set, Some(id)).unwrap();
            resolve(&set, point, "vda").unwrap().iter().map(|stream| stream.file.clone()).collect()
        };
        assert_eq!(files("cccc4"), ["vda.cccc4.data", "vda.aaaa2.data", "vda.aaaa1.data"]);
        assert_eq!(files("bbbb3"), ["vda.bbbb3.data", "vda.aaaa2.data", "vda.aaaa1.data"]);
        let point = find_point(&set, None).unwrap();
        assert_eq!(resolve(&set, point, "vdb").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn gaps_and_loops_are_errors() {
        let mut set = chain_of_four();
        set.runs.remove(1);
        let point = find_point(&set, None).unwrap();
        assert_eq!(resolve(&set, point, "vda").unwrap_err().kind(), Kind::Incomplete);

        let set = catalogue(vec![
            run("a", Level::Inc, Some("virtnbdbackup.0"), Some("virtnbdbackup.1"), "2026-01-01T01:00:00"),
            run("b", Level::Inc, Some("virtnbdbackup.1"), Some("virtnbdbackup.0"), "2026-01-01T01:00:00"),
        ]);
        let point = find_point(&set, None).unwrap();
        assert_eq!(resolve(&set, point, "vda").unwrap_err().kind(), Kind::Corrupt);
    }
}
