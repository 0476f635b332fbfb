//! `virtnbdrestore -o dump`: the heads of the data files, as virtnbdrestore prints them.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::commands::foreign_raw;
use crate::commands::print::print;
use crate::error::{self, Error};
use crate::exit::Exit;
use crate::phrases::CLASSIC;
use crate::set::catalogue::Problem;
use crate::set::files::Files;
use crate::stream::head;
use crate::stream::meta::Meta;

/// Prints the heads, in the order of the runs.
pub fn run(input: &PathBuf) -> Result<Exit> {
    let at = "root files - dump";
    tracing::info!(target: CLASSIC, at, "Dumping saveset meta information");
    let catalogue = foreign_raw::open_set(Files::open(std::slice::from_ref(input))?)?;
    let mut heads: Vec<Meta> = Vec::new();
    let mut damaged = catalogue.problems.iter().any(Problem::is_damage);
    for problem in &catalogue.problems {
        tracing::error!("{}", error::report(&problem.error));
    }
    for stream in catalogue.runs.iter().flat_map(|run| &run.streams) {
        let file = catalogue.stream_file(stream)?;
        tracing::info!(target: CLASSIC, at, "{}", file.path().display());
        if stream.raw {
            tracing::info!("{} is a raw image, which has no head", file.path().display());
            continue;
        }
        match head::read(&file) {
            Ok(meta) => heads.push(meta),
            Err(error) => {
                let (path, error) = (file.path().display(), error::report(&error));
                tracing::error!(target: CLASSIC, at, "Reading metadata from [{path}] failed: [{error}]");
                damaged = true;
            }
        }
    }
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    heads.serialize(&mut serializer).map_err(|error| Error::usage("write JSON").caused_by(error))?;
    text.push(b'\n');
    print(&text)?;
    Ok(if damaged { Exit::Damage } else { Exit::Done })
}
