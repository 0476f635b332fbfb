//! `qemu-img`: what an image is, and a new image with the same properties.

mod bitmaps;
mod create;
mod info;
mod name;

pub use bitmaps::{ImageBitmaps, StoredBitmap, bitmaps};
pub use create::{CreateOptions, Preallocation, compress, create, create_on, create_raw_on, rename_data_file};
pub use info::{ImageInfo, Qcow2Info, info, info_as};
pub use name::file_opts;
pub(super) use name::{file_name, image_opts};

/// The tool; found in `PATH`.
pub(super) const TOOL: &str = "qemu-img";

/// Images to look at at a time: on another host each takes a session of its one login.
pub const LOOKS: usize = 4;

#[cfg(test)]
mod tests;
