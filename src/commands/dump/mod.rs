//! `virtkeep dump`: the restore points of a set. Table, tree and JSON come from manifests and stream heads alone; for
//! a map the streams' tables are read.

mod cells;
mod layers;
mod map;
mod svg;
mod tree;

use std::path::Path;

use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Value, json};

use self::cells::Scale;
use self::layers::Disk;
use self::map::Page;
use super::backup::disks::owner;
use super::print::print;
use super::{Session, foreign_raw, published, whole};
use crate::cli::read::Dump;
use crate::error::{self, Error, Kind};
use crate::exit::Exit;
use crate::set::catalogue::{Catalogue, Problem, Run, Stream};
use crate::set::chain;
use crate::set::files::Files;
use crate::set::moment;
use crate::ui::screen;
use crate::units::format_bytes;

/// Prints the restore points, or draws them.
pub fn run(args: &Dump, session: &Session) -> Result<Exit> {
    let catalogue = foreign_raw::open_set(Files::open(&args.input)?)?;
    let is_drawn = args.map || args.svg.is_some();
    let catalogue = if is_drawn { catalogue.with_data()? } else { catalogue };
    let mut is_damaged = show(args, session, &catalogue)?;
    for problem in &catalogue.problems {
        tracing::warn!("{}", error::report(&problem.error));
    }
    for name in &catalogue.partial {
        tracing::warn!("{name}: left by a run that did not finish; the next backup clears what is virtkeep's");
    }
    is_damaged |= catalogue.runs.iter().any(|run| chain_length(&catalogue, run).is_err());
    Ok(if is_damaged || catalogue.problems.iter().any(Problem::is_damage) { Exit::Damage } else { Exit::Done })
}

/// Prints or draws what is asked for; true where a stream that is needed for that can't be read, which was said.
fn show(args: &Dump, session: &Session, catalogue: &Catalogue) -> Result<bool> {
    let (colour, columns) = (screen::has_colour(args.talk.nocolor, &std::io::stdout()), screen::columns());
    if args.map {
        let page = Page::new(columns, colour, catalogue.runs.iter().map(|run| short_id(&run.id)));
        let disks = layers::read(session, catalogue, &args.disk, |size| page.scale(size))?;
        print(if disks.is_empty() { NOTHING.to_owned() } else { page.draw(&disks, short_id) })?;
        return Ok(disks.iter().any(Disk::is_damaged));
    }
    if let Some(file) = &args.svg {
        let is_stdout = file == Path::new("-");
        if !is_stdout {
            refuse_special(file)?;
        }
        let disks = layers::read(session, catalogue, &args.disk, |size| Scale::fine(size, svg::CELLS))?;
        let picture = svg::draw(&disks, &title(catalogue), short_id);
        match is_stdout {
            true => print(&picture)?,
            false => published::write(file, &picture)?,
        }
        return Ok(disks.iter().any(Disk::is_damaged));
    }
    print(if args.json {
        format!("{:#}\n", to_json(catalogue))
    } else if catalogue.runs.is_empty() {
        NOTHING.to_owned()
    } else if args.tree {
        let tree = tree::draw(catalogue, columns, colour, |run| short_id(&run.id), |run| broken(catalogue, run));
        format!("{}\n{tree}", screen::plain(&title(catalogue), columns))
    } else {
        head(catalogue) + &to_table(catalogue)
    })?;
    Ok(false)
}

const NOTHING: &str = "No restore points.\n";

/// A file is replaced as a whole: a device or a directory must not be.
fn refuse_special(path: &Path) -> error::Result<()> {
    match path.symlink_metadata() {
        Ok(known) if !known.is_file() => Err(Error::new(Kind::Busy, "is no plain file")
            .path(path)
            .hint("--svg takes a new file, or - for standard output")),
        _ => Ok(()),
    }
}

/// The line above the points: whose they are.
fn head(catalogue: &Catalogue) -> String {
    format!("{}\n", screen::printable(&title(catalogue)))
}

/// The domain, where the set knows it, and the set.
fn title(catalogue: &Catalogue) -> String {
    let domain = catalogue.runs.iter().rev().find_map(|run| owner(catalogue, run)).map(|(_, name)| name);
    let place = catalogue.files.place().display().to_string();
    match domain {
        Some(domain) => format!("{domain}: {place}"),
        None => place,
    }
}

/// Why a run can't be restored.
fn broken(catalogue: &Catalogue, run: &Run) -> Option<String> {
    chain_length(catalogue, run).err().map(str::to_owned)
}

