//! The disks that a map serves.

use anyhow::Result;

use crate::chain_device::ChainDevice;
use crate::cli::map::Map;
use crate::commands::restore::sequence;
use crate::commands::restore::source::{Source, open_chain, open_set, tell_unproven};
use crate::commands::{Session, whole};
use crate::error::{self, Error, Kind};
use crate::set::chain;

/// Opens them, without reading data of streams that have an index; and where the machine is to run, what there is
/// beside its disks.
pub fn open(args: &Map, session: &Session) -> Result<(Vec<ChainDevice>, Option<Source>)> {
    let (chains, source) = if args.file.is_empty() {
        of_point(args, session)?
    } else {
        (vec![sequence::open(&sequence::files(&args.input, &args.file)?, session)?], None)
    };
    session.cancel.check()?;
    tell_unproven(&chains);
    Ok((chains, source))
}

fn of_point(args: &Map, session: &Session) -> Result<(Vec<ChainDevice>, Option<Source>)> {
    let catalogue = open_set(&args.input)?;
    let point = chain::find_point(&catalogue, args.until.as_deref())?;
    whole::check(&catalogue, point, &args.disk)?;
    let targets: Vec<&String> = point.streams.iter().map(|stream| &stream.target).collect();
    if let Some(unknown) = args.disk.iter().find(|disk| !targets.contains(disk)) {
        let known: Vec<&str> = targets.iter().map(|target| target.as_str()).collect();
        return Err(Error::new(Kind::NotFound, format!("the restore point has no disk {unknown:?}"))
            .path(catalogue.files.place())
            .hint(format!("it has {}", known.join(", ")))
            .into());
    }
    let wanted = targets.into_iter().filter(|target| args.disk.is_empty() || args.disk.contains(target));
    let chains = wanted.map(|target| open_chain(&catalogue, point, target, session));
    let chains = chains.collect::<error::Result<Vec<_>>>()?;
    if !args.boot.boot {
        return Ok((chains, None));
    }
    let point = point.clone();
    Ok((chains, Some(Source::of_point(catalogue, point)?)))
}
