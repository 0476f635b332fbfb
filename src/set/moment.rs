//! Times in manifests: RFC 3339 with the offset of the host, to the microsecond. Reading them needs
//! no time zone database, which a rescue system may lack.

use jiff::fmt::temporal::{Pieces, PiecesOffset};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Now, with the offset that local time has.
pub fn now() -> Zoned {
    let now = Zoned::now();
    let offset = now.offset();
    now.with_time_zone(TimeZone::fixed(offset))
}

/// The text of a moment.
pub fn format(moment: &Zoned) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%S.%6f%:z").to_string()
}

/// Reads what [`format`] wrote.
fn parse(text: &str) -> Option<Zoned> {
    let timestamp: Timestamp = text.parse().ok()?;
    match Pieces::parse(text).ok()?.offset()? {
        PiecesOffset::Numeric(offset) => Some(timestamp.to_zoned(TimeZone::fixed(offset.offset()))),
        _ => None,
    }
}

/// For serde's `with`.
pub fn serialize<S: Serializer>(moment: &Zoned, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(moment))
}

/// For serde's `with`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zoned, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not a time with its offset")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_survive_the_round_trip() {
        for text in
            ["2026-01-02T03:04:05.000006+00:00", "2026-07-02T23:04:05.120000-09:30", "2026-07-02T23:04:05.000000+02:00"]
        {
            assert_eq!(format(&parse(text).unwrap()), text);
        }
        let now = now();
        assert_eq!(format(&parse(&format(&now)).unwrap()), format(&now));
        for bad in ["", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02T03:04:05Z", "x"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
