//! A command for guestfish's standard input. Names come from a guest, which may be hostile: a word must never
//! become two, and a line never another command.
//!
//! Rules: guestfish(1), "QUOTING". In double quotes a backslash begins an escape; everything else but a quote
//! stands for itself. A line that is longer than its buffer (8192 bytes) would be cut in two.

use crate::error::{Error, Result};

/// Below guestfish's buffer for a line.
const MAX_LINE: usize = 8000;

/// The line for a command and its arguments, which guestfish goes on after if it fails.
///
/// # Errors
/// [`Kind::Unsupported`](crate::error::Kind::Unsupported) where the line would be too long for guestfish.
pub fn line(command: &str, arguments: &[&[u8]]) -> Result<Vec<u8>> {
    let mut line = format!("-{command}").into_bytes();
    for argument in arguments {
        line.push(b' ');
        quote(argument, &mut line);
    }
    if line.len() > MAX_LINE {
        return Err(Error::unsupported("a path is too long for guestfish")
            .hint("copy the directory that it is in: names inside of it may be of any length"));
    }
    line.push(b'\n');
    Ok(line)
}

fn quote(word: &[u8], line: &mut Vec<u8>) {
    line.push(b'"');
    for &byte in word {
        match byte {
            b'"' | b'\\' => line.extend([b'\\', byte]),
            b'\n' => line.extend(b"\\n"),
            0x00..0x20 | 0x7f => line.extend(format!("\\x{byte:02x}").bytes()),
            _ => line.push(byte),
        }
    }
    line.push(b'"');
}

/// Whether `name` stands for itself in a list of words within one argument, where other rules hold.
pub fn is_plain(name: &[u8]) -> bool {
    // A tilde at the begin would be expanded.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-+,:=@%/~".contains(byte);
    !name.is_empty() && name.first() != Some(&b'~') && name.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(arguments: &[&[u8]]) -> String {
        String::from_utf8(line("ls0", arguments).unwrap()).unwrap()
    }

    #[test]
    fn a_word_stays_one_word_on_one_line() {
        assert_eq!(said(&[b"/a b", b"-"]), "-ls0 \"/a b\" \"-\"\n");
        assert_eq!(said(&[b"/a\"; !reboot \\"]), "-ls0 \"/a\\\"; !reboot \\\\\"\n");
        assert_eq!(said(&[b"/a\n!reboot\r\x01\x7f"]), "-ls0 \"/a\\n!reboot\\x0d\\x01\\x7f\"\n");
        assert_eq!(said(&[b"/~ $HOME | <! #"]), "-ls0 \"/~ $HOME | <! #\"\n");
        assert_eq!(line("ls0", &[b"/\xff"]).unwrap(), b"-ls0 \"/\xff\"\n");
    }

    #[test]
    fn a_line_that_would_be_cut_is_refused() {
        assert!(line("lstatns", &[&[b'a'; 4096]]).is_ok());
        assert!(line("lstatns", &[&[b'\\'; 4096]]).is_err());
        assert!(line("lstatns", &[&[b'a'; 9000]]).is_err());
    }

    #[test]
    fn only_names_without_a_meaning_go_into_lists() {
        for name in [&b"fstab"[..], b"-dash", b"a~", b"x.y_z+1"] {
            assert!(is_plain(name), "{name:?}");
        }
        for name in [&b""[..], b"~", b"a b", b"a'b", b"a\"b", b"a\\b", b"a\nb", "ä".as_bytes(), b"$x", b"a\tb"] {
            assert!(!is_plain(name), "{name:?}");
        }
    }
}
