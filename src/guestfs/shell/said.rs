//! What guestfish says on standard error, as errors.

use crate::error::{Error, Kind};

/// Most that is kept of standard error for a message.
const MAX_ERRORS: usize = 64 << 10;

/// Adds `text` to what is kept.
pub(super) fn keep(errors: &mut Vec<u8>, text: &[u8]) {
    let room = MAX_ERRORS.saturating_sub(errors.len());
    errors.extend_from_slice(&text[..text.len().min(room)]);
}

/// What guestfish complains of, without what stands before each message.
pub(super) fn complaint(errors: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(errors);
    // *stdin*:12: libguestfs: error: lstatns: /x: No such file or directory
    for begin in ["libguestfs: error: ", "guestfish: "] {
        if let Some(position) = text.find(begin) {
            let lines = text[position + begin.len()..].lines().map(str::trim).filter(|line| !line.is_empty());
            // Advice on debugging follows some; the next command's, others.
            let is_end = |line: &&str| line.starts_with("*stdin*") || line.starts_with("To see full error messages");
            let text = lines.take_while(|line| !is_end(line)).collect::<Vec<_>>().join("; ");
            return Some(text);
        }
    }
    None
}

/// The error for a complaint.
pub(super) fn failure(text: &str) -> Error {
    let kind = if text.ends_with("No such file or directory") { Kind::NotFound } else { Kind::Io };
    let error = Error::new(kind, format!("guestfish: {text}"));
    if text.contains("Input/output error") {
        error.hint("where a block of the backup is damaged a message says which: `virtkeep verify` lists all")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_from_chatter() {
        let said = b"*stdin*:20: libguestfs: error: lstatns: /nix: No such file or directory\n";
        assert_eq!(complaint(said).unwrap(), "lstatns: /nix: No such file or directory");
        assert_eq!(failure(&complaint(said).unwrap()).kind(), Kind::NotFound);
        let long = b"*stdin*:3: libguestfs: error: mount: one\n  two\n\n*stdin*:4: libguestfs: error: x\n";
        assert_eq!(complaint(long).unwrap(), "mount: one; two");
        let advice = b"libguestfs: error: qemu-img: exited\nTo see full error messages you may need to\nDo:\n";
        assert_eq!(complaint(advice).unwrap(), "qemu-img: exited");
        assert_eq!(complaint(b"libguestfs: trace: version\n"), None);
    }
}
