//! Byte sizes: constants, parsing of what users type, formatting of what they read.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// 1024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1024 KiB.
pub const MIB: u64 = 1 << 20;
/// 1024 MiB.
pub const GIB: u64 = 1 << 30;
/// 1024 GiB.
pub const TIB: u64 = 1 << 40;

/// `--bytes`: of the process, as is everything that it says.
static EXACT: AtomicBool = AtomicBool::new(false);

/// From here on [`format_bytes`] gives every size to the byte.
pub fn show_exact() {
    EXACT.store(true, Ordering::Relaxed);
}

/// Formats a byte count for people: `0 B`, `512 B`, `1.5 GiB`. Binary units, one decimal; after [`show_exact`]
/// `1610612736 B`.
pub fn format_bytes(bytes: u64) -> String {
    let (unit, name) = match bytes {
        _ if EXACT.load(Ordering::Relaxed) => return format!("{bytes} B"),
        TIB.. => (TIB, "TiB"),
        GIB.. => (GIB, "GiB"),
        MIB.. => (MIB, "MiB"),
        KIB.. => (KIB, "KiB"),
        _ => return format!("{bytes} B"),
    };
    format!("{:.1} {name}", bytes as f64 / unit as f64)
}

/// A byte count to the byte, and as people read it where that says more: `0 bytes`, `1536 bytes (1.5 KiB)`.
pub fn exact(bytes: u64) -> String {
    match count(bytes, "byte") {
        short if bytes < KIB || EXACT.load(Ordering::Relaxed) => short,
        long => format!("{long} ({})", format_bytes(bytes)),
    }
}

/// Parses a byte count: digits with an optional binary suffix K, M, G or T, `KiB` and `kB` alike.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for anything else, and for a product over 64 bits.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let bad = || {
        Error::usage(format!("{text:?} is not a size"))
            .hint("sizes are bytes, or end in K, M, G or T (1024-based): 512M")
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit = match suffix.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => KIB,
        "m" | "mb" | "mib" => MIB,
        "g" | "gb" | "gib" => GIB,
        "t" | "tb" | "tib" => TIB,
        _ => return Err(bad()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(bad)
}

/// A number of things as people say it: `1 disk`, `2 disks`.
pub fn count(number: impl TryInto<u64>, thing: &str) -> String {
    match number.try_into() {
        Ok(1) => format!("1 {thing}"),
        Ok(number) => format!("{number} {thing}s"),
        Err(_) => format!("many {thing}s"),
    }
}

/// `value` rounded down to a multiple of `unit` (a power of two).
pub const fn align_down(value: u64, unit: u64) -> u64 {
    value & !(unit - 1)
}

/// `value` rounded up to a multiple of `unit` (a power of two); stays at the largest multiple
/// rather than overflow.
pub const fn align_up(value: u64, unit: u64) -> u64 {
    align_down(value.saturating_add(unit - 1), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed() {
        for bad in ["", "x", "1x", "-1", "1.5G", "99999999999999999999", "20000000T", "k"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
        for (text, bytes) in [("0", 0), ("512", 512), ("4k", 4096), ("1 MiB", MIB), ("3G", 3 * GIB), ("2tb", 2 * TIB)] {
            assert_eq!(parse_bytes(text).unwrap(), bytes, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_formatted() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (GIB, "1.0 GiB"), (5 * TIB, "5.0 TiB")] {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    #[test]
    fn things_are_counted() {
        assert_eq!(
            (count(0_u64, "disk"), count(1_usize, "disk"), count(2_u64, "disk")),
            ("0 disks".into(), "1 disk".into(), "2 disks".into())
        );
    }

    #[test]
    fn alignment() {
        assert_eq!((align_down(4097, 4096), align_up(4097, 4096), align_up(4096, 4096)), (4096, 8192, 4096));
        assert_eq!(align_up(u64::MAX, 4096), u64::MAX - 4095);
    }
}
