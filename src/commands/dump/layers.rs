//! What each run of a set did to each disk, in cells.

use std::collections::BTreeSet;

use super::cells::{Cell, Scale};
use crate::chain_device::open_layer;
use crate::commands::Session;
use crate::commands::restore::source::{opening_bytes, watched};
use crate::error::{self, Error, Kind, Result};
use crate::extent::Kind as ExtentKind;
use crate::set::catalogue::{Catalogue, Run, Stream};
use crate::ui::log::on_disk;

/// One disk through all runs.
#[derive(Debug)]
pub struct Disk {
    /// Target name.
    pub target: String,
    /// The cells; as many bytes as the disk had when it was largest.
    pub scale: Scale,
    /// A row for each run, in the order of the set.
    pub rows: Vec<Row>,
}

/// One run of a disk.
#[derive(Debug)]
pub struct Row {
    /// Of the run: what `--until` takes.
    pub id: String,
    /// The level of the disk's stream: a disk can be full in an increment.
    pub level: String,
    /// When the run started.
    pub started: String,
    /// What it did.
    pub content: Content,
}

/// What a run did to a disk.
#[derive(Debug)]
pub enum Content {
    /// In cells, and in sum.
    Cells {
        /// As many as the scale has.
        cells: Vec<Cell>,
        /// Bytes of data.
        data: u64,
        /// Bytes that are said to be zero.
        zero: u64,
    },
    /// The run does not have the disk.
    Absent,
    /// Its stream can't be read: that was said.
    Damaged,
}

/// Reads the tables of all streams of the disks that are `wanted`, none: of all; `scale` makes cells of a disk's size.
///
/// # Errors
/// [`Kind::NotFound`] for a disk that no run has; [`Kind::Cancelled`]. Streams that can't be read are told, and
/// are [`Content::Damaged`].
pub fn read(
    session: &Session,
    catalogue: &Catalogue,
    wanted: &[String],
    scale: impl Fn(u64) -> Scale,
) -> Result<Vec<Disk>> {
    let streams = || catalogue.runs.iter().flat_map(|run| &run.streams);
    let known: BTreeSet<&str> = streams().map(|stream| stream.target.as_str()).collect();
    if let Some(unknown) = wanted.iter().find(|disk| !known.contains(disk.as_str())) {
        return Err(Error::new(Kind::NotFound, format!("no restore point has a disk {unknown:?}"))
            .path(catalogue.files.place())
            .hint(format!("there are {}", known.into_iter().collect::<Vec<_>>().join(", "))));
    }
    let is_wanted = |target: &&str| wanted.is_empty() || wanted.iter().any(|disk| disk == target);
    known
        .into_iter()
        .filter(is_wanted)
        .map(|target| {
            let sizes = streams().filter(|stream| stream.target == target).map(|stream| stream.virtual_size);
            let scale = scale(sizes.max().unwrap_or(0));
            let rows = catalogue.runs.iter().map(|run| row(session, catalogue, run, target, &scale));
            Ok(Disk { target: target.to_owned(), scale, rows: rows.collect::<Result<_>>()? })
        })
        .collect()
}

fn row(session: &Session, catalogue: &Catalogue, run: &Run, target: &str, scale: &Scale) -> Result<Row> {
    session.cancel.check()?;
    let _messages = on_disk(target);
    let stream = run.stream(target);
    let content = match stream.map(|stream| cells(session, catalogue, stream, scale)) {
        None => Content::Absent,
        Some(Ok(content)) => content,
        Some(Err(error)) if error.kind() == Kind::Cancelled => return Err(error),
        Some(Err(error)) => {
            tracing::error!("{}", error::report(&error));
            Content::Damaged
        }
    };
    let is_full = stream.is_some_and(|stream| stream.base.is_none()) && run.level.needs_base();
    let level = if is_full { "full".to_owned() } else { run.level.to_string() };
    Ok(Row { id: run.id.clone(), level, started: run.started.strftime("%Y-%m-%d %H:%M").to_string(), content })
}

fn cells(session: &Session, catalogue: &Catalogue, stream: &Stream, scale: &Scale) -> Result<Content> {
    let total = opening_bytes(catalogue, stream, session);
    let reader = watched(session, &stream.target, total, |opening| open_layer(catalogue, stream, opening))?;
    let size = reader.meta().virtual_size;
    let (mut cells, mut data, mut zero) = (scale.cells(size), 0u64, 0u64);
    reader.visit(0..size, &mut |extent| {
        match extent.kind() {
            ExtentKind::Data => data = data.saturating_add(extent.length()),
            ExtentKind::Zero => zero = zero.saturating_add(extent.length()),
            ExtentKind::Clean => {}
        }
        scale.add(&mut cells, extent);
    });
    Ok(Content::Cells { cells, data, zero })
}

impl Disk {
    /// Whether a stream can't be read.
    pub fn is_damaged(&self) -> bool {
        self.rows.iter().any(|row| matches!(row.content, Content::Damaged))
    }
}
