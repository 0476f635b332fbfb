//! Oracles that are not ours.

use std::path::Path;

use super::run;

/// Fails the test unless `image` shows the guest exactly what the raw `reference` holds.
#[track_caller]
pub fn compare(image: &Path, format: &str, reference: &Path) {
    // -s: the sizes too, a longer image with zeroes at the end is not the same disk.
    run("qemu-img", &[&"compare", &"-s", &"-f", &format, &"-F", &"raw", &image, &reference]).succeeds();
}

/// The guest's view of an image as bytes; for small ones.
#[track_caller]
pub fn content(image: &Path, format: &str) -> Vec<u8> {
    let raw = tempfile::NamedTempFile::new().unwrap();
    run("qemu-img", &[&"convert", &"-f", &format, &"-O", &"raw", &image, &raw.path()]).succeeds();
    std::fs::read(raw.path()).unwrap()
}
