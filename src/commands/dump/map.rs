//! `dump --map`: each disk as a strip of blocks for each run.
//!
//! ```text
//! vda  64.0 MiB, a column is 1.2 MiB
//! 30d39ca9 full  ███████▅░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
//! 0e68275e inc   ··▁·······················█▃························
//!                ├─────────┼─────────┼─────────┼─────────┼──────────
//!                0 B       12.5 MiB  25.0 MiB  37.5 MiB  50.0 MiB
//! ```

use super::cells::{Cell, Look, Scale};
use super::layers::{Content, Disk, Row};
use crate::ui::screen::plain;
use crate::units::format_bytes;

/// Eighths of a cell.
const SHARES: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ZERO: char = '░';
const UNCHANGED: char = '·';
const BEYOND: char = ' ';

/// Columns of the names before the strips.
#[derive(Debug, Clone, Copy)]
pub struct Margin {
    id: usize,
    has_level: bool,
    has_time: bool,
}

/// How a map is laid out in `columns`.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    columns: usize,
    margin: Margin,
    colour: bool,
}

impl Page {
    /// Of these ids of runs.
    pub fn new<'r>(columns: usize, colour: bool, ids: impl Iterator<Item = &'r str>) -> Self {
        let longest = ids.map(|id| plain(id, columns).chars().count()).max().unwrap_or(0);
        let id = longest.min(if columns < 40 { 8 } else { 15 });
        Self { columns, margin: Margin { id, has_level: columns >= 32, has_time: columns >= 100 }, colour }
    }

    fn margin_width(&self) -> usize {
        let Margin { id, has_level, has_time } = self.margin;
        id + 1 + usize::from(has_level) * 5 + usize::from(has_time) * 17
    }

    /// The cells of a disk of `size` bytes.
    pub fn scale(&self, size: u64) -> Scale {
        Scale::new(size, self.columns.saturating_sub(self.margin_width()).max(4))
    }

    /// The disks, one below the other, and what the signs mean.
    pub fn draw(&self, disks: &[Disk], short: impl Fn(&str) -> &str) -> String {
        let mut text = String::new();
        for disk in disks {
            self.draw_disk(&mut text, disk, &short);
            text.push('\n');
        }
        self.legend(&mut text, disks);
        text
    }

    fn draw_disk(&self, text: &mut String, disk: &Disk, short: &impl Fn(&str) -> &str) {
        let target = plain(&disk.target, 15);
        let (size, cell) = (format_bytes(disk.scale.size), format_bytes(disk.scale.cell));
        self.wrap(text, &[format!("{target}  {size}, a column is {cell}")]);
        for row in &disk.rows {
            let Margin { id, has_level, has_time } = self.margin;
            let mut line = format!("{:id$} ", plain(short(&row.id), id));
            if has_time {
                line += &format!("{:16} ", row.started);
            }
            if has_level {
                line += &format!("{:4} ", row.level);
            }
            line += &self.strip(row);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        self.ruler(text, &disk.scale);
    }

    fn strip(&self, row: &Row) -> String {
        let room = self.columns.saturating_sub(self.margin_width());
        match &row.content {
            Content::Absent => plain("(not in this run)", room),
            Content::Damaged => plain("(DAMAGED)", room),
            Content::Cells { cells, .. } => {
                let mut text = String::new();
                let mut before = "";
                for look in cells.iter().map(Cell::look) {
                    let (sign, colour) = sign(look);
                    if self.colour && colour != before {
                        text.push_str(if colour.is_empty() { OFF } else { colour });
                        before = colour;
                    }
                    text.push(sign);
                }
                if !before.is_empty() {
                    text.push_str(OFF);
                }
                text
            }
        }
    }

    /// Where the bytes lie: a mark, and below it the offset at which its column begins.
    fn ruler(&self, text: &mut String, scale: &Scale) {
        let count = scale.count();
        let (mut marks, mut labels) = (String::new(), String::new());
        let mut free = 0;
        for column in 0..count {
            let label = format_bytes(scale.range(column).start);
            // At tens, as far as the numbers have room.
            let fits = column >= free && column + label.len() <= count.max(label.len()) && column % 10 == 0;
            if fits {
                labels.extend(std::iter::repeat_n(' ', column.saturating_sub(labels.len())));
                labels.push_str(&label);
                free = column + label.len() + 1;
            }
            marks.push(match (column, fits) {
                (0, _) => '├',
                (_, true) => '┼',
                _ => '─',
            });
        }
        let margin = " ".repeat(self.margin_width());
        for line in [marks, labels] {
            text.push_str(&format!("{margin}{line}\n"));
        }
    }

    fn legend(&self, text: &mut String, disks: &[Disk]) {
        let shares: String = SHARES.iter().collect();
        let mut words =
            vec![format!("{shares} data, by its share"), format!("{ZERO} zeroes"), format!("{UNCHANGED} unchanged")];
        let cells = disks.iter().flat_map(|disk| &disk.rows).filter_map(|row| match &row.content {
            Content::Cells { cells, .. } => Some(cells),
            _ => None,
        });
        if cells.flatten().any(|cell| cell.look() == Look::Beyond) {
            words.push("blank: the disk was smaller".to_owned());
        }
        self.wrap(text, &words);
    }

    /// As many of `words` on a line as fit.
    fn wrap(&self, text: &mut String, words: &[String]) {
        let mut used = 0;
        for word in words {
            let width = word.chars().count();
            match used {
                0 => {}
                _ if used + 2 + width <= self.columns => {
                    text.push_str("  ");
                    used += 2;
                }
                _ => {
                    text.push('\n');
                    used = 0;
                }
            }
            // A line of its own that is too long is broken between its words.
            for part in word.split_inclusive(' ') {
                let width = part.trim_end().chars().count();
                if used > 0 && used + width > self.columns {
                    text.truncate(text.trim_end().len());
                    text.push('\n');
                    used = 0;
                }
                text.push_str(part);
                used += part.chars().count();
            }
        }
        text.push('\n');
    }
}

