//! `DOMAIN.cpt`: the names of the chain's checkpoints in order, as virtnbdbackup keeps them.

use std::path::PathBuf;

use super::layout::Layout;
use crate::error::{Error, Result};

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

/// The names; none where there is no list, or, with a warning, where it is damaged: only its length
/// is of use, and `virtkeep verify` tells the damage.
///
/// # Errors
/// [`Io`](crate::error::Kind::Io) where it can't be read.
pub fn read(layout: &Layout, domain: &str) -> Result<Vec<String>> {
    let path = path(layout, domain)?;
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", error).path(path)),
    };
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
