//! The extents as `nbdinfo` reports them, to be compared with our own: `-q` of virtnbdbackup, which takes them from
//! there. Here they prove ours, or fail the run.

use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Kind as ErrorKind, Result};
use crate::extent::{self, Extent, Kind};
use crate::nbd::block_status::ALLOCATION;
use crate::phrases::CLASSIC;
use crate::qemu::process;

const TOOL: &str = "nbdinfo";

/// Longer than any list of extents takes.
const LIMIT: Duration = Duration::from_secs(600);

/// More than the longest list is, with a hundred bytes for each extent: ten million.
const MOST: u64 = 1 << 30;

/// `NBD_STATE_ZERO` of base:allocation.
const STATE_ZERO: u64 = 1 << 1;

/// Compares `ours`, which covers the disk, with what nbdinfo says of the export at `uri` and its dirty `bitmap`.
///
/// # Errors
/// [`ErrorKind::Protocol`] with the first difference; [`ErrorKind::NotFound`] where there is no nbdinfo.
pub fn compare(target: &str, uri: &str, bitmap: Option<&str>, ours: &[Extent]) -> Result<()> {
    tracing::info!(target: CLASSIC, disk = target, at = "root disk - _getExtentHandler", "Using qemu tools to query extents");
    let mut theirs = map(uri, ALLOCATION, |flags| if flags & STATE_ZERO == 0 { Kind::Data } else { Kind::Zero })?;
    if let Some(bitmap) = bitmap {
        let dirty = map(uri, bitmap, |flags| if flags == 0 { Kind::Clean } else { Kind::Data })?;
        theirs = only_dirty(&theirs, &dirty);
    }
    let mut normal = Vec::new();
    ours.iter().for_each(|extent| extent::push(&mut normal, *extent));
    match normal.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs) {
        None if normal.len() == theirs.len() => {
            tracing::info!("{target}: nbdinfo reports the same {} extents", theirs.len());
            Ok(())
        }
        different => {
            let at = different.map_or_else(|| normal.len().min(theirs.len()) as u64, |(ours, _)| ours.offset);
            Err(Error::new(ErrorKind::Protocol, "nbdinfo reports other extents of the disk than were read").at(at))
        }
    }
}

/// One context of the export, as a list.
fn map(uri: &str, context: &str, kind: impl Fn(u64) -> Kind) -> Result<Vec<Extent>> {
    let mut command = process::command(TOOL);
    command.arg("--json").arg(format!("--map={context}")).arg(uri);
    let ended = process::output(command, LIMIT, MOST)?;
    if !ended.status.success() {
        return Err(process::failure(TOOL, ended.status, &ended.stderr));
    }
    parse(&ended.stdout, kind).ok_or_else(|| Error::new(ErrorKind::Protocol, "nbdinfo answers in an unknown way"))
}

fn parse(json: &[u8], kind: impl Fn(u64) -> Kind) -> Option<Vec<Extent>> {
    let entries: Vec<Value> = serde_json::from_slice(json).ok()?;
    let mut list = Vec::new();
    for entry in entries {
        let number = |key: &str| entry.get(key)?.as_u64();
        extent::push(&mut list, Extent::new(number("offset")?, number("length")?, kind(number("type")?)));
    }
    Some(list)
}

/// `content` where `dirty` says so; clean elsewhere. Both cover the disk.
fn only_dirty(content: &[Extent], dirty: &[Extent]) -> Vec<Extent> {
    let mut list = Vec::new();
    for range in dirty {
        for part in extent::clip(content, range.range()) {
            let kind = if range.kind() == Kind::Clean { Kind::Clean } else { part.kind() };
            extent::push(&mut list, part.with_kind(kind));
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_ranges_keep_their_content() {
        let content = [Extent::data(0, 8), Extent::zero(8, 8), Extent::data(16, 4)];
        let dirty = [Extent::clean(0, 4), Extent::data(4, 8), Extent::clean(12, 6), Extent::data(18, 2)];
        let expected =
            [Extent::clean(0, 4), Extent::data(4, 4), Extent::zero(8, 4), Extent::clean(12, 6), Extent::data(18, 2)];
        assert_eq!(only_dirty(&content, &dirty), expected);
    }

    #[test]
    fn maps_are_read_and_anything_else_is_refused() {
        let json = br#"[{ "offset": 0, "length": 4, "type": 0, "description": "data" },
            { "offset": 4, "length": 4, "type": 3, "description": "hole,zero" }]"#;
        let kind = |flags| if flags == 0 { Kind::Data } else { Kind::Zero };
        assert_eq!(parse(json, kind).unwrap(), [Extent::data(0, 4), Extent::zero(4, 4)]);
        for bad in [&b""[..], b"{}", b"[{}]", br#"[{"offset": -1, "length": 1, "type": 0}]"#] {
            assert_eq!(parse(bad, kind), None);
        }
    }
}
