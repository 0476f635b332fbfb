//! The disks of a restore point, or of streams that are named, for those who read them as devices.

use anyhow::Result;

use super::restore::sequence;
use super::restore::source::{open_chain, open_set, tell_unproven};
use super::{Session, whole};
use crate::chain_device::ChainDevice;
use crate::cli::chains::Chains;
use crate::error::{self, Error, Kind};
use crate::set::catalogue::{Catalogue, Run};
use crate::set::chain;

/// The disks, and the restore point that they are of.
pub type Opened = (Vec<ChainDevice>, Option<(Catalogue, Run)>);

/// Opens them, without reading data of streams that have an index, and says which restore point it is.
///
/// # Errors
/// [`Kind::NotFound`] for a disk that the point does not have; of the set and its streams.
pub fn open(args: &Chains, session: &Session) -> Result<Opened> {
    let (chains, point) = if args.file.is_empty() {
        let catalogue = open_set(&args.input)?;
        let point = chain::find_point(&catalogue, args.until.as_deref())?.clone();
        (of_point(&catalogue, &point, &args.disk, session)?, Some((catalogue, point)))
    } else {
        (vec![sequence::open(&sequence::files(&args.input, &args.file)?, session)?], None)
    };
    session.cancel.check()?;
    tell_unproven(&chains);
    Ok((chains, point))
}

fn of_point(catalogue: &Catalogue, point: &Run, disks: &[String], session: &Session) -> Result<Vec<ChainDevice>> {
    whole::check(catalogue, point, disks)?;
    let targets: Vec<&str> = point.streams.iter().map(|stream| stream.target.as_str()).collect();
    if let Some(unknown) = disks.iter().find(|disk| !targets.contains(&disk.as_str())) {
        return Err(Error::new(Kind::NotFound, format!("the restore point has no disk {unknown:?}"))
            .path(catalogue.files.place())
            .hint(format!("it has {}", targets.join(", ")))
            .into());
    }
    let is_wanted = |target: &&str| disks.is_empty() || disks.iter().any(|disk| disk == target);
    let open = |target: &str| open_chain(catalogue, point, target, session);
    Ok(targets.into_iter().filter(is_wanted).map(open).collect::<error::Result<_>>()?)
}
