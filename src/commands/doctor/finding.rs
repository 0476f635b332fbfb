//! One line of the report, and the report as a table and as JSON.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};

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

/// The table. Commands in it are not broken into lines: they are there to be copied.
pub fn to_table(findings: &[Finding], repaired: bool) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["", "WHAT", "STATE", "WHOSE", if repaired { "DONE" } else { "TO DO" }]);
    for finding in findings {
        let mark = match finding.verdict {
            Verdict::Look if finding.done.as_deref() != Some("mended") => "!",
            _ => "",
        };
        let last = match (&finding.done, &finding.remedy) {
            (Some(done), _) => done.clone(),
            (None, Remedy::None) => "-".to_owned(),
            (None, Remedy::Repair(what)) => format!("--repair {what}"),
            (None, Remedy::Advice(what)) => what.clone(),
        };
        let whose = if finding.whose.is_empty() { "-" } else { &finding.whose };
        table.add_row([mark, &plain(&finding.what), &plain(&finding.state), &plain(whose), &plain(&last)]);
    }
    format!("{}\n", table.trim_fmt())
}

/// Names come from images and from other tools: what would move the cursor is not shown.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
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
        let marked: Vec<bool> = table.lines().map(|line| line.trim_start().starts_with('!')).collect();
        assert_eq!(marked, [false, false, false, true, true, false], "{table}");
        assert!(any_to_look_at(&after) && !any_to_look_at(&after[..2]));
    }

    #[test]
    fn names_cannot_write_on_the_terminal() {
        let table = to_table(&[Finding::look(Area::Bitmap, "bitmap \x1b[2J\r", "x\ny")], false);
        assert!(!table.trim_end().replace('\n', "").contains(char::is_control), "{table:?}");
        assert_eq!(table.lines().count(), 2);
    }
}