fn to_table(catalogue: &Catalogue) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["ID", "STARTED", "LEVEL", "CHECKPOINT", "DISKS", "SIZE", "GUEST BYTES", "STORED", "NEEDS"]);
    for run in &catalogue.runs {
        table.add_row([
            short_id(&run.id).to_owned(),
            run.started.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            run.level.to_string(),
            run.checkpoint.clone().unwrap_or_else(|| "-".to_owned()),
            run.streams.iter().map(named).collect::<Vec<_>>().join(","),
            sum(run, |stream| stream.virtual_size),
            sum(run, |stream| stream.data_size),
            sum(run, |stream| stream.stored_size),
            needs(catalogue, run),
        ]);
    }
    for column in 5..8 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// The first group of a UUID is enough for `--until`; other ids are short already.
fn short_id(id: &str) -> &str {
    match uuid::Uuid::parse_str(id) {
        Ok(_) => id.get(..8).unwrap_or(id),
        Err(_) => id,
    }
}

/// The disk, and what the set has of it where that is no stream.
fn named(stream: &Stream) -> String {
    if stream.raw { format!("{} (raw)", stream.target) } else { stream.target.clone() }
}

fn sum(run: &Run, size: impl Fn(&Stream) -> u64) -> String {
    format_bytes(run.sum(size))
}

/// How many runs a restore of this point reads, or why it can't be done.
pub(super) fn chain_length(catalogue: &Catalogue, run: &Run) -> Result<usize, &'static str> {
    if !whole::missing_files(catalogue, run).is_empty() {
        return Err("MISSING FILES");
    }
    let mut longest = 0;
    for stream in &run.streams {
        let chain = chain::resolve(catalogue, run, &stream.target).map_err(|_| "BROKEN CHAIN")?;
        longest = longest.max(chain.len());
        // The data is where standard output went.
        for link in chain.into_iter().filter(|_| !catalogue.is_of_stdout) {
            let size = catalogue.stream_file(link).and_then(|file| file.size()).ok();
            match size {
                None => return Err("MISSING FILES"),
                Some(size) if size != link.stored_size => return Err("DAMAGED FILES"),
                Some(_) if lacks_index(catalogue, link) => return Err("MISSING FILES"),
                Some(_) => {}
            }
        }
    }
    Ok(longest)
}

/// Whether it is a raw image of ours whose index is gone.
fn lacks_index(catalogue: &Catalogue, stream: &Stream) -> bool {
    let is_own = stream.raw && catalogue.record_of(&stream.file).is_some();
    is_own && !catalogue.index_file(stream).is_ok_and(|file| file.exists())
}

fn needs(catalogue: &Catalogue, run: &Run) -> String {
    match chain_length(catalogue, run) {
        Ok(1) => "itself".to_owned(),
        Ok(length) => format!("{length} runs"),
        Err(why) => why.to_owned(),
    }
}

fn to_json(catalogue: &Catalogue) -> Value {
    json!({
        "directory": catalogue.files.place(),
        "restore_points": catalogue.runs.iter().map(|run| point(catalogue, run)).collect::<Vec<_>>(),
        "problems": catalogue.problems.iter().map(|problem| json!({
            "file": problem.file,
            "error": error::report(&problem.error),
        })).collect::<Vec<_>>(),
        "partial": catalogue.partial,
    })
}

fn point(catalogue: &Catalogue, run: &Run) -> Value {
    json!({
        "id": run.id,
        "level": run.level,
        "checkpoint": run.checkpoint,
        "started": moment::format(&run.started),
        "domain": run.manifest.as_ref().map(|manifest| &manifest.domain),
        "domain_uuid": run.manifest.as_ref().map(|manifest| manifest.domain_uuid),
        "virtkeep": run.manifest.is_some(),
        "freeze": run.manifest.as_ref().map(|manifest| &manifest.freeze),
        "warnings": run.manifest.as_ref().map(|manifest| &manifest.warnings),
        "missing": whole::missing_files(catalogue, run).into_iter().map(|(_, file)| file).collect::<Vec<_>>(),
        "disks": run.streams.iter().map(|stream| disk(catalogue, run, stream)).collect::<Vec<_>>(),
    })
}

fn disk(catalogue: &Catalogue, run: &Run, stream: &Stream) -> Value {
    let (chain, broken) = match chain::resolve(catalogue, run, &stream.target) {
        Ok(chain) => (chain.iter().rev().map(|stream| stream.file.clone()).collect(), None),
        Err(error) => (vec![stream.file.clone()], Some(error::report(&error))),
    };
    json!({
        "target": stream.target,
        "file": stream.file,
        "base_checkpoint": stream.base,
        "virtual_size": stream.virtual_size,
        "data_size": stream.data_size,
        "stored_size": stream.stored_size,
        "raw": stream.raw,
        "chain": chain,
        "broken": broken,
    })
}
