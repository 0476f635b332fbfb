//! The JSON in a stream's meta frame: which disk, which backup, how it is stored.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::stream::codec::Compression;

/// Longest JSON we read: real ones have a few hundred bytes, and it is read before anything about
/// the file is proven.
pub const MAX_LEN: u64 = crate::units::MIB;

/// Sizes above this are refused: QEMU and the kernel count bytes in signed 64 bits.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Longest name of a disk.
const MAX_NAME: usize = 64;

/// What marks a stream as ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Version of what we add to the format, 1.
    pub format: u32,
    /// The run that wrote the stream.
    pub run: Uuid,
    /// Whether the stream has an index. If it says so and has none, it is damaged.
    pub index: bool,
}

/// What a stream says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of the guest's disk.
    pub virtual_size: u64,
    /// Guest bytes carried: the sum over the data frames.
    pub data_size: u64,
    /// Local time without a zone, as written.
    pub date: String,
    /// Target name of the disk: `vda`.
    pub disk_name: String,
    /// Format of the source image: `qcow2` or `raw`.
    pub disk_format: String,
    /// The checkpoint, as named by the rules of the backup level.
    pub checkpoint_name: String,
    /// The checkpoint that this stream builds on; empty for a full.
    pub parent_checkpoint: String,
    /// Whether the stream holds only what changed since the parent.
    pub incremental: bool,
    /// How the payloads are stored.
    pub compression: Compression,
    /// 1 before virtnbdbackup knew compression, 2 since.
    pub stream_version: u64,
    /// Set in streams of ours.
    pub own: Option<Own>,
}

impl Meta {
    /// Whether the stream announces an index.
    pub fn has_index(&self) -> bool {
        self.own.is_some_and(|own| own.index)
    }

    /// The JSON, as it stands in the file.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) when the values would not be read back.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check().map_err(|error| Error::usage(error.to_string()))?;
        let json = serde_json::to_vec(self).map_err(|error| Error::usage("encode meta").caused_by(error))?;
        if json.len() as u64 > MAX_LEN { Err(Error::usage("meta is too long")) } else { Ok(json) }
    }

    /// What `json` says. Keys may be missing where old versions did without, be spelled with dashes
    /// (`disk-name`), and unknown ones are ignored.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt) for what is not such JSON or makes no sense,
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) for formats from the future.
    pub fn decode(json: &[u8]) -> Result<Self> {
        let value: Value =
            serde_json::from_slice(json).map_err(|error| Error::corrupt("meta is not JSON").caused_by(error))?;
        let Value::Object(map) = value else {
            return Err(Error::corrupt("meta is not a JSON object"));
        };
        let keys = Keys(&map);
        let meta = Self {
            virtual_size: keys.number("virtualSize")?,
            data_size: keys.number("dataSize")?,
            date: keys.text("date")?,
            disk_name: keys.text("diskName")?,
            disk_format: keys.text("diskFormat")?,
            checkpoint_name: keys.text("checkpointName")?,
            parent_checkpoint: keys.text("parentCheckpoint")?,
            incremental: keys.flag("incremental")?,
            compression: keys.compression()?,
            stream_version: if keys.get("streamVersion").is_some() { keys.number("streamVersion")? } else { 1 },
            own: keys.own()?,
        };
        meta.check()?;
        Ok(meta)
    }

    fn check(&self) -> Result<()> {
        for (key, size) in [("virtualSize", self.virtual_size), ("dataSize", self.data_size)] {
            if size > MAX_SIZE {
                return Err(Error::corrupt(format!("meta: {key} is absurd: {size}")));
            }
        }
        if self.data_size > self.virtual_size {
            return Err(Error::corrupt(format!(
                "meta: dataSize {} is more than virtualSize {}",
                self.data_size, self.virtual_size
            )));
        }
        // The name becomes part of file names and of messages.
        let name = &self.disk_name;
        if name.is_empty()
            || name.len() > MAX_NAME
            || name.starts_with('.')
            || name.contains('/')
            || name.chars().any(char::is_control)
        {
            return Err(Error::corrupt(format!("meta: diskName {name:?} is not a target name")));
        }
        if !(1..=2).contains(&self.stream_version) {
            return Err(Error::unsupported(format!("meta: streamVersion {} is not known", self.stream_version)));
        }
        match self.own {
            Some(own) if own.format != 1 => {
                Err(Error::unsupported(format!("written in format {} of a newer virtkeep", own.format))
                    .hint("use the virtkeep release that wrote it, or a newer one"))
            }
            _ => Ok(()),
        }
    }
}

