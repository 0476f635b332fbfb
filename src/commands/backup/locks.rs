//! The two locks of a run, taken in this order: the domain's, the set's.

use anyhow::Result;
use uuid::Uuid;

use super::domain_lock;
use super::plan::domain_uuid;
use super::undo::Keep;
use crate::libvirt::domain::Domain;
use crate::lock::{Holder, Lock, Patience};
use crate::set::intent::Intent;
use crate::set::layout::Layout;
use crate::set::lock;
use crate::set::moment;
use crate::set::unused::Made;

/// Both locks; they end with this, or with the process.
///
/// Directories that were made for the set go with this where nothing was written to them.
#[derive(Debug)]
pub struct Locks {
    holder: Holder,
    layout: Layout,
    made: Made,
    // Dropped first: whoever waits for the domain takes this one next.
    set: Lock,
    domain: Lock,
}

impl Locks {
    /// Takes both, making the set's directories.
    ///
    /// # Errors
    /// [`Kind::Busy`](crate::error::Kind::Busy), saying who holds one.
    pub fn take(domain: &Domain, layout: &Layout, patience: &Patience) -> Result<Self> {
        let holder = Holder {
            process: std::process::id(),
            domain: domain.name().to_owned(),
            directory: layout.directory().to_owned(),
            since: moment::now().strftime("%Y-%m-%d %H:%M:%S").to_string(),
            run: None,
        };
        let domain = domain_lock::take(domain_uuid(domain)?, &holder, patience)?;
        let made = Made::of(layout);
        layout.create()?;
        let mut set = lock::take(layout, &holder, patience)?;
        // The set has its intents for that.
        set.forget_dead();
        layout.remove_temporary()?;
        Ok(Self { holder, layout: layout.clone(), made, domain, set })
    }

    /// Undoes what a dead run of the domain left for another set.
    pub fn clear_dead(&mut self, domain: &Domain, layout: &Layout, keep: Keep) {
        domain_lock::clear_dead(domain, &mut self.domain, layout, keep);
    }

    /// Nothing is left of dead runs into this set.
    pub fn forget_dead(&mut self) {
        self.domain.forget_dead();
    }

    /// Notes the run that begins now.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io).
    pub fn begin(&mut self, run: Uuid) -> Result<()> {
        self.holder.run = Some(run);
        self.domain.note(&self.holder)?;
        Ok(self.set.note(&self.holder)?)
    }

    /// After a failed run: whoever comes next must know of it if it could not be undone.
    pub fn keep_note_of(&mut self, layout: &Layout) {
        if Intent::left_behind(layout).is_ok_and(|intents| intents.is_empty()) {
            return;
        }
        self.domain.keep_note();
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        self.made.remove_if_unused(&self.layout);
    }
}
