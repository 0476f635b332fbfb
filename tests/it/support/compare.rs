//! Oracles that are not ours.

use std::path::Path;

use super::run;

/// Fails the test unless `image` shows the guest exactly what the raw `reference` holds.
#[track_caller]
pub fn compare(image: &Path, format: &str, reference: &Path) {
    run("qemu-img", &[&"compare", &"-f", &format, &"-F", &"raw", &image, &reference]).succeeds();
    // qemu-img takes a longer image for equal when zeroes are all it has more.
    assert_eq!(virtual_size(image, format), reference.metadata().unwrap().len(), "size of {}", image.display());
}

/// The size of the disk that the guest sees.
#[track_caller]
pub fn virtual_size(image: &Path, format: &str) -> u64 {
    let info = run("qemu-img", &[&"info", &"--output=json", &"-f", &format, &image]).succeeds();
    let info: serde_json::Value = serde_json::from_str(&info.stdout).unwrap();
    info["virtual-size"].as_u64().unwrap()
}

/// The guest's view of an image as bytes; for small ones.
#[track_caller]
pub fn content(image: &Path, format: &str) -> Vec<u8> {
    let raw = tempfile::NamedTempFile::new().unwrap();
    run("qemu-img", &[&"convert", &"-f", &format, &"-O", &"raw", &image, &raw.path()]).succeeds();
    std::fs::read(raw.path()).unwrap()
}
