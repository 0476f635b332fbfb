//! The backup's side of [`crate::commands::guard`].

use std::time::Duration;

use uuid::Uuid;

use crate::cli::Hypervisor;
use crate::commands::connect;
use crate::commands::guard::{NAME, Way};
use crate::commands::minder::Minder;
use crate::error::Result;
use crate::set::intent::Held;

/// A process that lets the guest go should this one be killed. Dropped, it ends: whatever it still guards
/// is released then.
#[derive(Debug)]
pub struct Guard {
    minder: Minder,
    held: Held,
}

impl Guard {
    /// Starts it and waits until it has a connection of its own. It lets a guest that stands still go after
    /// `limit`, also while this process lives.
    ///
    /// # Errors
    /// Where it can't be started or can't connect; it has said why.
    pub fn start(hypervisor: &Hypervisor, domain: Uuid, limit: Duration) -> Result<Self> {
        let way = Way { hypervisor: connect::settled(hypervisor)?, domain, limit: limit.as_secs() };
        Ok(Self { minder: Minder::start(NAME, &way, false)?, held: Held::default() })
    }

    /// Says what to undo from now on: before it is done, and after it has been undone.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io) if the guard is gone.
    pub fn watch(&mut self, held: Held) -> Result<()> {
        if held != self.held {
            self.minder.tell(&held)?;
            self.held = held;
        }
        Ok(())
    }
}
