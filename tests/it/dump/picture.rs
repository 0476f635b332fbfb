//! `dump --svg`.

use std::os::unix::fs::PermissionsExt;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::{Known, ids};
use crate::support::{Case, MIB, virtkeep};

/// A rectangle: left edge, width, height, what it is filled with.
type Rectangle = (u64, u64, u64, String);

/// All rectangles of a picture that is well-formed XML, strip by strip: each group of a run has a background.
fn strips(text: &str) -> Vec<Vec<Rectangle>> {
    let mut reader = Reader::from_str(text);
    let mut strips: Vec<Vec<Rectangle>> = Vec::new();
    let (mut depth, mut titles) = (0, 0);
    loop {
        let (tag, opens) = match reader.read_event().unwrap() {
            Event::Eof => break,
            Event::Start(tag) => (tag, 1),
            Event::Empty(tag) => (tag, 0),
            Event::End(_) => {
                depth -= 1;
                continue;
            }
            _ => continue,
        };
        depth += opens;
        let value =
            |name: &str| tag.try_get_attribute(name).unwrap().map(|it| it.unescape_value().unwrap().into_owned());
        match tag.name().as_ref() {
            b"g" => strips.push(Vec::new()),
            b"title" => titles += 1,
            b"rect" if value("x").is_some() => {
                let number = |name: &str| value(name).unwrap().parse::<u64>().unwrap();
                let rectangle = (number("x"), number("width"), number("height"), value("fill").unwrap());
                if let Some(strip) = strips.last_mut() {
                    strip.push(rectangle);
                }
            }
            name => assert_ne!(name, b"script"),
        }
    }
    assert_eq!(depth, 0);
    assert!(titles > 4, "{text}");
    strips.retain(|strip| !strip.is_empty());
    strips
}

/// The picture of disk vda shows what is known of it.
pub fn shows(case: &Case<'_>, known: &[Known]) {
    let file = case.lab.fresh_directory().join("web & <b>.svg");
    virtkeep(&[&"dump", &"-i", &case.set, &"--svg", &file, &"-d", &"vda"]).succeeds();
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    let printed = virtkeep(&[&"dump", &"-i", &case.set, &"--svg", &"-", &"-d", &"vda"]).succeeds();
    assert_eq!(printed.stdout, text);
    assert!(!text.contains("class=") && !text.contains("<style") && !text.contains("href"), "{text}");
    let strips = strips(&text);
    assert!(strips.len() >= known.len(), "{text}");
    let cell = (32 * MIB).div_ceil(960);
    for ((strip, known), id) in strips.iter().zip(known).zip(ids(&case.set)) {
        let (left, full) = (strip[0].0, strip[0].2);
        for column in 0..(32 * MIB).div_ceil(cell) {
            let at = left + column;
            let drawn = strip[1..].iter().find(|(x, width, ..)| (*x..x + width).contains(&at));
            let found = drawn.map(|(_, _, height, fill)| if fill.starts_with("url") { 0 } else { height * 8 / full });
            let expected = known.look(column * cell..((column + 1) * cell).min(32 * MIB));
            assert_eq!(found, expected.flatten(), "run {id}, column {column}");
            assert_eq!(at < left + strip[0].1, expected.is_some(), "run {id}: the strip ends with its disk");
        }
    }
    for (options, words) in [(["--svg", "/dev/null"], "is no plain file"), (["--svg", "/nowhere/x.svg"], "/nowhere")] {
        let arguments: [&dyn AsRef<std::ffi::OsStr>; 5] = [&"dump", &"-i", &case.set, &options[0], &options[1]];
        virtkeep(&arguments).ends_with(1).says(&[words]);
    }
    virtkeep(&[&"dump", &"-i", &case.set, &"--svg", &"x", &"--map"]).ends_with(2);
}
