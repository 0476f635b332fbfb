//! Commands for a shell on another machine, whatever bytes are in their arguments.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A command line that runs the POSIX `script` there with `arguments` as `$1`, `$2` …; what a shell makes of
/// a line is for the user's login shell, whichever that is, only to pass on. The script is one line: not every
/// shell takes a line break in quotes.
pub fn line(script: &str, arguments: &[OsString]) -> OsString {
    let mut line = b"exec sh -c ".to_vec();
    quote(&mut line, OsStr::new(&format!("LC_ALL=C; export LC_ALL; {script}")));
    line.extend_from_slice(b" sh");
    for argument in arguments {
        line.push(b' ');
        quote(&mut line, argument);
    }
    OsString::from_vec(line)
}

/// Single quotes take away the meaning of all else, in all shells.
fn quote(line: &mut Vec<u8>, text: &OsStr) {
    line.push(b'\'');
    for &byte in text.as_bytes() {
        match byte {
            b'\'' => line.extend_from_slice(b"'\\''"),
            _ => line.push(byte),
        }
    }
    line.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn arguments_arrive_as_they_are() {
        let bad = [&b"a b"[..], b"'", b"$(touch /tmp/x)`id`", b"", b"-rf", b"a\nb\t\\", b"\xff\"*?[", b"!x;&|<>#~"];
        let arguments: Vec<OsString> = bad.iter().map(|bytes| OsString::from_vec(bytes.to_vec())).collect();
        let mut expected = Vec::new();
        for bytes in bad {
            expected.extend_from_slice(bytes);
            expected.push(0);
        }
        for shell in ["sh", "bash"] {
            let output = Command::new(shell).arg("-c").arg(line("printf '%s\\0' \"$@\"", &arguments)).output().unwrap();
            assert_eq!(output.stdout, expected, "{shell}");
        }
    }
}
