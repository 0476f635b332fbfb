//! Two sets of messages beside the common ones. virtkeep and the drop-in commands (`virtnbdbackup` and the
//! others) share one engine, and scripts look for the very words of the latter: where those don't suit
//! virtkeep's own log, the event has one of these targets, and only one of the two shows it.
//!
//! A phrase may have the fields `at` (`"root disk - backup"`: where virtnbdbackup says it) and `disk` (which it
//! names as the thread).

/// Target of what only the drop-in commands say.
pub const CLASSIC: &str = "virtnbdbackup";

/// Target of what only virtkeep itself says: the drop-in commands have a phrase of their own for it.
pub const OWN: &str = "virtkeep::own";

/// A number of bytes as virtnbdbackup writes it: `4.1MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1}{}B", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_look_as_virtnbdbackup_writes_them() {
        for (bytes, text) in [(0, "0.0B"), (262_144, "256.0KiB"), (4_259_840, "4.1MiB"), (u64::MAX, "16.0EiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
