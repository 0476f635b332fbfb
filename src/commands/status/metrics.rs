//! The figures in Prometheus' text format, for the node exporter's directory of such files.

use std::fmt::Write;
use std::path::Path;

use super::health::{Condition, Health, point_in_time};
use crate::commands::published::{self, escape, gauge};
use crate::error::Result;

/// Writes the figures of all sets, as a whole or not at all.
///
/// # Errors
/// [`Kind::Io`](crate::error::Kind::Io): the old file is there, or none.
pub fn write(path: &Path, sets: &[Health]) -> Result<()> {
    published::write(path, &text(sets))
}

/// A figure of a set: its name, what it is, its value.
type OfSet = (&'static str, &'static str, fn(&Health) -> Option<f64>);

const OF_SET: [OfSet; 7] = [
    ("virtkeep_condition", "0 OK, 1 warning, 2 critical, 3 unknown.", |set| Some(set.condition.code().into())),
    ("virtkeep_healthy", "1 where the newest backup is young and whole.", |set| {
        Some(if set.condition == Condition::Ok { 1.0 } else { 0.0 })
    }),
    ("virtkeep_last_backup_timestamp_seconds", "The moment that the newest backup holds.", |set| {
        set.newest.as_ref().map(|run| point_in_time(run).timestamp().as_second() as f64)
    }),
    ("virtkeep_last_backup_duration_seconds", "How long the newest backup took.", |set| {
        let manifest = set.newest.as_ref()?.manifest.as_ref()?;
        Some(manifest.finished.duration_since(&manifest.started).as_secs_f64())
    }),
    ("virtkeep_chain_length", "Runs that a restore of the newest point reads.", |set| {
        set.chain.map(|length| length as f64)
    }),
    ("virtkeep_ended", "1 where a newer set of the domain goes on in its place.", |set| {
        Some(if set.successor.is_some() { 1.0 } else { 0.0 })
    }),
    ("virtkeep_restore_points", "Restore points in the set.", |set| Some(set.points as f64)),
];

fn text(sets: &[Health]) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    for (name, help, value) in OF_SET {
        gauge(&mut text, name, help);
        for set in sets {
            if let Some(value) = value(set) {
                let _ = writeln!(text, "{name}{{{}}} {value}", labels(set));
            }
        }
    }
    let name = "virtkeep_last_backup_bytes";
    gauge(&mut text, name, "Bytes of a disk in the newest backup: kind is the disk's size, the data read, the file.");
    for set in sets {
        for stream in set.newest.iter().flat_map(|run| &run.streams) {
            for (kind, bytes) in
                [("virtual", stream.virtual_size), ("data", stream.data_size), ("stored", stream.stored_size)]
            {
                let disk = escape(&stream.target);
                let _ = writeln!(text, "{name}{{{},disk=\"{disk}\",kind=\"{kind}\"}} {bytes}", labels(set));
            }
        }
    }
    let name = "virtkeep_raw_image_timestamp_seconds";
    gauge(&mut text, name, "The moment that the newest image of a raw disk holds, where the newest backup has none.");
    for set in sets {
        for image in &set.raw {
            let (disk, of) = (escape(&image.target), image.of.timestamp().as_second());
            let _ = writeln!(text, "{name}{{{},disk=\"{disk}\"}} {of}", labels(set));
        }
    }
    text
}

fn labels(set: &Health) -> String {
    format!("domain=\"{}\",set=\"{}\"", escape(&set.name), escape(&set.directory.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_escaped() {
        let set = Health::unknown(Path::new("/a\"b\\c\nd"), "gone".to_owned());
        let text = text(&[set]);
        assert!(text.contains("virtkeep_condition{domain=\"/a\\\"b\\\\c\\nd\",set="), "{text}");
        assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("virtkeep_")), "{text}");
    }
}
