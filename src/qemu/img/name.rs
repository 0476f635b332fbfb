//! How QEMU's programs are told the name of an image.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::error::{Error, Result};

/// A file name argument that QEMU takes for a path, whatever characters it has: `nbd:x` would be a
/// protocol, `-x` an option. A slash before the colon is enough; the prefix `file:` would do as
/// well, but refuses block devices.
pub fn file_name(path: &Path) -> OsString {
    if path.is_absolute() { path.into() } else { Path::new(".").join(path).into() }
}

/// A value within QEMU's `key=value,key=value` lists: commas are doubled.
pub fn escape(value: impl AsRef<OsStr>) -> String {
    value.as_ref().to_string_lossy().replace(',', ",,")
}

/// The `--image-opts` text that opens `path` as `format`, by drivers named in full: nothing is
/// guessed from the content or from the name.
pub fn image_opts(path: &Path, format: &str, compress: bool) -> Result<OsString> {
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
pub fn doubled_commas(path: &Path) -> OsString {
    let mut name = Vec::with_capacity(path.as_os_str().len());
    for &byte in path.as_os_str().as_bytes() {
        name.extend(std::iter::repeat_n(byte, if byte == b',' { 2 } else { 1 }));
    }
    OsString::from_vec(name)
}
