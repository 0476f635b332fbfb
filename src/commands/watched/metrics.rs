//! The figures of runs in Prometheus' text format, for the node exporter's directory of such files. What a run that
//! failed can't tell is taken over from the file as it was, or from the set.
//!
//! The names are none of those that `virtkeep status --metrics` writes, so that both can be collected.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::{Timestamp, Zoned};

use super::record::Record;
use crate::commands::published::{escape, gauge};

/// A family of figures: its name, what it is, whether it is of the last run that succeeded.
struct Family {
    name: &'static str,
    help: &'static str,
    of_success: bool,
}

const fn last(name: &'static str, help: &'static str) -> Family {
    Family { name, help, of_success: false }
}

const fn success(name: &'static str, help: &'static str) -> Family {
    Family { name, help, of_success: true }
}

const EXIT: &str = "virtkeep_backup_last_run_exit_code";
const RUN: &str = "virtkeep_backup_last_run_timestamp_seconds";
const DURATION: &str = "virtkeep_backup_last_run_duration_seconds";
const WARNINGS: &str = "virtkeep_backup_last_run_warnings";
const SUCCESS: &str = "virtkeep_backup_last_success_timestamp_seconds";
const CHAIN: &str = "virtkeep_backup_chain_length";
const BYTES: &str = "virtkeep_backup_disk_bytes";
const RATIO: &str = "virtkeep_backup_disk_data_stored_ratio";

const FAMILIES: [Family; 8] = [
    last(EXIT, "Exit status of the last run: 0 done, 3 done but look, others failed."),
    last(RUN, "When the last run ended, whatever came of it."),
    last(DURATION, "How long the last run took."),
    last(WARNINGS, "Warnings that the last run gave."),
    success(SUCCESS, "When the last run that succeeded was committed."),
    success(CHAIN, "Runs that a restore of the last successful run reads."),
    success(BYTES, "Bytes in the last successful run: kind is the disk's size, the data read, zeroes, the file."),
    success(RATIO, "Data read by bytes stored in the last successful run."),
];

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: String,
}

impl Sample {
    fn new(name: &str, output: &str, domain: &str, more: &[(&str, &str)], value: f64) -> Self {
        let labels = [("domain", domain), ("output", output)].into_iter().chain(more.iter().copied());
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { name: name.to_owned(), labels, value: value.to_string() }
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }

    fn line(&self) -> String {
        let labels: Vec<String> =
            self.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        format!("{}{{{}}} {}", self.name, labels.join(","), self.value)
    }

    /// A line as [`Sample::line`] writes it.
    fn parse(line: &str) -> Option<Self> {
        let (name, rest) = line.split_once('{')?;
        let (mut labels, mut rest) = (Vec::new(), rest);
        while let Some((label, after)) = rest.split_once("=\"") {
            let (value, after) = unescape(after)?;
            labels.push((label.trim_start_matches(',').to_owned(), value));
            rest = after;
            if rest.starts_with('}') {
                break;
            }
        }
        let value = rest.strip_prefix("} ")?;
        value.parse::<f64>().ok()?;
        Some(Self { name: name.to_owned(), labels, value: value.to_owned() })
    }
}

/// The figures in the file as it is; none where it is missing or something else.
pub fn read(path: &Path) -> Vec<Sample> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| !line.starts_with('#')).filter_map(Sample::parse).collect()
}

/// The file after a command that ended with `exit`: of the domains in `records`; of those that were `named`, or were
/// in the `old` file, if it did not come as far as any domain.
pub fn text(old: &[Sample], output: &str, named: &[String], records: &[Record], exit: i32, end: &Zoned) -> String {
    let mut samples: Vec<Sample> = Vec::new();
    for record in records {
        samples.extend(of_run(output, record));
        samples.extend(of_success(old, output, record));
    }
    if records.is_empty() && exit != 0 {
        let known = old.iter().filter_map(|sample| sample.label("domain"));
        let domains: BTreeSet<&str> = known.chain(named.iter().map(String::as_str)).collect();
        for domain in domains {
            samples.push(Sample::new(EXIT, output, domain, &[], exit.into()));
            samples.push(Sample::new(RUN, output, domain, &[], end.timestamp().as_second() as f64));
            samples.extend(kept(old, domain));
        }
    }
    let mut text = String::new();
    for Family { name, help, .. } in &FAMILIES {
        gauge(&mut text, name, help);
        for sample in samples.iter().filter(|sample| sample.name == *name) {
            text.push_str(&sample.line());
            text.push('\n');
        }
    }
    text
}

