//! What came of every domain, in a table, and the status that follows from it.

use std::io::Write;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::child::Ended;
use crate::cli::backup::Backup;
use crate::commands::backup::estimate::TOTAL;
use crate::commands::watched::Record;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::set::moment;
use crate::ui::progress::format_duration;
use crate::units::{exact, format_bytes};

/// Characters of an error in the table: the whole of it stands above.
const MAX_ERROR: usize = 60;

/// One domain.
#[derive(Debug)]
pub struct Row {
    domain: String,
    /// None where the work was interrupted before it began.
    ended: Option<Ended>,
    time: Duration,
}

impl Row {
    /// One whose run ended.
    pub fn new(domain: &str, ended: Ended, time: Duration) -> Self {
        Self { domain: domain.to_owned(), ended: Some(ended), time }
    }

    /// One whose turn did not come.
    pub fn not_begun(domain: &str) -> Self {
        Self { domain: domain.to_owned(), ended: None, time: Duration::ZERO }
    }

    /// What came of it, for those who watch.
    pub fn record(&self) -> Record {
        let (record, error) =
            self.ended.as_ref().map_or((None, None), |ended| (ended.record.clone(), ended.error.clone()));
        let start = moment::now().saturating_sub(jiff::SignedDuration::try_from(self.time).unwrap_or_default());
        let exit = self.ended.as_ref().map_or(Exit::Failed, |ended| ended.exit);
        record.unwrap_or_else(|| Record::died(&self.domain, exit, &start, error.unwrap_or_else(|| self.result())))
    }

    /// The end of a domain that ended by itself with `exit`; what a signal ended is a failure here.
    fn exit(&self) -> Exit {
        match self.ended.as_ref().map(|ended| ended.exit) {
            Some(Exit::Signal(_)) | None => Exit::Failed,
            Some(exit) => exit,
        }
    }

    fn is_bad(&self) -> bool {
        !matches!(self.exit(), Exit::Done | Exit::Look)
    }

    fn result(&self) -> String {
        let Some(ended) = &self.ended else { return "not begun".to_owned() };
        match (self.exit(), ended.error.as_deref()) {
            (Exit::Done, _) if ended.report.is_none() && ended.estimate.is_none() => "nothing to do".to_owned(),
            (Exit::Done, _) => "done".to_owned(),
            (Exit::Look, _) => "done, but look".to_owned(),
            (_, Some(error)) => format!("FAILED: {}", shortened(error)),
            (_, None) => "FAILED".to_owned(),
        }
    }
}

/// How many domains, in words.
pub fn count(domains: usize) -> String {
    if domains == 1 { "1 domain".to_owned() } else { format!("{domains} domains") }
}

fn shortened(error: &str) -> String {
    match error.char_indices().nth(MAX_ERROR) {
        Some((at, _)) => format!("{}...", error.get(..at).unwrap_or_default().trim_end()),
        None => error.to_owned(),
    }
}

/// The estimate in a line of what a domain's run printed.
pub fn estimate_in(line: &str) -> Option<u64> {
    line.strip_prefix(TOTAL)?.split(' ').next()?.parse().ok()
}

/// Says it: the table among the messages, an estimate's sum among the data.
///
/// # Errors
/// [`Kind::Io`](crate::error::Kind::Io) where standard output can't be written to.
pub fn tell(args: &Backup, rows: &[Row], time: Duration) -> Result<()> {
    if args.printonly {
        let bytes: u64 = rows.iter().filter_map(|row| row.ended.as_ref()?.estimate).sum();
        let line = format!("{TOTAL}{}, {}", exact(bytes), count(rows.len()));
        writeln!(std::io::stdout().lock(), "{line}").map_err(|error| Error::io("write to stdout", error))?;
    } else {
        for line in table(rows).lines() {
            tracing::info!("{}", line.trim_end());
        }
    }
    let bad: Vec<&str> = rows.iter().filter(|row| row.is_bad()).map(|row| row.domain.as_str()).collect();
    if bad.is_empty() {
        tracing::info!("Finished successfully: {} in {}", count(rows.len()), format_duration(time));
    } else {
        tracing::error!("{} of {} failed: {}", bad.len(), count(rows.len()), bad.join(", "));
    }
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["DOMAIN", "LEVEL", "GUEST BYTES", "STORED", "TIME", "RESULT"]);
    for row in rows {
        let report = row.ended.as_ref().and_then(|ended| ended.report.as_ref());
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), format_bytes);
        table.add_row([
            row.domain.clone(),
            report.map_or_else(|| "-".to_owned(), |report| report.level.to_string()),
            size(report.map(|report| report.data_size)),
            size(report.map(|report| report.stored_size)),
            format_duration(row.time),
            row.result(),
        ]);
    }
    for column in 2..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// The worst of all: damage, failure, wrong usage, done but look, done.
pub fn verdict(rows: &[Row]) -> Exit {
    let order = [Exit::Damage, Exit::Failed, Exit::Usage, Exit::Look];
    order.into_iter().find(|exit| rows.iter().any(|row| row.exit() == *exit)).unwrap_or(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::many::one::Report;
    use crate::set::Level;

    fn row(domain: &str, exit: Exit) -> Row {
        let report = Report { level: Level::Inc, data_size: 1 << 20, stored_size: 512 };
        let report = matches!(exit, Exit::Done | Exit::Look).then_some(report);
        let error = (!matches!(exit, Exit::Done)).then(|| format!("{} {}", "no room ".repeat(12), domain));
        Row::new(domain, Ended { exit, report, record: None, estimate: None, error }, Duration::from_secs(61))
    }

    #[test]
    fn the_worst_status_counts() {
        for (exits, worst) in [
            (&[Exit::Done, Exit::Done][..], Exit::Done),
            (&[Exit::Done, Exit::Look], Exit::Look),
            (&[Exit::Usage, Exit::Look], Exit::Usage),
            (&[Exit::Failed, Exit::Usage], Exit::Failed),
            (&[Exit::Failed, Exit::Damage, Exit::Done], Exit::Damage),
            (&[Exit::Signal(9), Exit::Done], Exit::Failed),
        ] {
            let rows: Vec<Row> = exits.iter().map(|exit| row("d", *exit)).collect();
            assert_eq!(verdict(&rows), worst, "{exits:?}");
        }
        assert_eq!(verdict(&[row("d", Exit::Done), Row::not_begun("e")]), Exit::Failed);
    }

    #[test]
    fn the_table_tells_all() {
        let text = table(&[row("web", Exit::Done), row("database", Exit::Failed), Row::not_begun("c")]);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                " DOMAIN    LEVEL  GUEST BYTES  STORED      TIME  RESULT",
                " web       inc        1.0 MiB   512 B  1:01 min  done",
                " database  -                -       -  1:01 min  FAILED: no room no room no room no room no room no room no room no r...",
                " c         -                -       -     0.0 s  not begun",
            ]
        );
    }

    #[test]
    fn estimates_are_read() {
        assert_eq!(estimate_in("Estimated backup size: 4096 bytes (4.0 KiB)"), Some(4096));
        assert_eq!(estimate_in("vda: 4096 bytes (4.0 KiB) full, allocated"), None);
    }
}
