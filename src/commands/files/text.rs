//! Names from a guest as text for a terminal.

use std::fmt::Write;

/// `bytes` on one line: control characters, backslashes and what is no UTF-8 are written as escapes, so that a
/// name can't move the cursor or look like another line.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\\' => text.push_str("\\\\"),
                // Marks that turn the direction of text, too.
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    text.extend(character.escape_unicode());
                }
                character if character.is_control() => text.extend(character.escape_default()),
                character => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_name_stays_on_its_line() {
        assert_eq!(shown("Grüße an b".as_bytes()), "Grüße an b");
        assert_eq!(shown(b"a\nb\\c\x1b[31m\xff"), "a\\nb\\\\c\\u{1b}[31m\\xff");
        assert_eq!(shown("a\u{202e}b".as_bytes()), "a\\u{202e}b");
    }
}
