//! `dump --svg`: the map as a picture that needs nothing beside itself: no style sheet, no script, no font.
//!
//! Data is a solid bar as high as its share of the place, zeroes are hatched, unchanged is empty: colours are not
//! needed to tell them apart. Every part has a title, which viewers show and screen readers read.

use std::fmt::Write as _;

use quick_xml::escape::escape;

use super::cells::{Look, Scale};
use super::layers::{Content, Disk, Row};
use crate::ui::screen::plain;
use crate::units::format_bytes;

/// Cells of a strip, each a unit wide.
pub const CELLS: usize = 960;
const LEFT: usize = 250;
const WIDTH: usize = LEFT + CELLS + 30;
const HEIGHT: usize = 24;
const GAP: usize = 6;

const DATA: &str = "#0b5394";
const LINES: &str = "#7f6000";
const EMPTY: &str = "#f3f3f3";
const TEXT: &str = "#222222";

/// The disks of the set that is called `title`.
pub fn draw(disks: &[Disk], title: &str, short: impl Fn(&str) -> &str) -> String {
    let mut body = String::new();
    let mut top = 50;
    for disk in disks {
        top = draw_disk(&mut body, disk, top, &short);
    }
    legend(&mut body, top);
    let height = top + 50;
    let title = escape(plain(title, 200)).into_owned();
    format!(
        r##"<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" font-family="sans-serif" font-size="13" fill="{TEXT}">
<title>{title}</title>
<desc>For each disk a strip for each run: solid where the run has data, hatched where it says that the disk is zero, empty where it has nothing.</desc>
<defs><pattern id="zeroes" width="6" height="6" patternUnits="userSpaceOnUse"><path d="M0 6L6 0" stroke="{LINES}" stroke-width="1.2"/></pattern></defs>
<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>
<text x="10" y="26" font-size="16">{title}</text>
{body}</svg>
"##
    )
}

/// Draws from `top` on, and returns where it ended.
fn draw_disk(body: &mut String, disk: &Disk, top: usize, short: &impl Fn(&str) -> &str) -> usize {
    let target = escape(plain(&disk.target, 40)).into_owned();
    let size = format_bytes(disk.scale.size);
    // Writing to a String cannot fail.
    let _ = writeln!(body, "<g>\n<title>disk {target}, {size}</title>");
    let _ = writeln!(body, r#"<text x="10" y="{}" font-weight="bold">{target}  {size}</text>"#, top + 16);
    let mut y = top + 26;
    for row in &disk.rows {
        let name = escape(plain(short(&row.id), 15)).into_owned();
        // A title is the first thing in its group.
        let _ = writeln!(body, "<g><title>{name} {}</title>", told(row));
        let (time, level) = (plain(&row.started, 20), plain(&row.level, 10));
        let _ = writeln!(body, r#"<text x="10" y="{}">{name} {} {}</text>"#, y + 17, escape(time), escape(level));
        strip(body, row, &disk.scale, &name, y);
        body.push_str("</g>\n");
        y += HEIGHT + GAP;
    }
    ruler(body, &disk.scale, y);
    body.push_str("</g>\n");
    y + 44
}

/// What a run did to the disk, in words.
fn told(row: &Row) -> String {
    match &row.content {
        Content::Cells { data, zero, .. } => format!("{} of data, {} zero", format_bytes(*data), format_bytes(*zero)),
        Content::Absent => "not in this run".to_owned(),
        Content::Damaged => "damaged".to_owned(),
    }
}

fn strip(body: &mut String, row: &Row, scale: &Scale, name: &str, y: usize) {
    let Content::Cells { cells, .. } = &row.content else {
        let _ = writeln!(body, r#"<text x="{LEFT}" y="{}">({})</text>"#, y + 17, told(row));
        return;
    };
    let looks: Vec<Look> = cells.iter().map(|cell| cell.look()).collect();
    let there = looks.iter().take_while(|look| **look != Look::Beyond).count();
    let _ = writeln!(
        body,
        r##"<rect x="{LEFT}" y="{y}" width="{there}" height="{HEIGHT}" fill="{EMPTY}" stroke="#999999" stroke-width="0.5"/>"##
    );
    let mut first = 0;
    for same in looks.chunk_by(|a, b| a == b) {
        let end = first + same.len();
        let (height, fill, what) = match same[0] {
            Look::Data(eighths) => (HEIGHT * usize::from(eighths) / 8, DATA, "data"),
            Look::Zero => (HEIGHT, "url(#zeroes)", "zeroes"),
            Look::Unchanged | Look::Beyond => (0, "", ""),
        };
        if height > 0 {
            let (from, to) = (scale.range(first).start, scale.range(end - 1).end);
            let _ = writeln!(
                body,
                r#"<rect x="{}" y="{}" width="{}" height="{height}" fill="{fill}"><title>{name}: {what} in {} to {}</title></rect>"#,
                LEFT + first,
                y + HEIGHT - height,
                same.len(),
                format_bytes(from),
                format_bytes(to)
            );
        }
        first = end;
    }
}

/// Ten marks with their offsets.
fn ruler(body: &mut String, scale: &Scale, y: usize) {
    for cell in (0..scale.count()).step_by(CELLS / 8) {
        let x = LEFT + cell;
        let _ = writeln!(
            body,
            r#"<path d="M{x} {y}v5" stroke="{TEXT}"/><text x="{x}" y="{}" font-size="11">{}</text>"#,
            y + 17,
            format_bytes(scale.range(cell).start)
        );
    }
}

fn legend(body: &mut String, top: usize) {
    let signs = [(DATA, "data, as high as its share"), ("url(#zeroes)", "zeroes"), (EMPTY, "unchanged")];
    for (number, (fill, what)) in signs.into_iter().enumerate() {
        let x = 10 + number * 230;
        let _ = writeln!(
            body,
            r##"<rect x="{x}" y="{top}" width="26" height="16" fill="{fill}" stroke="#999999" stroke-width="0.5"/><text x="{}" y="{}">{what}</text>"##,
            x + 34,
            top + 13
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::Extent;

    #[test]
    fn a_picture_is_well_formed_whatever_the_names() {
        let scale = Scale::fine(64 << 20, CELLS);
        let mut cells = scale.cells(48 << 20);
        scale.add(&mut cells, Extent::data(0, 1 << 20));
        scale.add(&mut cells, Extent::zero(2 << 20, 1 << 20));
        let row = |id: &str, content| Row { id: id.into(), level: "inc".into(), started: "now".into(), content };
        let evil = "</title><script>&\"'\u{1b}\u{0}\u{fffe}";
        let rows = vec![
            row(evil, Content::Cells { cells, data: 1, zero: 2 }),
            row("b", Content::Absent),
            row("c", Content::Damaged),
        ];
        let disks = [Disk { target: evil.into(), scale, rows }];
        let text = draw(&disks, evil, |id| id);
        let mut reader = quick_xml::Reader::from_str(&text);
        reader.config_mut().check_end_names = true;
        let (mut titles, mut hatched) = (0, 0);
        loop {
            match reader.read_event().unwrap() {
                quick_xml::events::Event::Eof => break,
                quick_xml::events::Event::Start(tag) => {
                    titles += usize::from(tag.name().as_ref() == b"title");
                    assert_ne!(tag.name().as_ref(), b"script", "{text}");
                    for attribute in tag.attributes() {
                        hatched += usize::from(attribute.unwrap().value.as_ref() == b"url(#zeroes)");
                    }
                }
                _ => {}
            }
        }
        assert!(titles >= 7 && hatched == 1, "{titles} {hatched}: {text}");
    }
}