impl Serialize for Meta {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("virtualSize", &self.virtual_size)?;
        map.serialize_entry("dataSize", &self.data_size)?;
        map.serialize_entry("date", &self.date)?;
        map.serialize_entry("diskName", &self.disk_name)?;
        map.serialize_entry("diskFormat", &self.disk_format)?;
        map.serialize_entry("checkpointName", &self.checkpoint_name)?;
        map.serialize_entry("compressionMethod", "lz4")?;
        match self.compression {
            Compression::None => map.serialize_entry("compressed", &false)?,
            Compression::Lz4 { level } => map.serialize_entry("compressed", &level)?,
        }
        map.serialize_entry("parentCheckpoint", &self.parent_checkpoint)?;
        map.serialize_entry("incremental", &self.incremental)?;
        map.serialize_entry("streamVersion", &self.stream_version)?;
        if let Some(own) = self.own {
            let own = serde_json::json!({"format": own.format, "index": own.index, "run": own.run.to_string()});
            map.serialize_entry("virtkeep", &own)?;
        }
        map.end()
    }
}

/// Lenient access to the object: old versions of virtnbdbackup differ in types and spelling.
struct Keys<'m>(&'m Map<String, Value>);

impl Keys<'_> {
    /// The value of `key`, or of its spelling with dashes; `null` counts as missing.
    fn get(&self, key: &str) -> Option<&Value> {
        let dashed = || {
            key.chars().fold(String::new(), |mut dashed, c| {
                if c.is_ascii_uppercase() {
                    dashed.push('-');
                }
                dashed.push(c.to_ascii_lowercase());
                dashed
            })
        };
        self.0.get(key).or_else(|| self.0.get(&dashed())).filter(|value| !value.is_null())
    }

    fn number(&self, key: &str) -> Result<u64> {
        match self.get(key) {
            Some(value) => value.as_u64().ok_or_else(|| bad(key, value)),
            None => Err(Error::corrupt(format!("meta lacks {key}"))),
        }
    }

    /// A string; missing or `false` (very old versions, for "none") is the empty one.
    fn text(&self, key: &str) -> Result<String> {
        match self.get(key) {
            None | Some(Value::Bool(false)) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(value) => Err(bad(key, value)),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(bad(key, value)),
        }
    }

    fn compression(&self) -> Result<Compression> {
        let compression = match self.get("compressed") {
            None | Some(Value::Bool(false)) => return Ok(Compression::None),
            Some(Value::Bool(true)) => Compression::Lz4 { level: 2 },
            Some(value) => match value.as_i64().ok_or_else(|| bad("compressed", value))? {
                0 => return Ok(Compression::None),
                level => Compression::Lz4 { level: level.clamp(1, 16) as u8 },
            },
        };
        match self.text("compressionMethod")?.as_str() {
            "lz4" | "" => Ok(compression),
            other => Err(Error::unsupported(format!("meta: compressionMethod {other:?} is not known"))),
        }
    }

    fn own(&self) -> Result<Option<Own>> {
        let value = match self.0.get("virtkeep") {
            None => return Ok(None),
            Some(value) => value,
        };
        let own = (|| {
            Some(Own {
                format: u32::try_from(value.get("format")?.as_u64()?).ok()?,
                run: Uuid::try_parse(value.get("run")?.as_str()?).ok()?,
                index: value.get("index")?.as_bool()?,
            })
        })();
        own.map(Some).ok_or_else(|| bad("virtkeep", value))
    }
}

