//! `DOMAIN.cpt`: the names of the chain's checkpoints in order, as virtnbdbackup keeps them.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::layout::{Layout, checkpoint_name};
use crate::error::{Error, Result};

/// A list of as many names as there can be is smaller.
const MAX_SIZE: u64 = 64 << 20;

/// Where the list is.
///
/// # Errors
/// [`Corrupt`](crate::error::Kind::Corrupt) for a domain name that is no file name.
pub fn path(layout: &Layout, domain: &str) -> Result<PathBuf> {
    layout.file(&format!("{domain}.cpt"))
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
pub fn read(layout: &Layout, domain: &str) -> Result<Vec<String>> {
    let path = path(layout, domain)?;
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_SIZE).read_to_end(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", error).path(path)),
    }
    Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!("{}: the list of checkpoints is damaged: {error}", path.display());
        Vec::new()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_and_read() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        assert_eq!(read(&layout, "a b").unwrap(), Vec::<String>::new());
        let names = ["virtnbdbackup.0".to_owned(), "virtnbdbackup.1".to_owned()];
        assert_eq!(format(&names), r#"["virtnbdbackup.0", "virtnbdbackup.1"]"#);
        std::fs::write(path(&layout, "a b").unwrap(), format(&names)).unwrap();
        assert_eq!(read(&layout, "a b").unwrap(), names);
        assert!(path(&layout, "../x").is_err());
    }
}
