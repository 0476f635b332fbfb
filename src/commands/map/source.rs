//! The disks that a map serves.

use anyhow::Result;

use crate::chain_device::ChainDevice;
use crate::cli::map::Map;
use crate::commands::Session;
use crate::commands::chains;
use crate::commands::restore::source::Source;

/// Opens them, and where the machine is to run, what there is beside its disks.
pub fn open(args: &Map, session: &Session) -> Result<(Vec<ChainDevice>, Option<Source>)> {
    let (chains, point) = chains::open(&args.chains, session)?;
    let source = match point.filter(|_| args.boot.boot) {
        Some((catalogue, point)) => Some(Source::of_point(catalogue, point)?),
        None => None,
    };
    Ok((chains, source))
}
