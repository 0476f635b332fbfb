//! One line of the report, and the report as a table and as JSON.

use serde_json::{Value, json};

use super::names::short;
use crate::ui::screen::printable;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// The domain itself.
    Domain,
    /// Its job.
    Job,
    /// A checkpoint.
    Checkpoint,
    /// A bitmap.
    Bitmap,
    /// The scratch directory.
    Scratch,
    /// The set.
    Set,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// In order.
    Good,
    /// In order, and worth knowing.
    Note,
    /// Something should be done.
    Look,
}

/// What is done about a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing needs to be done.
    None,
    /// `--repair` does this.
    Repair(String),
    /// The user can do this.
    Advice(String),
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// The thing, by the name that users know; with the area it says which thing it is.
    pub what: String,
    /// How it is.
    pub state: String,
    /// Whose it is; empty where nobody's.
    pub whose: String,
    /// How bad that is.
    pub verdict: Verdict,
    /// What to do.
    pub remedy: Remedy,
    /// What `--repair` made of it.
    pub done: Option<String>,
}

impl Finding {
    fn new(area: Area, what: impl Into<String>, state: impl Into<String>, verdict: Verdict) -> Self {
        Self {
            area,
            what: what.into(),
            state: state.into(),
            whose: String::new(),
            verdict,
            remedy: Remedy::None,
            done: None,
        }
    }

    /// Something that is in order.
    pub fn good(area: Area, what: impl Into<String>, state: impl Into<String>) -> Self {
        Self::new(area, what, state, Verdict::Good)
    }

    /// Something that is in order, and worth knowing.
    pub fn note(area: Area, what: impl Into<String>, state: impl Into<String>) -> Self {
        Self::new(area, what, state, Verdict::Note)
    }

    /// Something about which something should be done.
    pub fn look(area: Area, what: impl Into<String>, state: impl Into<String>) -> Self {
        Self::new(area, what, state, Verdict::Look)
    }

    /// The same, belonging to `whose`.
    pub fn of(mut self, whose: impl Into<String>) -> Self {
        self.whose = whose.into();
        self
    }

    /// The same; `--repair` does `what`.
    pub fn repair(mut self, what: impl Into<String>) -> Self {
        self.remedy = Remedy::Repair(what.into());
        self
    }

    /// The same; the user can do `what`.
    pub fn advice(mut self, what: impl Into<String>) -> Self {
        self.remedy = Remedy::Advice(what.into());
        self
    }

    fn is_same_thing(&self, other: &Self) -> bool {
        self.area == other.area && self.what == other.what
    }
}

/// Whether something is left to look at.
pub fn any_to_look_at(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.verdict == Verdict::Look)
}

/// What was found before a repair, each with what has become of it by the state after it; what is new
/// comes last. What is left to look at is in `after`, not here.
pub fn compared(before: Vec<Finding>, after: &[Finding]) -> Vec<Finding> {
    let new: Vec<Finding> =
        after.iter().filter(|finding| !before.iter().any(|old| old.is_same_thing(finding))).cloned().collect();
    let mut all = before;
    for finding in &mut all {
        if finding.verdict != Verdict::Look {
            continue;
        }
        let left = after.iter().find(|now| now.is_same_thing(finding) && now.verdict == Verdict::Look);
        finding.done = Some(match left {
            None => "mended".to_owned(),
            Some(Finding { remedy: Remedy::Advice(advice), .. }) => format!("left: {advice}"),
            Some(_) => "NOT mended: the messages say why".to_owned(),
        });
    }
    all.extend(new);
    all
}

/// A name that is longer has a line of its own.
const WIDEST_NAME: usize = 32;
/// A state that is longer goes on in the next line.
const WIDEST_STATE: usize = 44;

/// The table, of about a hundred columns. What is to be done is below its line: commands in it are not broken, they
/// are there to be copied.
pub fn to_table(findings: &[Finding], repaired: bool) -> String {
    let names: Vec<String> = findings.iter().map(|finding| shortened(&printable(&finding.what))).collect();
    let states: Vec<Vec<String>> =
        findings.iter().map(|finding| lines(&shortened(&printable(&finding.state)), WIDEST_STATE)).collect();
    let width = |texts: &mut dyn Iterator<Item = &String>, most: usize| {
        texts.map(|text| text.chars().count()).filter(|width| *width <= most).max().unwrap_or(0).max("WHAT".len() + 1)
    };
    let (name_width, state_width) =
        (width(&mut names.iter(), WIDEST_NAME), width(&mut states.iter().flatten(), WIDEST_STATE));
    let row = |mark: &str, name: &str, state: &str, whose: &str| {
        let row = format!(" {mark:1}  {name:name_width$}  {state:state_width$}  {whose}");
        format!("{}\n", row.trim_end())
    };
    let mut text = row("", "WHAT", "STATE", "WHOSE");
    for ((finding, name), state) in findings.iter().zip(&names).zip(&states) {
        let is_mended = finding.done.as_deref() == Some("mended");
        let mut mark = if finding.verdict == Verdict::Look && !is_mended { "!" } else { "" };
        let mut name = name.as_str();
        if name.chars().count() > name_width {
            text += &format!(" {mark:1}  {name}\n");
            (mark, name) = ("", "");
        }
        let whose = if finding.whose.is_empty() { "-".to_owned() } else { printable(&finding.whose) };
        text += &row(mark, name, state.first().map_or("", String::as_str), &whose);
        for more in state.iter().skip(1) {
            text += &row("", "", more, "");
        }
        if let Some(what) = told(finding) {
            text += &format!("      {}: {}\n", if repaired { "done" } else { "to do" }, printable(&what));
        }
    }
    text
}

