//! Ranges that became zero without becoming dirty: what a disk lost when it was shrunk and grown again
//! reads as zeroes, and no bitmap knows. The chain would give the old content back.

use super::base::Base;
use crate::chain_device::ChainDevice;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::nbd::block_status;
use crate::nbd::client::Client;
use crate::set::catalogue::Catalogue;
use crate::set::chain;

/// What the bitmap `dirty` marks, and what it does not, reads as zeroes and has data in the chain as a zero extent.
/// That is never wrong: it is what the guest reads now.
///
/// # Errors
/// Of the chain where it is damaged: an increment on it could not be restored.
pub fn changed(
    catalogue: &Catalogue,
    base: &Base,
    target: &str,
    client: &mut Client,
    dirty: &str,
) -> Result<Vec<Extent>> {
    if catalogue.is_of_stdout {
        // What the chain holds is somewhere else: it may be data everywhere.
        return block_status::changed_since(client, dirty, |range| {
            vec![Extent::data(range.start, range.end - range.start)]
        });
    }
    let Some(chain) = held(catalogue, base, target)? else { return block_status::changed(client, dirty) };
    if chain.size() != client.size() {
        return Err(Error::incomplete("the chain's disk has another size than the domain's").disk(target));
    }
    block_status::changed_since(client, dirty, |range| chain.extents(range))
}

/// What the chain has of the disk; none where telling would mean to read all of virtnbdbackup's
/// files.
fn held(catalogue: &Catalogue, base: &Base, target: &str) -> Result<Option<ChainDevice>> {
    let Some(run) = catalogue.run_of_checkpoint(&base.checkpoint) else { return Ok(None) };
    let links = chain::resolve(catalogue, run, target)?;
    if links.iter().any(|stream| catalogue.record_of(&stream.file).is_none()) {
        return Ok(None);
    }
    ChainDevice::open(catalogue, run, target).map(Some)
}
