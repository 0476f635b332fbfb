//! What is known of the terminal that standard output may be.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use rustix::termios::tcgetwinsize;

/// Columns where nothing tells how many there are: a pipe, a file.
pub const USUAL: usize = 80;

/// Narrower than this nothing is drawn; wider lines are no easier to read.
const LIMITS: std::ops::RangeInclusive<usize> = 16..=400;

/// How many columns there are on standard output: $COLUMNS, else what its terminal says, else 80.
pub fn columns() -> usize {
    let asked = std::env::var("COLUMNS").ok().and_then(|text| text.trim().parse().ok());
    let columns = asked.filter(|&columns| columns > 0).or_else(|| width_of(std::io::stdout()));
    columns.unwrap_or(USUAL).clamp(*LIMITS.start(), *LIMITS.end())
}

/// The columns of a terminal, where it is one that knows them.
pub fn width_of(stream: impl AsFd) -> Option<usize> {
    tcgetwinsize(stream).ok().map(|size| usize::from(size.ws_col)).filter(|&columns| columns > 0)
}

/// The lines of a terminal, where it is one that knows them.
pub fn height_of(stream: impl AsFd) -> Option<u16> {
    tcgetwinsize(stream).ok().map(|size| size.ws_row).filter(|&lines| lines > 0)
}

/// Whether what goes to this stream may have colours.
pub fn has_colour(nocolor: bool, stream: &impl IsTerminal) -> bool {
    !nocolor && std::env::var_os("NO_COLOR").is_none() && stream.is_terminal()
}

/// A bar that is so many eighths of a column long.
pub fn bar(eighths: usize) -> String {
    const PARTS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let mut bar = "█".repeat(eighths / 8);
    bar.extend((eighths % 8).checked_sub(1).map(|part| PARTS[part]));
    bar
}

/// A text without what would move the cursor: names come from images and from other tools.
pub fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// A name that may be anybody's, in printable ASCII, each character one column wide, and at most `width` of them.
pub fn plain(name: &str, width: usize) -> String {
    let (text, is_whole) = fitting(name.chars(), width);
    // What is cut is said to be.
    if is_whole { text.concat() } else { text.concat() + "…" }
}

/// The same, cut at its begin.
pub fn plain_end(name: &str, width: usize) -> String {
    let (mut text, is_whole) = fitting(name.chars().rev(), width);
    text.reverse();
    if is_whole { text.concat() } else { format!("…{}", text.concat()) }
}

/// What fits of `characters` into `width` columns, and whether that is all; if not, one column stays free.
fn fitting(characters: impl Iterator<Item = char>, width: usize) -> (Vec<String>, bool) {
    let (mut shown, mut used): (Vec<String>, usize) = (Vec::new(), 0);
    for character in characters {
        let next: String = match character {
            ' '..='~' => character.into(),
            _ => character.escape_default().collect(),
        };
        if used + next.len() > width {
            while used + 1 > width {
                let Some(last) = shown.pop() else { break };
                used -= last.len();
            }
            return (shown, false);
        }
        used += next.len();
        shown.push(next);
    }
    (shown, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_harmless_and_fit() {
        assert_eq!(plain("virtnbdbackup.0", 15), "virtnbdbackup.0");
        assert_eq!(plain("virtnbdbackup.10", 15), "virtnbdbackup.…");
        assert_eq!(plain("a\x1b[31m\n", 40), "a\\u{1b}[31m\\n");
        assert_eq!(plain("\u{202e}gpj", 40), "\\u{202e}gpj");
        assert_eq!(plain("ab\n", 3), "ab…");
        assert_eq!(plain_end("web01: vda", 10), "web01: vda");
        assert_eq!(plain_end("web01: vda", 7), "…1: vda");
        assert_eq!(plain_end("\n: vda", 6), "…: vda");
        for width in 1..20 {
            for plain in [plain, plain_end] {
                assert!(plain("x\u{1b}yé\u{4e00}", width).chars().count() <= width, "{width}");
            }
        }
    }
}