fn of_run(output: &str, record: &Record) -> Vec<Sample> {
    let sample = |name, value| Sample::new(name, output, &record.domain, &[], value);
    vec![
        sample(EXIT, record.exit.into()),
        sample(RUN, unix(&record.end)),
        sample(DURATION, record.duration_seconds),
        sample(WARNINGS, record.warnings.len() as f64),
    ]
}

/// What is known of the domain's last success.
fn of_success(old: &[Sample], output: &str, record: &Record) -> Vec<Sample> {
    if record.is_committed() {
        return committed(output, record);
    }
    let kept = kept(old, &record.domain);
    if !kept.is_empty() {
        return kept;
    }
    let newest = record.set.as_deref().and_then(|set| Record::newest_in(Path::new(set)));
    newest.map(|newest| committed(output, &newest)).unwrap_or_default()
}

fn kept(old: &[Sample], domain: &str) -> Vec<Sample> {
    let is_of_success = |sample: &&Sample| {
        let family = FAMILIES.iter().find(|family| family.name == sample.name);
        family.is_some_and(|family| family.of_success) && sample.label("domain") == Some(domain)
    };
    old.iter().filter(is_of_success).cloned().collect()
}

fn committed(output: &str, record: &Record) -> Vec<Sample> {
    let domain = &record.domain;
    let at = record.committed.as_deref().unwrap_or(&record.end);
    let mut samples = vec![Sample::new(SUCCESS, output, domain, &[], unix(at))];
    samples.extend(record.chain_length.map(|length| Sample::new(CHAIN, output, domain, &[], length as f64)));
    for disk in &record.disks {
        let kinds = [
            ("virtual", disk.virtual_bytes),
            ("data", disk.data_bytes),
            ("zeroed", disk.zeroed_bytes),
            ("stored", disk.stored_bytes),
        ];
        for (kind, bytes) in kinds {
            let labels = [("disk", disk.target.as_str()), ("kind", kind)];
            samples.push(Sample::new(BYTES, output, domain, &labels, bytes as f64));
        }
        if disk.stored_bytes > 0 {
            let ratio = disk.data_bytes as f64 / disk.stored_bytes as f64;
            samples.push(Sample::new(RATIO, output, domain, &[("disk", &disk.target)], ratio));
        }
    }
    samples
}

/// The seconds of a moment that this program wrote.
fn unix(moment: &str) -> f64 {
    moment.parse::<Timestamp>().map_or(0.0, |time| time.as_second() as f64)
}

/// The value up to its closing quote, and what is behind that.
fn unescape(text: &str) -> Option<(String, &str)> {
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        match (escaped, c) {
            (false, '"') => return Some((value, text.get(at + 1..)?)),
            (false, '\\') => escaped = true,
            (true, 'n') => {
                value.push('\n');
                escaped = false;
            }
            (_, c) => {
                value.push(c);
                escaped = false;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use crate::set::moment;

    fn failed(domain: &str) -> Record {
        Record::died(domain, Exit::Failed, &moment::now(), "no room".into())
    }

    #[test]
    fn samples_survive_the_round_trip() {
        let labels = [("disk", "v\"d\\a\n,x=\"y\"}"), ("kind", "data")];
        let sample = Sample::new(BYTES, "/b/%d", "web 1", &labels, 4096.0);
        assert_eq!(Sample::parse(&sample.line()), Some(sample));
        for bad in ["", "# HELP x y", "x 1", "x{a=\"b} 1", "x{a=\"b\"} one", "x{a=\"b\"}"] {
            assert_eq!(Sample::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_failure_keeps_the_last_success() {
        let now = moment::now();
        let old = [
            Sample::new(SUCCESS, "/b", "web", &[], 1000.0),
            Sample::new(EXIT, "/b", "web", &[], 0.0),
            Sample::new(SUCCESS, "/b", "gone", &[], 900.0),
        ];
        let text = text(&old, "/b", &[], &[failed("web")], 1, &now);
        assert!(text.contains("last_success_timestamp_seconds{domain=\"web\",output=\"/b\"} 1000\n"), "{text}");
        assert!(text.contains("exit_code{domain=\"web\",output=\"/b\"} 1\n") && !text.contains("gone"), "{text}");
    }

    #[test]
    fn where_no_domain_was_reached_all_have_failed() {
        let old = [Sample::new(SUCCESS, "/b", "web", &[], 1000.0)];
        let text = text(&old, "/b", &["db".to_owned()], &[], 1, &moment::now());
        for line in ["exit_code{domain=\"web\"", "exit_code{domain=\"db\"", "success_timestamp_seconds{domain=\"web\""]
        {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
