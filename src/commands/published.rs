//! Files for other programs: a monitoring agent, the node exporter. They run as other users.

use std::fmt::Write;
use std::path::Path;

use crate::error::Result;
use crate::set::layout::write_with_mode;

/// Others read it.
const MODE: u32 = 0o644;

/// Writes such a file, as a whole or not at all.
///
/// # Errors
/// [`Kind::Io`](crate::error::Kind::Io): the old file is there, or none.
pub fn write(path: &Path, text: &str) -> Result<()> {
    write_with_mode(path, text.as_bytes(), MODE)
}

/// Adds the lines before the samples of a gauge. Source, here and for [`escape`]: "Exposition formats" of Prometheus'
/// documentation.
pub fn gauge(text: &mut String, name: &str, help: &str) {
    // Writing to a string can't fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
}

/// A label's value as it stands between quotes.
pub fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
