//! Ranges that became zero without becoming dirty: what a disk lost when it was shrunk and grown again
//! reads as zeroes, and no bitmap knows. The chain would give the old content back.

use super::base::Base;
use crate::chain_device::ChainDevice;
use crate::error::{Error, Result};
use crate::extent::{Extent, Kind, combine};
use crate::nbd::block_status;
use crate::nbd::client::Client;
use crate::set::catalogue::Catalogue;
use crate::set::chain;

/// `changed`, with what is clean, reads as zeroes and has data in the chain made a zero extent. That
/// is never wrong: it is what the guest reads now.
///
/// # Errors
/// Of the chain where it is damaged: an increment on it could not be restored.
pub fn unseen(
    catalogue: &Catalogue,
    base: &Base,
    target: &str,
    client: &mut Client,
    changed: Vec<Extent>,
) -> Result<Vec<Extent>> {
    let allocation;
    let held = if catalogue.is_of_stdout {
        // What the chain holds is somewhere else: it may be data everywhere.
        allocation = block_status::allocation(client)?;
        vec![Extent::data(0, client.size())]
    } else {
        let Some(held) = held(catalogue, base, target)? else { return Ok(changed) };
        allocation = block_status::allocation(client)?;
        held
    };
    if held.last().map(Extent::end) != allocation.last().map(Extent::end) {
        return Err(Error::incomplete("the chain's disk has another size than the domain's").disk(target));
    }
    Ok(merge(&changed, &allocation, &held))
}

fn merge(changed: &[Extent], allocation: &[Extent], held: &[Extent]) -> Vec<Extent> {
    let lost = combine(allocation, held, |now, then| match (now, then) {
        (Kind::Zero, Kind::Data) => Kind::Zero,
        _ => Kind::Clean,
    });
    combine(changed, &lost, |changed, lost| if changed == Kind::Clean { lost } else { changed })
}

/// What the chain has of the disk; none where telling would mean to read all of virtnbdbackup's
/// files.
fn held(catalogue: &Catalogue, base: &Base, target: &str) -> Result<Option<Vec<Extent>>> {
    let Some(run) = catalogue.run_of_checkpoint(&base.checkpoint) else { return Ok(None) };
    let links = chain::resolve(catalogue, run, target)?;
    if links.iter().any(|stream| catalogue.record_of(&stream.file).is_none()) {
        return Ok(None);
    }
    let chain = ChainDevice::open(catalogue, run, target)?;
    Ok(Some(chain.extents(0..chain.size())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lost_content_becomes_zero() {
        let changed = [Extent::clean(0, 30), Extent::data(30, 10), Extent::clean(40, 20)];
        let allocation = [Extent::data(0, 10), Extent::zero(10, 30), Extent::zero(40, 20)];
        let held = [Extent::data(0, 20), Extent::zero(20, 10), Extent::data(30, 15), Extent::zero(45, 15)];
        assert_eq!(
            merge(&changed, &allocation, &held),
            [
                Extent::clean(0, 10),
                Extent::zero(10, 10),
                Extent::clean(20, 10),
                Extent::data(30, 10),
                Extent::zero(40, 5),
                Extent::clean(45, 15)
            ]
        );
    }
}
