//! `virtkeep ls`.

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};

use super::guest::{self, Guest};
use super::place::Place;
use super::text::shown;
use crate::cli::files::Ls;
use crate::commands::Session;
use crate::commands::print::print;
use crate::error::{self, Error, Kind};
use crate::exit::Exit;
use crate::guestfs;
use crate::guestfs::files::{self, Entry, Kinds};
use crate::guestfs::volumes::System;
use crate::units::format_bytes;

/// Lists.
pub fn run(args: &Ls, session: &Session) -> Result<Exit> {
    guestfs::check()?;
    let place = args.path.as_deref().map(Place::parse).transpose()?;
    let text = guest::with(&args.point, &place, session, |guest| {
        Ok(match &place {
            Some(place) => list(guest, place, args)?,
            None => overview(guest, args.json)?,
        })
    })?;
    print(&text)?;
    Ok(Exit::Done)
}

fn list(guest: &mut Guest, place: &Place, args: &Ls) -> error::Result<String> {
    guest.enter(place)?;
    let at_place = |error: Error| match error.kind() {
        Kind::NotFound => Error::new(Kind::NotFound, format!("{}: there is no such file", place.shown()))
            .hint("`virtkeep ls` of the directory above shows what there is"),
        _ => error,
    };
    let stat = files::stat(&mut guest.shell, &place.path, place.is_directory).map_err(at_place)?;
    let entries = if stat.kind() == Kinds::Directory {
        files::list(&mut guest.shell, &place.path, args.recursive)?
    } else {
        let target = match stat.kind() {
            Kinds::Link => Some(files::target(&mut guest.shell, &place.path)?),
            _ => None,
        };
        vec![Entry { name: place.file_name()?.to_vec(), stat, target }]
    };
    if args.json {
        let entries: Vec<Value> = entries.iter().map(to_json).collect();
        return Ok(format!("{:#}\n", json!({ "path": place.shown(), "entries": entries })));
    }
    Ok(to_lines(&entries))
}

/// As `ls -ln` does it, without the number of links.
fn to_lines(entries: &[Entry]) -> String {
    let size = |entry: &Entry| match entry.stat.kind() {
        Kinds::Special('b' | 'c') => {
            format!("{}, {}", rustix::fs::major(entry.stat.rdev), rustix::fs::minor(entry.stat.rdev))
        }
        _ => entry.stat.size.to_string(),
    };
    let width = |text: &dyn Fn(&Entry) -> String| entries.iter().map(|entry| text(entry).len()).max().unwrap_or(0);
    let uids = width(&|entry| entry.stat.uid.to_string());
    let gids = width(&|entry| entry.stat.gid.to_string());
    let sizes = width(&size);
    let line = |entry: &Entry| {
        let Entry { name, stat, target } = entry;
        let target = target.as_ref().map(|target| format!(" -> {}", shown(target))).unwrap_or_default();
        format!(
            "{} {:uids$} {:gids$} {:>sizes$} {} {}{target}\n",
            mode(entry),
            stat.uid,
            stat.gid,
            size(entry),
            time(stat.mtime),
            shown(name)
        )
    };
    entries.iter().map(line).collect()
}

/// `-rwxr-sr-t`
fn mode(entry: &Entry) -> String {
    let mode = entry.stat.mode;
    let mut text = String::from(match entry.stat.kind() {
        Kinds::File => '-',
        Kinds::Directory => 'd',
        Kinds::Link => 'l',
        Kinds::Special(letter) => letter,
    });
    for (shift, special, mark) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => mark,
            (false, true) => mark.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) => format!("@{seconds}"),
    }
}

fn to_json(entry: &Entry) -> Value {
    let Entry { name, stat, target } = entry;
    let kind = match stat.kind() {
        Kinds::File => "file",
        Kinds::Directory => "directory",
        Kinds::Link => "symlink",
        Kinds::Special('c') => "character device",
        Kinds::Special('b') => "block device",
        Kinds::Special('p') => "fifo",
        Kinds::Special('s') => "socket",
        Kinds::Special(_) => "unknown",
    };
    let mut value = json!({
        "type": kind,
        "mode": format!("{:04o}", stat.mode & 0o7777),
        "uid": stat.uid,
        "gid": stat.gid,
        "size": stat.size,
        "mtime": jiff::Timestamp::from_second(stat.mtime).map(|time| time.to_string()).ok(),
    });
    text_to_json(&mut value, "name", name);
    if let Some(target) = target {
        text_to_json(&mut value, "target", target);
    }
    value
}

