//! New images, with the properties of others.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::TOOL;
use super::info::ImageInfo;
use super::name::{doubled_commas, escape, file_name};
use crate::cancel::Cancel;
use crate::error::Result;
use crate::host::Host;
use crate::qemu::process;

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
    pub(super) fn name(self) -> &'static str {
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

/// Creates a qcow2 image of `size` bytes, with its data file where that is missing, for the user alone. The image must
/// not exist.
///
/// # Errors
/// [`Kind::Busy`] if it exists; what `qemu-img` complains about.
pub fn create(path: &Path, size: u64, options: &CreateOptions) -> Result<()> {
    let made = reserve(&Host::Local, path, options)?;
    let mut command = process::command(TOOL);
    command.args(["create", "-q", "-f", "qcow2", "-o"]).arg(options.option_list());
    command.arg("--").arg(file_name(path)).arg(size.to_string());
    // With preallocation it lasts as long as that.
    process::run_until(command, &Cancel::new()).map_err(|error| {
        made.iter().for_each(|file| drop(Host::Local.remove(file)));
        error.path(path)
    })
}

/// Makes the empty files that `qemu-img` fills: it would overwrite what is there, and let everybody read it.
fn reserve<'p>(host: &Host, path: &'p Path, options: &'p CreateOptions) -> Result<Vec<&'p Path>> {
    host.reserve(path)?;
    let mut made = vec![path];
    if let Some((data, _)) = &options.data_file {
        // A device is there.
        let is_there = host.exists(data);
        if !is_there.inspect_err(|_| drop(host.remove(path)))? {
            host.reserve(data).inspect_err(|_| drop(host.remove(path)))?;
            made.push(data);
        }
    }
    Ok(made)
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
        false => create_there(host, path, size, "qcow2", options.option_list(), &reserve(host, path, options)?),
    }
}

/// Creates a raw image of `size` bytes on another host.
///
/// # Errors
/// As for [`create`].
pub fn create_raw_on(host: &Host, path: &Path, size: u64, preallocation: Preallocation) -> Result<()> {
    host.reserve(path)?;
    create_there(host, path, size, "raw", format!("preallocation={}", preallocation.name()).into(), &[path])
}

/// `made` are its files, empty, which go when it fails.
fn create_there(host: &Host, path: &Path, size: u64, format: &str, options: OsString, made: &[&Path]) -> Result<()> {
    let mut args = ["create", "-q", "-f", format, "-o"].map(OsString::from).to_vec();
    args.extend([options, "--".into(), file_name(path), size.to_string().into()]);
    // With preallocation it lasts as long as that.
    host.run_to_end(TOOL, &args).map(drop).map_err(|error| {
        made.iter().for_each(|file| drop(host.remove(file)));
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
