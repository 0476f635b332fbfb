//! Raw disks that a restore point does not have: they keep no bitmap, so increments leave them out. What an
//! earlier run has of them is of another time, and is mixed with the point's disks only where that is asked for.

use super::source::Source;
use crate::cli::read::Restore;
use crate::set::catalogue::Run;

/// A raw disk of the domain that the point does not have, and the newest run before it that does.
#[derive(Debug)]
pub struct Older<'s> {
    /// Target name.
    pub target: &'s str,
    /// The run.
    pub run: &'s Run,
}

impl Older<'_> {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        format!(
            "its newest image before is of {}; --older-raw restores it, too; `-u {} -d {}` restores it alone",
            self.run.started.strftime("%Y-%m-%d %H:%M:%S"),
            self.run.id,
            self.target
        )
    }
}

/// The disks that the point lacks.
pub fn find(source: &Source) -> Vec<Older<'_>> {
    let Source::Point { catalogue, point, .. } = source else { return Vec::new() };
    // Of a domain whose XML is not there all disks may be its own.
    let domain = source.domain().ok().flatten().map(|(_, config)| config);
    let has = |target: &str| domain.as_ref().is_none_or(|config| config.disk(target).is_some());
    let position = catalogue.runs.iter().position(|run| run.id == point.id).unwrap_or(0);
    let mut older: Vec<Older<'_>> = Vec::new();
    for run in catalogue.runs[..position].iter().rev() {
        for stream in run.streams.iter().filter(|stream| stream.raw_disk) {
            let target = stream.target.as_str();
            let is_new = point.stream(target).is_none() && older.iter().all(|known| known.target != target);
            if is_new && has(target) {
                older.push(Older { target, run });
            }
        }
    }
    older
}

/// Says what the restore is about to leave out, or to mix; true if it leaves a disk out that was not excluded.
pub fn tell(args: &Restore, source: &Source, older: &[Older<'_>]) -> bool {
    let Source::Point { point, .. } = source else { return false };
    let is_wanted = |older: &&Older<'_>| args.disk.is_empty() || args.disk.iter().any(|disk| disk == older.target);
    let mut left_out = false;
    for older in older.iter().filter(is_wanted) {
        if args.older_raw {
            tracing::warn!(
                "{}: it is raw, and is restored as of {}, while the disks of the point are of {}",
                older.target,
                older.run.started.strftime("%Y-%m-%d %H:%M:%S"),
                point.started.strftime("%Y-%m-%d %H:%M:%S")
            );
        } else {
            tracing::warn!("{}: it is raw and not part of this restore point; {}", older.target, older.remedy());
            left_out = true;
        }
    }
    left_out
}