/// What was done about a finding, or is to be done.
fn told(finding: &Finding) -> Option<String> {
    match (&finding.done, &finding.remedy) {
        (Some(done), _) => Some(done.clone()),
        (None, Remedy::None) => None,
        (None, Remedy::Repair(what)) => Some(format!("--repair {what}")),
        (None, Remedy::Advice(what)) => Some(what.clone()),
    }
}

/// A text whose UUIDs are as short as everywhere; JSON has them whole.
fn shortened(text: &str) -> String {
    let word = |word: &str| match uuid::Uuid::parse_str(word) {
        Ok(run) => short(run),
        Err(_) => word.to_owned(),
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The text in lines of at most `width` characters; a word that is longer stays whole.
fn lines(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let room = width.saturating_sub(word.chars().count());
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() < room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The findings for scripts.
pub fn to_json(findings: &[Finding]) -> Value {
    findings
        .iter()
        .map(|finding| {
            let (repair, advice) = match &finding.remedy {
                Remedy::None => (None, None),
                Remedy::Repair(what) => (Some(what), None),
                Remedy::Advice(what) => (None, Some(what)),
            };
            json!({
                "area": match finding.area {
                    Area::Domain => "domain",
                    Area::Job => "job",
                    Area::Checkpoint => "checkpoint",
                    Area::Bitmap => "bitmap",
                    Area::Scratch => "scratch",
                    Area::Set => "set",
                },
                "what": finding.what,
                "state": finding.state,
                "whose": Some(&finding.whose).filter(|whose| !whose.is_empty()),
                "verdict": match finding.verdict {
                    Verdict::Good => "good",
                    Verdict::Note => "note",
                    Verdict::Look => "look",
                },
                "repair": repair,
                "advice": advice,
                "done": finding.done,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_is_judged_by_what_is_found_after_it() {
        let before = vec![
            Finding::good(Area::Domain, "domain d", "running"),
            Finding::look(Area::Job, "backup job", "dead").repair("aborts it"),
            Finding::look(Area::Checkpoint, "checkpoint a", "another tool's").advice("look"),
            Finding::look(Area::Checkpoint, "checkpoint b", "broken").repair("removes it"),
        ];
        let after = vec![
            Finding::good(Area::Domain, "domain d", "running"),
            Finding::good(Area::Job, "backup job", "none"),
            Finding::look(Area::Checkpoint, "checkpoint a", "another tool's").advice("look"),
            Finding::look(Area::Checkpoint, "checkpoint b", "broken").repair("removes it"),
            Finding::good(Area::Checkpoint, "checkpoint c", "good"),
        ];
        let all = compared(before, &after);
        let done: Vec<_> = all.iter().map(|finding| finding.done.as_deref().unwrap_or("-")).collect();
        assert_eq!(done, ["-", "mended", "left: look", "NOT mended: the messages say why", "-"]);
        let table = to_table(&all, true);
        let marked: Vec<&str> = table.lines().filter(|line| line.trim_start().starts_with('!')).collect();
        assert!(matches!(marked[..], [a, b] if a.contains("checkpoint a") && b.contains("checkpoint b")), "{table}");
        assert!(any_to_look_at(&after) && !any_to_look_at(&after[..2]));
    }

    #[test]
    fn names_cannot_write_on_the_terminal() {
        let table = to_table(&[Finding::look(Area::Bitmap, "bitmap \x1b[2J\r", "x\ny")], false);
        assert!(!table.trim_end().replace('\n', "").contains(char::is_control), "{table:?}");
        assert_eq!(table.lines().count(), 2);
    }

    #[test]
    fn lines_are_short_and_commands_whole() {
        let run = "run 1636bb03-8a3f-4a0e-9c55-0c0d7a8b9f10";
        let command = format!("if nothing needs it: rm {}", "/long/path".repeat(20));
        let path = format!("/var/tmp/{}", "x".repeat(60));
        let findings = [
            Finding::good(Area::Domain, "domain web", "running"),
            Finding::look(Area::Set, run, "inc backup DID NOT FINISH: its process is gone; the guest may be frozen")
                .of("this set")
                .advice(&command),
            Finding::good(Area::Scratch, &path, "a file").of("this set, run 1636bb03"),
        ];
        let table = to_table(&findings, false);
        assert_eq!(
            table.lines().collect::<Vec<_>>(),
            [
                "    WHAT          STATE                                      WHOSE",
                "    domain web    running                                    -",
                " !  run 1636bb03  inc backup DID NOT FINISH: its process is  this set",
                "                  gone; the guest may be frozen",
                &format!("      to do: {command}"),
                &format!("    {path}"),
                "                  a file                                     this set, run 1636bb03",
            ]
        );
        assert_eq!(to_json(&findings)[1]["what"], run);
    }
}