/// What is no UTF-8 stands there in base64, too.
fn text_to_json(value: &mut Value, field: &str, bytes: &[u8]) {
    value[field] = json!(String::from_utf8_lossy(bytes));
    if std::str::from_utf8(bytes).is_err() {
        value[format!("{field}_base64")] = json!(STANDARD.encode(bytes));
    }
}

/// What is on the disks.
fn overview(guest: &mut Guest, as_json: bool) -> error::Result<String> {
    let systems: Vec<System> = guest.systems()?.to_vec();
    let mounted = |device: &str| -> Vec<&str> {
        let mounts = systems.iter().flat_map(|system| &system.mounts);
        mounts.filter(|(_, of)| of == device).map(|(place, _)| place.as_str()).collect()
    };
    if as_json {
        let volumes: Vec<Value> = guest
            .volumes
            .iter()
            .map(|volume| {
                json!({
                    "name": volume.name, "type": volume.content, "size": volume.size, "label": volume.label,
                    "disks": volume.disks, "encrypted": volume.is_encrypted(), "mounted": mounted(&volume.device),
                })
            })
            .collect();
        let systems: Vec<Value> = systems
            .iter()
            .map(|system| {
                let mounts: serde_json::Map<String, Value> =
                    system.mounts.iter().map(|(place, device)| (place.clone(), json!(guest.name_of(device)))).collect();
                json!({ "name": system.name, "root": guest.name_of(&system.root), "mounts": mounts })
            })
            .collect();
        return Ok(format!("{:#}\n", json!({ "disks": guest.targets, "volumes": volumes, "systems": systems })));
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["NAME", "TYPE", "SIZE", "LABEL", "DISKS", "MOUNTED AT"]);
    for volume in &guest.volumes {
        let note = match mounted(&volume.device).join(", ") {
            _ if volume.is_encrypted() => format!("(encrypted: --key {}=FILE)", volume.name),
            places if places.is_empty() => "-".to_owned(),
            places => places,
        };
        let disks: Vec<&str> = volume.disks.iter().map(String::as_str).collect();
        table.add_row([
            shown(volume.name.as_bytes()),
            shown(volume.content.as_bytes()),
            volume.size.map_or("-".to_owned(), format_bytes),
            volume.label.as_ref().map_or("-".to_owned(), |label| shown(label.as_bytes())),
            disks.join(","),
            shown(note.as_bytes()),
        ]);
    }
    let mut text = String::new();
    for system in &systems {
        text.push_str(&format!("{} on {}\n", shown(system.name.as_bytes()), guest.name_of(&system.root)));
    }
    if guest.volumes.is_empty() {
        return Ok(format!("{text}Nothing that is known is on {}.\n", guest.targets.join(", ")));
    }
    Ok(format!("{text}{}\n", table.trim_fmt()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guestfs::files::Stat;

    fn entry(name: &[u8], mode: u32, size: u64) -> Entry {
        let stat = Stat { mode, size, uid: 10, ..Stat::default() };
        Entry { name: name.to_vec(), stat, target: None }
    }

    #[test]
    fn lines_are_those_of_ls() {
        for (bits, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o041_777, "drwxrwxrwt"),
            (0o104_755, "-rwsr-xr-x"),
            (0o106_640, "-rwSr-S---"),
            (0o120_777, "lrwxrwxrwx"),
            (0o060_660, "brw-rw----"),
        ] {
            assert_eq!(mode(&entry(b"x", bits, 0)), text);
        }
        let lines = to_lines(&[entry(b"a\nb", 0o100_644, 7), entry(b"c", 0o100_600, 1234)]);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("-rw-r--r-- 10 0    7 ") && lines[0].ends_with(" a\\nb"), "{lines:?}");
    }
}
