//! What a backup leaves for those who watch it, and what it calls.

mod hooks;
mod journal;
mod log;
mod metrics;
mod progress;
mod report;

use std::path::Path;

use serde_json::Value;

/// A report.
#[track_caller]
fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The permissions of a file.
fn mode(path: &Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777
}
