//! `verify --deep`: every restore point, read through the chain device as a restore reads it.
//!
//! ```text
//! for each disk, streams opened once, a chain for each point
//!   for each 4 MiB of it, by one thread: point after point
//!     resolve -> without a gap? as laid over each other? -> read and prove what no point before it used
//! ```
//!
//! A block of a stream is proven once, however many points use it. A thread has a part of the disk to itself, so that
//! what is proven need only be remembered as long as it is at it.

mod disk;
mod overlay;

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};

use super::verdict::Verdict;
use crate::cli::read::Verify;
use crate::commands::Session;
use crate::error::{Error, Kind, Result};
use crate::set::catalogue::{Catalogue, Run};
use crate::set::chain;
use crate::units::{count, format_bytes};

/// What was looked at.
#[derive(Debug, Default)]
pub struct Content {
    points: BTreeSet<String>,
    /// Points with damage.
    damaged: BTreeSet<String>,
    /// Disks, each counted at every point that has it.
    disks: u64,
    /// The sum of their sizes.
    bytes: u64,
    /// The sum of what of them reads as zeroes because a stream or the size of the disk says so.
    zero: u64,
    /// Bytes of data read and proven, each once.
    read: u64,
    /// Blocks of streams with that data.
    blocks: u64,
}

/// The points that are to be looked at.
///
/// # Errors
/// [`Kind::NotFound`] for a point or a disk that the set does not have.
pub fn choose(args: &Verify, catalogue: &Catalogue) -> Result<Vec<String>> {
    let points: Vec<&Run> = match &args.until {
        Some(point) => vec![chain::find_point(catalogue, Some(point))?],
        None => catalogue.runs.iter().collect(),
    };
    let known: BTreeSet<&str> =
        points.iter().flat_map(|run| run.streams.iter().map(|stream| stream.target.as_str())).collect();
    match args.disk.iter().find(|disk| !known.contains(disk.as_str())) {
        None => Ok(points.into_iter().map(|run| run.id.clone()).collect()),
        Some(unknown) => Err(Error::new(Kind::NotFound, format!("no restore point has a disk {unknown:?}"))
            .path(catalogue.files.place())
            .hint(format!("there are {}", known.into_iter().collect::<Vec<_>>().join(", ")))),
    }
}

impl Content {
    /// Checks the content of `points`, by their ids.
    ///
    /// # Errors
    /// [`Kind::Cancelled`]; all else goes into `verdict`.
    pub fn check(
        args: &Verify,
        session: &Session,
        catalogue: &Catalogue,
        points: &[String],
        verdict: &mut Verdict,
    ) -> Result<Self> {
        let mut content = Self { points: points.iter().cloned().collect(), ..Self::default() };
        let runs: Vec<&Run> = catalogue.runs.iter().filter(|run| content.points.contains(&run.id)).collect();
        let disks: BTreeSet<&str> =
            runs.iter().flat_map(|run| run.streams.iter().map(|stream| stream.target.as_str())).collect();
        let is_wanted = |disk: &&str| args.disk.is_empty() || args.disk.iter().any(|wanted| wanted == disk);
        for target in disks.into_iter().filter(is_wanted) {
            disk::check(session, catalogue, &runs, target, &mut content, verdict)?;
        }
        Ok(content)
    }

    /// Whether that point was looked at, and is whole.
    pub fn is_whole(&self, point: &str) -> bool {
        self.points.contains(point) && !self.damaged.contains(point)
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        json!({
            "restore_points": self.points,
            "disks": self.disks,
            "bytes": self.bytes,
            "zero_bytes": self.zero,
            "read_bytes": self.read,
            "blocks": self.blocks,
        })
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} with {} of {}, {} of data in {}, each read once,",
            count(self.points.len(), "restore point"),
            format_bytes(self.bytes),
            // A disk at two points is two of them.
            count(self.disks, "image"),
            format_bytes(self.read),
            count(self.blocks, "block")
        )
    }
}
