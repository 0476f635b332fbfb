//! `qemu-img`: what an image is, and a new image with the same properties.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::qemu::process;

/// The tool; found in `PATH`.
pub(super) const TOOL: &str = "qemu-img";

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
struct Specific {
    #[serde(rename = "type")]
    kind: String,
    data: Option<serde_json::Value>,
}

/// Space to set aside for a new image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preallocation {
    /// None: the image grows.
    #[default]
    Off,
    /// Metadata alone.
    Metadata,
    /// All space, unwritten.
    Falloc,
    /// All space, written with zeroes.
    Full,
}

impl Preallocation {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Metadata => "metadata",
            Self::Falloc => "falloc",
            Self::Full => "full",
        }
    }
}

/// How to create a qcow2 image. What is `None` is left to `qemu-img`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateOptions {
    /// Bytes per cluster.
    pub cluster_size: Option<u64>,
    /// Bits per reference count.
    pub refcount_bits: Option<u64>,
    /// Reference counts may be rebuilt after a crash.
    pub lazy_refcounts: Option<bool>,
    /// Subclusters.
    pub extended_l2: Option<bool>,
    /// `0.10` or `1.1`.
    pub compat: Option<String>,
    /// `zlib` or `zstd`.
    pub compression_type: Option<String>,
    /// Space to set aside.
    pub preallocation: Preallocation,
    /// A file for the guest's data apart, and whether that is a raw image of the disk. A file is made, or
    /// emptied; a block device must be there.
    pub data_file: Option<(PathBuf, bool)>,
}

impl From<&ImageInfo> for CreateOptions {
    /// The same kind of qcow2. Data file and backing file are not carried over: the new image holds
    /// all content itself.
    fn from(info: &ImageInfo) -> Self {
        let Some(qcow2) = &info.qcow2 else { return Self::default() };
        Self {
            cluster_size: info.cluster_size,
            refcount_bits: qcow2.refcount_bits,
            lazy_refcounts: qcow2.lazy_refcounts,
            extended_l2: qcow2.extended_l2,
            compat: qcow2.compat.clone(),
            compression_type: qcow2.compression_type.clone(),
            preallocation: Preallocation::Off,
            data_file: None,
        }
    }
}

impl CreateOptions {
    /// The value of `-o`. Version 2 images take none of the newer options.
    fn option_list(&self) -> OsString {
        let mut list = OsString::from(self.plain_options());
        if let Some((path, raw)) = &self.data_file {
            list.push(format!(",data_file_raw={},data_file=", if *raw { "on" } else { "off" }));
            list.push(doubled_commas(path));
        }
        list
    }