const OFF: &str = "\x1b[0m";

/// The sign of a cell, and its colour on a terminal: the sign alone tells.
fn sign(look: Look) -> (char, &'static str) {
    match look {
        Look::Data(eighths) => (SHARES[usize::from(eighths.clamp(1, 8)) - 1], "\x1b[36m"),
        Look::Zero => (ZERO, "\x1b[33m"),
        Look::Unchanged => (UNCHANGED, ""),
        Look::Beyond => (BEYOND, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::Extent;

    fn disk(page: &Page) -> Disk {
        let scale = page.scale(64 << 20);
        let row = |id: &str, level: &str, extents: &[Extent]| {
            let mut cells = scale.cells(64 << 20);
            extents.iter().for_each(|extent| scale.add(&mut cells, *extent));
            let content = Content::Cells { cells, data: 0, zero: 0 };
            Row { id: id.into(), level: level.into(), started: "2026-11-22 06:15".into(), content }
        };
        let mut rows = vec![
            row("30d39ca9", "full", &[Extent::data(0, 10 << 20), Extent::zero(10 << 20, 54 << 20)]),
            row("0e68275e", "inc", &[Extent::data(5 << 20, 512), Extent::data(30 << 20, 3 << 20)]),
        ];
        for (id, content) in [("aaaa0000", Content::Absent), ("bbbb0000", Content::Damaged)] {
            rows.push(Row { id: id.into(), level: "inc".into(), started: "2026-11-22 06:15".into(), content });
        }
        Disk { target: "vda".into(), scale, rows }
    }

    #[test]
    fn a_map_is_drawn() {
        let page = Page::new(80, false, ["30d39ca9"].into_iter());
        let text = page.draw(&[disk(&page)], |id| id);
        let expected = "\
vda  64.0 MiB, a column is 1.0 MiB
30d39ca9 full ██████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
0e68275e inc  ·····▁························███·······························
aaaa0000 inc  (not in this run)
bbbb0000 inc  (DAMAGED)
              ├─────────┼─────────┼─────────┼─────────┼─────────┼─────────────
              0 B       10.0 MiB  20.0 MiB  30.0 MiB  40.0 MiB  50.0 MiB

▁▂▃▄▅▆▇█ data, by its share  ░ zeroes  · unchanged
";
        assert_eq!(text, expected);
    }

    #[test]
    fn no_window_is_too_narrow() {
        for columns in 16..120 {
            let page = Page::new(columns, false, ["30d39ca9", "virtnbdbackup.10"].into_iter());
            let text = page.draw(&[disk(&page)], |id| id);
            for line in text.lines() {
                assert!(line.chars().count() <= columns, "{columns}: {line:?}");
            }
            assert!(text.contains('█') && text.contains('▁') && text.contains('░') && text.contains('·'), "{text}");
        }
    }

    #[test]
    fn colours_add_nothing_but_colour() {
        let (plain, coloured) =
            (Page::new(80, false, ["30d39ca9"].into_iter()), Page::new(80, true, ["30d39ca9"].into_iter()));
        let text = coloured.draw(&[disk(&coloured)], |id| id);
        assert!(text.contains("\x1b[36m█") && text.contains("\x1b[33m░"), "{text:?}");
        let bare = text.replace("\x1b[36m", "").replace("\x1b[33m", "").replace(OFF, "");
        assert_eq!(bare, plain.draw(&[disk(&plain)], |id| id));
    }
}
