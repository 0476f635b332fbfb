//! The bitmaps that are stored in images.

use std::path::Path;

use serde::Deserialize;

use super::info::{Specific, ask};
use crate::error::{Error, Kind, Result};
use crate::host::Host;

/// An image of a chain and the bitmaps that are stored in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageBitmaps {
    /// The image's path as QEMU says it.
    pub filename: String,
    /// It has a backing file, whose format it does not tell: QEMU would guess that from the content, which a
    /// guest can have written.
    pub guesses_backing: bool,
    /// Its content is encrypted.
    pub encrypted: bool,
    /// Its bitmaps.
    pub bitmaps: Vec<StoredBitmap>,
}

/// A bitmap in an image that no program has open.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StoredBitmap {
    /// Its name.
    pub name: String,
    /// `in-use`: it was not stored cleanly, or is open; `auto`: it records.
    pub flags: Vec<String>,
}

/// The bitmaps in the qcow2 image at `path` of `host` and in those below it, which is last. Takes no lock; of an
/// image that is in use the answer is that of the time when it was opened.
///
/// # Errors
/// As for [`info`]; [`Kind::Protocol`] where the answer makes no sense.
pub fn bitmaps(host: &Host, path: &Path) -> Result<Vec<ImageBitmaps>> {
    let json = ask(host, path, Some("qcow2"), &["--backing-chain"])?;
    parse_bitmaps(&json).map_err(|error| error.path(path))
}

pub(super) fn parse_bitmaps(json: &[u8]) -> Result<Vec<ImageBitmaps>> {
    #[derive(Deserialize)]
    struct Image {
        filename: String,
        #[serde(rename = "format-specific")]
        specific: Option<Specific>,
        #[serde(rename = "backing-filename")]
        backing: Option<String>,
        #[serde(rename = "backing-filename-format")]
        backing_format: Option<String>,
        #[serde(default)]
        encrypted: bool,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Data {
        bitmaps: Vec<StoredBitmap>,
    }
    let bad = |error| Error::new(Kind::Protocol, "qemu-img info makes no sense").caused_by(error);
    let images: Vec<Image> = serde_json::from_slice(json).map_err(bad)?;
    let mut all = Vec::with_capacity(images.len());
    for Image { filename, specific, backing, backing_format, encrypted } in images {
        let data = specific.filter(|specific| specific.kind == "qcow2").and_then(|specific| specific.data);
        let data: Data = data.map(serde_json::from_value).transpose().map_err(bad)?.unwrap_or_default();
        let guesses_backing = backing.is_some() && backing_format.is_none();
        all.push(ImageBitmaps { filename, guesses_backing, encrypted, bitmaps: data.bitmaps });
    }
    Ok(all)
}
