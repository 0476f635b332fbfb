//! `dump --tree`: what builds on what, with a bar for the size of each run.
//!
//! ```text
//! ┌ 30d39ca9 2026-11-22 06:15 full ████████████████████ 36.1 MiB
//! ├ 0e68275e 2026-11-23 06:15 inc  ▏                     1.7 KiB
//! │ └ 77aa0b1c 2026-11-23 12:00 diff ██▌                 4.6 MiB
//! └ 9b1c33d2 2026-11-24 06:15 inc  ▋                     1.2 MiB
//! ```
//!
//! A chain goes straight down; what ends beside it is indented.

use crate::set::catalogue::{Catalogue, Run};
use crate::ui::screen::{self, plain};
use crate::units::format_bytes;

/// Side by side chains beyond this are not indented further.
const DEEPEST: usize = 6;

/// A line of the tree.
struct Line<'c> {
    run: &'c Run,
    branch: String,
}

/// Draws the runs of a set; `id` and `note` are what is said of a run at its begin and its end.
pub fn draw(
    catalogue: &Catalogue,
    columns: usize,
    colour: bool,
    id: impl Fn(&Run) -> &str,
    note: impl Fn(&Run) -> Option<String>,
) -> String {
    let lines = lines(catalogue);
    let size = |run: &Run| run.sum(|stream| stream.stored_size);
    let largest = lines.iter().map(|line| size(line.run)).max().unwrap_or(0);
    let sizes = lines.iter().map(|line| format_bytes(size(line.run)).len()).max().unwrap_or(0);
    let head = |line: &Line<'_>| {
        let mut head = format!("{} {}", line.branch, plain(id(line.run), if columns < 40 { 8 } else { 15 }));
        if columns >= 60 {
            head += &line.run.started.strftime(" %Y-%m-%d %H:%M").to_string();
        }
        if columns >= 32 {
            head += &format!(" {:4}", line.run.level);
        }
        head
    };
    let heads: Vec<String> = lines.iter().map(head).collect();
    let width = heads.iter().map(|head| head.chars().count()).max().unwrap_or(0);
    // What is left for the bar.
    let room = columns.saturating_sub(width + 1 + 1 + sizes);
    let mut text = String::new();
    for (line, head) in lines.iter().zip(&heads) {
        let mut row = format!("{head:width$} ");
        if room >= 2 {
            let bar = bar(size(line.run), largest, room);
            let fill = " ".repeat(room - bar.chars().count());
            let (on, off) = if colour { ("\x1b[36m", "\x1b[0m") } else { ("", "") };
            row += &format!("{on}{bar}{off}{fill} ");
        }
        row += &format!("{:>sizes$}", format_bytes(size(line.run)));
        text += row.trim_end();
        text.push('\n');
        if let Some(note) = note(line.run) {
            let indent = "  ".repeat(line.branch.chars().count().div_ceil(2));
            text += &plain(&format!("{indent}{note}"), columns);
            text.push('\n');
        }
    }
    text
}

/// A bar of at most `room` columns; what is not nothing is seen.
fn bar(size: u64, largest: u64, room: usize) -> String {
    if size == 0 || largest == 0 {
        return String::new();
    }
    screen::bar((u128::from(size) * room as u128 * 8).div_ceil(u128::from(largest)) as usize)
}

/// The runs in the order of the tree.
fn lines(catalogue: &Catalogue) -> Vec<Line<'_>> {
    let runs = &catalogue.runs;
    let parents: Vec<Option<usize>> = runs.iter().map(|run| parent(runs, run)).collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); runs.len()];
    let mut roots = Vec::new();
    for (index, parent) in parents.iter().enumerate() {
        match parent {
            Some(parent) => children[*parent].push(index),
            None => roots.push(index),
        }
    }
    // Hostile names can make a ring, which no root leads to.
    let mut seen = vec![false; runs.len()];
    let mut lines = Vec::new();
    for root in roots.into_iter().chain(0..runs.len()) {
        // Chains that are still to be drawn, the next one last.
        let mut open = vec![(root, String::new(), 0)];
        while let Some((first, prefix, depth)) = open.pop() {
            let mut next = (!seen[first]).then_some(first);
            let mut beginning = true;
            while let Some(index) = next {
                seen[index] = true;
                // The chain goes on with the newest run that others can build on.
                let main = children[index].iter().rev().copied().find(|&child| runs[child].is_base() && !seen[child]);
                let glyph = match (beginning && depth == 0, main) {
                    (true, None) => '─',
                    (true, Some(_)) => '┌',
                    (false, None) => '└',
                    (false, Some(_)) => '├',
                };
                lines.push(Line { run: &runs[index], branch: format!("{prefix}{glyph}") });
                let aside: Vec<usize> = children[index].iter().copied().filter(|&child| Some(child) != main).collect();
                beginning = false;
                next = main;
                if aside.is_empty() {
                    continue;
                }
                // First what is beside the run, then the chain on.
                let side = if main.is_some() { "│ " } else { "  " };
                let deeper = if depth < DEEPEST { format!("{prefix}{side}") } else { prefix.clone() };
                if let Some(main) = main {
                    open.push((main, prefix.clone(), depth.max(1)));
                }
                open.extend(aside.into_iter().rev().map(|child| (child, deeper.clone(), depth + 1)));
                next = None;
            }
        }
    }
    lines
}

