//! The manual pages as files, for packages, and the page of errors.

use std::path::Path;

use anyhow::Result;

use crate::cli::{Generate, errors, manual};
use crate::error::{self, Error};
use crate::exit::Exit;

/// Writes them into a directory that is there.
pub fn run(args: &Generate) -> Result<Exit> {
    if let Some(directory) = &args.directory {
        for (name, text) in manual::pages()? {
            write(&directory.join(name), &text)?;
        }
    }
    if let Some(path) = &args.errors {
        write(path, &errors::page().map_err(Error::usage)?)?;
    }
    Ok(Exit::Done)
}

fn write(path: &Path, text: &str) -> error::Result<()> {
    std::fs::write(path, text).map_err(|error| Error::io("write", error).path(path))
}
