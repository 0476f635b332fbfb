//! The manual pages as files, for packages.

use anyhow::Result;

use crate::cli::{Generate, manual};
use crate::error::Error;
use crate::exit::Exit;

/// Writes them into a directory that is there.
pub fn run(args: &Generate) -> Result<Exit> {
    for (name, text) in manual::pages()? {
        let path = args.directory.join(name);
        std::fs::write(&path, text).map_err(|error| Error::io("write", error).path(path))?;
    }
    Ok(Exit::Done)
}