/// The run that the newest of its bases is of; none for one that needs no other, or whose base is not there.
fn parent(runs: &[Run], run: &Run) -> Option<usize> {
    let made = |base: &str| runs.iter().position(|run| run.checkpoint.as_deref() == Some(base));
    run.streams.iter().filter_map(|stream| made(stream.base.as_deref()?)).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::Level;
    use crate::set::catalogue::tests::run;
    use crate::set::layout::Layout;

    fn catalogue(runs: Vec<Run>) -> Catalogue {
        Catalogue { files: Layout::new("/set").into(), runs, problems: vec![], partial: vec![], is_of_stdout: false }
    }

    fn name(number: u32) -> String {
        format!("virtnbdbackup.{number}")
    }

    fn shape(runs: Vec<Run>) -> Vec<String> {
        lines(&catalogue(runs)).iter().map(|line| format!("{} {}", line.branch, line.run.id)).collect()
    }

    #[test]
    fn chains_go_down_and_ends_stand_beside() {
        let at = |hour: u32| format!("2026-01-01T{hour:02}:00:00");
        let one = |id: &str, level, makes: Option<u32>, base: Option<u32>, hour| {
            run(id, level, makes.map(name).as_deref(), base.map(name).as_deref(), &at(hour))
        };
        let runs = vec![
            one("full", Level::Full, Some(0), None, 1),
            one("one", Level::Inc, Some(1), Some(0), 2),
            one("d1", Level::Diff, None, Some(1), 3),
            one("d2", Level::Diff, None, Some(1), 4),
            one("two", Level::Inc, Some(2), Some(1), 5),
            one("d3", Level::Diff, None, Some(2), 6),
        ];
        assert_eq!(shape(runs), ["┌ full", "├ one", "│ └ d1", "│ └ d2", "└ two", "  └ d3"]);
        assert_eq!(shape(vec![one("copy", Level::Copy, None, None, 1)]), ["─ copy"]);
        // A base that is not there, and two that build on each other.
        let odd = vec![
            one("lost", Level::Inc, Some(3), Some(2), 1),
            one("a", Level::Inc, Some(8), Some(9), 2),
            one("b", Level::Inc, Some(9), Some(8), 3),
        ];
        assert_eq!(shape(odd).len(), 3);
        assert_eq!(shape(vec![one("self", Level::Inc, Some(3), Some(3), 1)]).len(), 1);
    }

    #[test]
    fn bars_are_to_scale_and_never_nothing() {
        assert_eq!(bar(100, 100, 10), "██████████");
        assert_eq!(bar(50, 100, 5), "██▌");
        assert_eq!(bar(1, u64::MAX, 5), "▏");
        assert_eq!(bar(0, 100, 5), "");
        assert_eq!(bar(u64::MAX, u64::MAX, 3), "███");
    }

    #[test]
    fn no_window_is_too_narrow() {
        let set = || {
            catalogue(vec![
                run("30d39ca9", Level::Full, Some("virtnbdbackup.0"), None, "2026-01-01T01:00:00"),
                run("0e68275e", Level::Inc, Some("virtnbdbackup.1"), Some("virtnbdbackup.0"), "2026-01-02T01:00:00"),
                run("77aa0b1c", Level::Diff, None, Some("virtnbdbackup.0"), "2026-01-02T01:00:00"),
            ])
        };
        for columns in 24..120 {
            let text = draw(&set(), columns, false, |run| &run.id, |_| Some("BROKEN CHAIN".to_owned()));
            for line in text.lines() {
                assert!(line.chars().count() <= columns, "{columns}: {line:?}");
            }
        }
    }
}
