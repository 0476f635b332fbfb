//! `DOMAIN.cpt`: the names of the chain's checkpoints in order, as virtnbdbackup keeps them.

use super::files::Files;
use super::layout::checkpoint_name;
use crate::error::{Kind, Result};
use crate::stored::StoredFile;

/// A list of as many names as there can be is smaller.
pub const MAX_SIZE: u64 = 64 << 20;

/// Where the list is.
///
/// # Errors
/// [`Corrupt`](crate::error::Kind::Corrupt) for a domain name that is no file name.
pub fn file(files: &Files, domain: &str) -> Result<StoredFile> {
    files.file(&name(domain))
}

/// What the list is called.
pub fn name(domain: &str) -> String {
    format!("{domain}.cpt")
}

/// The file's text.
pub fn format(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("[{}]", quoted.join(", "))
}

/// The names in a list's text; `None` where it is damaged. There is one way only to write a list and
/// the names are consecutive, so that a flipped bit shows.
pub fn decode(text: &[u8]) -> Option<Vec<String>> {
    let names: Vec<String> = serde_json::from_slice(text).ok()?;
    let expected = (0..names.len() as u64).map(checkpoint_name);
    (names.iter().cloned().eq(expected) && format(&names).as_bytes() == text).then_some(names)
}

/// The names; none where there is no list, or, with a warning, where it is damaged: only its length
/// is of use, and `virtkeep verify` tells the damage.
///
/// # Errors
/// [`Io`](crate::error::Kind::Io) where it can't be read.
pub fn read(files: &Files, domain: &str) -> Result<Vec<String>> {
    let file = file(files, domain)?;
    let text = match file.read(MAX_SIZE) {
        Ok(text) => text,
        Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == Kind::Corrupt => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!("{}: the list of checkpoints is damaged: {error}", file.path().display());
        Vec::new()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::layout::Layout;

    #[test]
    fn lists_are_written_and_read() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Files::from(Layout::new(directory.path()));
        assert_eq!(read(&layout, "a b").unwrap(), Vec::<String>::new());
        let names = ["virtnbdbackup.0".to_owned(), "virtnbdbackup.1".to_owned()];
        assert_eq!(format(&names), r#"["virtnbdbackup.0", "virtnbdbackup.1"]"#);
        std::fs::write(file(&layout, "a b").unwrap().path(), format(&names)).unwrap();
        assert_eq!(read(&layout, "a b").unwrap(), names);
        assert!(file(&layout, "../x").is_err());
    }
}