    fn plain_options(&self) -> String {
        let old = self.compat.as_deref() == Some("0.10");
        let switch = |on: bool| if on { "on" } else { "off" };
        let mut options = vec![format!("preallocation={}", self.preallocation.name())];
        options.extend(self.cluster_size.map(|bytes| format!("cluster_size={bytes}")));
        options.extend(self.compat.as_ref().map(|compat| format!("compat={}", escape(compat))));
        if !old {
            options.extend(self.refcount_bits.map(|bits| format!("refcount_bits={bits}")));
            options.extend(self.lazy_refcounts.map(|on| format!("lazy_refcounts={}", switch(on))));
            options.extend(self.extended_l2.map(|on| format!("extended_l2={}", switch(on))));
            options.extend(self.compression_type.as_ref().map(|name| format!("compression_type={}", escape(name))));
        }
        options.join(",")
    }
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

fn query(host: &Host, path: &Path, format: Option<&str>) -> Result<ImageInfo> {
    // qemu-img says "Could not open" for everything; a missing file deserves its own kind.
    host.file(path)?;
    let mut args = ["info", "--output=json", "-U"].map(OsString::from).to_vec();
    if let Some(format) = format {
        args.extend(["-f", format].map(OsString::from));
    }
    args.extend(["--".into(), file_name(path)]);
    let output = host.run(TOOL, &args).map_err(|error| error.path(path))?;
    let json = String::from_utf8(output)
        .map_err(|error| Error::new(Kind::Protocol, "qemu-img info is not UTF-8").path(path).caused_by(error))?;
    parse(json).map_err(|error| error.path(path))
}

/// Creates a qcow2 image of `size` bytes. The file must not exist.
///
/// # Errors
/// [`Kind::Busy`] if it exists; what `qemu-img` complains about.
pub fn create(path: &Path, size: u64, options: &CreateOptions) -> Result<()> {
    // qemu-img itself would overwrite what is there.
    Host::Local.reserve(path)?;
    let mut command = process::command(TOOL);
    command.args(["create", "-q", "-f", "qcow2", "-o"]).arg(options.option_list());
    command.arg("--").arg(file_name(path)).arg(size.to_string());
    // With preallocation it lasts as long as that.
    process::run_until(command, &Cancel::new()).map_err(|error| {
        // The empty file is ours.
        let _ = std::fs::remove_file(path);
        error.path(path)
    })
}

/// Writes into the qcow2 image at `path` that its data file is called `data_file` from now on. The one it names
/// so far must still be there.
///
/// # Errors
/// What `qemu-img` complains about.
pub fn rename_data_file(host: &Host, path: &Path, data_file: &Path) -> Result<()> {
    let mut options = OsString::from("data_file=");
    options.push(doubled_commas(data_file));
    let mut args = ["amend", "-q", "-f", "qcow2", "-o"].map(OsString::from).to_vec();
    args.extend([options, "--".into(), file_name(path)]);
    host.run_to_end(TOOL, &args).map(drop).map_err(|error| error.path(path))
}

/// As [`create`], on `host`.
///
/// # Errors
/// As for [`create`].
pub fn create_on(host: &Host, path: &Path, size: u64, options: &CreateOptions) -> Result<()> {
    match host.is_local() {
        true => create(path, size, options),
        false => create_there(host, path, size, "qcow2", options.option_list()),
    }
}

/// Creates a raw image of `size` bytes on another host.
///
/// # Errors
/// As for [`create`].
pub fn create_raw_on(host: &Host, path: &Path, size: u64, preallocation: Preallocation) -> Result<()> {
    create_there(host, path, size, "raw", format!("preallocation={}", preallocation.name()).into())
}

fn create_there(host: &Host, path: &Path, size: u64, format: &str, options: OsString) -> Result<()> {
    host.reserve(path)?;
    let mut args = ["create", "-q", "-f", format, "-o"].map(OsString::from).to_vec();
    args.extend([options, "--".into(), file_name(path), size.to_string().into()]);
    host.run(TOOL, &args).map(drop).map_err(|error| {
        // The empty file is ours.
        let _ = host.remove(path);
        error.path(path)
    })
}

/// Copies the qcow2 image `from` into a new, compressed one that is created with `options`. Its size
/// need not be a multiple of the cluster size.
///
/// # Errors
/// [`Kind::Busy`] if `path` exists, [`Kind::Cancelled`]; what `qemu-img` complains about.
pub fn compress(from: &Path, path: &Path, options: &CreateOptions, cancel: &Cancel) -> Result<()> {
    // qemu-img itself would overwrite what is there.
    Host::Local.reserve(path)?;
    let mut command = process::command(TOOL);
    command.args(["convert", "-q", "-c", "-f", "qcow2", "-O", "qcow2", "-o"]).arg(options.option_list());
    command.arg("--").arg(file_name(from)).arg(file_name(path));
    process::run_until(command, cancel).map_err(|error| {
        // What there is of it is ours.
        let _ = std::fs::remove_file(path);
        error.path(path)
    })
}

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
    host.file(path)?;
    let mut args = ["info", "--output=json", "-U", "--backing-chain", "-f", "qcow2", "--"].map(OsString::from).to_vec();
    args.push(file_name(path));
    let output = host.run(TOOL, &args).map_err(|error| error.path(path))?;
    parse_bitmaps(&output).map_err(|error| error.path(path))
}

fn parse_bitmaps(json: &[u8]) -> Result<Vec<ImageBitmaps>> {
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

fn parse(json: String) -> Result<ImageInfo> {
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

/// A file name argument that QEMU takes for a path, whatever characters it has: `nbd:x` would be a
/// protocol, `-x` an option. A slash before the colon is enough; the prefix `file:` would do as
/// well, but refuses block devices.
pub(super) fn file_name(path: &Path) -> OsString {
    if path.is_absolute() { path.into() } else { Path::new(".").join(path).into() }
}

/// A value within QEMU's `key=value,key=value` lists: commas are doubled.
pub(super) fn escape(value: impl AsRef<OsStr>) -> String {
    value.as_ref().to_string_lossy().replace(',', ",,")
}

/// The `--image-opts` text that opens `path` as `format`, by drivers named in full: nothing is
/// guessed from the content or from the name.
pub(super) fn image_opts(path: &Path, format: &str, compress: bool) -> Result<OsString> {
    let is_device = path
        .metadata()
        .map(|metadata| std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type()))
        .map_err(|error| Error::io("open", error).path(path))?;
    Ok(protocol_opts(path, format, compress, if is_device { "host_device" } else { "file" }))
}

/// As [`image_opts`] of a regular file, which may be on another host.
pub fn file_opts(path: &Path, format: &str, compress: bool) -> OsString {
    protocol_opts(path, format, compress, "file")
}

fn protocol_opts(path: &Path, format: &str, compress: bool, protocol: &str) -> OsString {
    let format = escape(format);
    let mut options = OsString::from(if compress {
        format!("driver=compress,file.driver={format},file.file.driver={protocol},file.file.filename=")
    } else {
        format!("driver={format},file.driver={protocol},file.filename=")
    });
    options.push(doubled_commas(path));
    options
}

/// A path within QEMU's lists.
fn doubled_commas(path: &Path) -> OsString {
    let mut name = Vec::with_capacity(path.as_os_str().len());
    for &byte in path.as_os_str().as_bytes() {
        name.extend(std::iter::repeat_n(byte, if byte == b',' { 2 } else { 1 }));
    }
    OsString::from_vec(name)
}

#[cfg(test)]
#[path = "img_tests.rs"]
mod tests;
