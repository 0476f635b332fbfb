//! What an image is, as `qemu-img info` says.

use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;

use super::TOOL;
use super::name::file_name;
use crate::error::{Error, Kind, Result};
use crate::host::Host;

/// What `qemu-img info` says of an image, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// Bytes the guest sees.
    pub virtual_size: u64,
    /// Bytes that it takes on its file system, where that is known.
    pub actual_size: Option<u64>,
    /// `qcow2`, `raw`, …
    pub format: String,
    /// Bytes per cluster, of formats that have some.
    pub cluster_size: Option<u64>,
    /// The backing file as the image names it.
    pub backing_filename: Option<String>,
    /// Whether the content is encrypted.
    pub encrypted: bool,
    /// What only qcow2 images have.
    pub qcow2: Option<Qcow2Info>,
    /// The JSON text all of this was taken from.
    pub json: String,
}

impl ImageInfo {
    /// Whether it is a qcow2 image of version 2, which has no bitmaps.
    pub fn is_qcow2_version_2(&self) -> bool {
        self.qcow2.as_ref().and_then(|qcow2| qcow2.compat.as_deref()) == Some("0.10")
    }
}

/// Properties of a qcow2 image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Qcow2Info {
    /// `0.10` (version 2) or `1.1` (version 3); version 2 has no bitmaps.
    pub compat: Option<String>,
    /// Bits per reference count.
    pub refcount_bits: Option<u64>,
    /// Reference counts may be rebuilt after a crash.
    pub lazy_refcounts: Option<bool>,
    /// Subclusters.
    pub extended_l2: Option<bool>,
    /// The file with the guest's data, if apart.
    pub data_file: Option<String>,
    /// Whether that file is a raw image of the disk.
    pub data_file_raw: Option<bool>,
    /// `zlib` or `zstd`.
    pub compression_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawInfo {
    virtual_size: u64,
    actual_size: Option<u64>,
    format: String,
    cluster_size: Option<u64>,
    backing_filename: Option<String>,
    #[serde(default)]
    encrypted: bool,
    format_specific: Option<Specific>,
}

#[derive(Deserialize)]
pub(super) struct Specific {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) data: Option<serde_json::Value>,
}

impl ImageInfo {
    /// Reads what `qemu-img info --output=json` said at some time.
    ///
    /// # Errors
    /// [`Kind::Protocol`] if it is not that.
    pub fn parse(json: &str) -> Result<Self> {
        parse(json.to_owned())
    }
}

/// What the image at `path` of `host` is. Takes no lock: the image may be in use.
///
/// # Errors
/// [`Kind::NotFound`], and whatever `qemu-img` complains about.
pub fn info(host: &Host, path: &Path) -> Result<ImageInfo> {
    query(host, path, None)
}

/// [`info`] of an image whose format is known: guests control what is in a raw image, so the format
/// of one is never to be guessed from its content.
pub fn info_as(host: &Host, path: &Path, format: &str) -> Result<ImageInfo> {
    query(host, path, Some(format))
}

/// What `qemu-img info` says, with more `options`.
pub(super) fn ask(host: &Host, path: &Path, format: Option<&str>, options: &[&str]) -> Result<Vec<u8>> {
    // qemu-img says "Could not open" for everything; a missing file deserves its own kind.
    host.file(path)?;
    let format = format.map(|format| ["-f", format]);
    let words = ["info", "--output=json", "-U"].iter().chain(options).chain(format.iter().flatten()).chain(&["--"]);
    let args: Vec<OsString> = words.map(OsString::from).chain([file_name(path)]).collect();
    host.run(TOOL, &args).map_err(|error| error.path(path))
}

fn query(host: &Host, path: &Path, format: Option<&str>) -> Result<ImageInfo> {
    let json = String::from_utf8(ask(host, path, format, &[])?)
        .map_err(|error| Error::new(Kind::Protocol, "qemu-img info is not UTF-8").path(path).caused_by(error))?;
    parse(json).map_err(|error| error.path(path))
}

pub(super) fn parse(json: String) -> Result<ImageInfo> {
    let bad = |error| Error::new(Kind::Protocol, "qemu-img info makes no sense").caused_by(error);
    let raw: RawInfo = serde_json::from_str(&json).map_err(bad)?;
    let qcow2 = match raw.format_specific {
        Some(Specific { kind, data: Some(data) }) if kind == "qcow2" => {
            Some(serde_json::from_value(data).map_err(bad)?)
        }
        _ => None,
    };
    Ok(ImageInfo {
        virtual_size: raw.virtual_size,
        actual_size: raw.actual_size,
        format: raw.format,
        cluster_size: raw.cluster_size,
        backing_filename: raw.backing_filename,
        encrypted: raw.encrypted,
        qcow2,
        json,
    })
}