fn bad(key: &str, value: &Value) -> Error {
    let mut text = value.to_string();
    if text.len() > 100 {
        text = text.chars().take(80).chain("…".chars()).collect();
    }
    Error::corrupt(format!("meta: {key} can't be {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;

    const OLD: &str = r#"{"virtual-size": 1048576, "data-size": 4096, "date": "2021-05-01T10:00:00", "disk-name": "sda",
        "checkpoint-name": "virtnbdbackup", "parent-checkpoint": false, "incremental": false, "stream-version": 1}"#;

    #[test]
    fn nonsense_is_refused() {
        let good = r#"{"virtualSize": 10, "dataSize": 5, "diskName": "vda"}"#;
        Meta::decode(good.as_bytes()).unwrap();
        for (bad, kind) in [
            ("", Kind::Corrupt),
            ("[]", Kind::Corrupt),
            ("{}", Kind::Corrupt),
            (&good[..good.len() - 1], Kind::Corrupt),
            (&good.replace("10", "-10"), Kind::Corrupt),
            (&good.replace("10", "1e30"), Kind::Corrupt),
            (&good.replace("10", "\"10\""), Kind::Corrupt),
            (&good.replace("10", "9223372036854775808"), Kind::Corrupt),
            (&good.replace("10", "99999999999999999999"), Kind::Corrupt),
            (&good.replace("5", "11"), Kind::Corrupt),
            (&good.replace("vda", ""), Kind::Corrupt),
            (&good.replace("vda", ".."), Kind::Corrupt),
            (&good.replace("vda", "../vda"), Kind::Corrupt),
            (&good.replace("vda", "v\\u0000da"), Kind::Corrupt),
            (&good.replace("vda", "v\\nda"), Kind::Corrupt),
            (&good.replace("vda", &"v".repeat(65)), Kind::Corrupt),
            (&good.replace("}", r#", "incremental": 1}"#), Kind::Corrupt),
            (&good.replace("}", r#", "compressed": "yes"}"#), Kind::Corrupt),
            (&good.replace("}", r#", "parentCheckpoint": true}"#), Kind::Corrupt),
            (&good.replace("}", r#", "compressed": 1, "compressionMethod": "zstd"}"#), Kind::Unsupported),
            (&good.replace("}", r#", "streamVersion": 3}"#), Kind::Unsupported),
            (&good.replace("}", r#", "virtkeep": 1}"#), Kind::Corrupt),
            (&good.replace("}", r#", "virtkeep": null}"#), Kind::Corrupt),
            (&good.replace("}", r#", "virtkeep": {"format": 1, "run": "x", "index": true}}"#), Kind::Corrupt),
            (
                &good.replace(
                    "}",
                    r#", "virtkeep": {"format": 2, "run": "6f1e8b1e-5f3a-4c7e-9d0a-111111111111", "index": true}}"#,
                ),
                Kind::Unsupported,
            ),
            (&"[".repeat(100_000), Kind::Corrupt),
        ] {
            let error = Meta::decode(bad.as_bytes()).expect_err(&bad[..bad.len().min(200)]);
            assert_eq!(error.kind(), kind, "{bad:.200}: {error}");
        }
    }

    #[test]
    fn old_spellings_are_read() {
        let meta = Meta::decode(OLD.as_bytes()).unwrap();
        assert_eq!((meta.virtual_size, meta.data_size, meta.disk_name.as_str()), (1048576, 4096, "sda"));
        assert_eq!((meta.parent_checkpoint.as_str(), meta.stream_version), ("", 1));
        assert_eq!((meta.incremental, meta.compression, meta.own), (false, Compression::None, None));
        for (value, compression) in [
            ("false", Compression::None),
            ("0", Compression::None),
            ("true", Compression::Lz4 { level: 2 }),
            ("9", Compression::Lz4 { level: 9 }),
            ("-3", Compression::Lz4 { level: 1 }),
        ] {
            let json = OLD.replace("\"incremental\"", &format!("\"compressed\": {value}, \"incremental\""));
            assert_eq!(Meta::decode(json.as_bytes()).unwrap().compression, compression, "{value}");
        }
    }

    proptest! {
        #[test]
        fn decode_inverts_encode(
            sizes in (0..=MAX_SIZE, 0..=MAX_SIZE), date in ".*", name in "[a-z ü]{1,20}", checkpoints in (".*", ".*"),
            incremental: bool, level in 0..=16u8, run: Option<u128>, index: bool
        ) {
            let meta = Meta {
                virtual_size: sizes.0.max(sizes.1),
                data_size: sizes.0.min(sizes.1),
                date,
                disk_name: name,
                disk_format: "qcow2".into(),
                checkpoint_name: checkpoints.0,
                parent_checkpoint: checkpoints.1,
                incremental,
                compression: if level == 0 { Compression::None } else { Compression::Lz4 { level } },
                stream_version: 2,
                own: run.map(|run| Own { format: 1, run: Uuid::from_u128(run), index }),
            };
            prop_assert_eq!(Meta::decode(&meta.encode().unwrap()).unwrap(), meta);
        }

        #[test]
        fn any_bytes_are_survived(json in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Meta::decode(&json);
        }
    }
}
