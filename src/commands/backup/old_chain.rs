//! The chain that a new full replaces. libvirt refuses a checkpoint name that exists: before the job
//! only the one name goes that the run needs, everything else after the commit.

use anyhow::Result;

use super::plan::Plan;
use crate::error;
use crate::libvirt::checkpoint;
use crate::libvirt::domain::Domain;

/// Frees the one name that a new chain needs before its job can begin.
pub fn free_name(domain: &Domain, plan: &Plan) -> Result<()> {
    let Some(old) = plan.old_chain.iter().find(|old| old.name == plan.checkpoint) else { return Ok(()) };
    let whose = old.description.as_deref().unwrap_or("made by another tool or an older set");
    tracing::info!("this full backup ends the chain of checkpoint {} ({whose})", old.name);
    if plan.old_chain.len() == 1 {
        tracing::info!("should it fail, the next run of that chain will be a full, too");
    }
    checkpoint::discard(domain, old)?;
    Ok(())
}

/// A new chain ends the old one, now that it is committed.
pub fn remove(domain: &Domain, plan: &Plan) {
    for checkpoint in plan.old_chain.iter().filter(|old| old.name != plan.checkpoint) {
        match checkpoint::discard(domain, checkpoint) {
            Ok(_) => tracing::debug!("removed checkpoint {} of the old chain", checkpoint.name),
            Err(error) => {
                tracing::warn!("checkpoint {} of the old chain stays: {}", checkpoint.name, error::report(&error))
            }
        }
    }
}
