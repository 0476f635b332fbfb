//! One run at a time in a set: a lock on `.virtkeep/lock`.

use std::path::PathBuf;

use super::layout::Layout;
use crate::error::{Error, Kind, Result};
use crate::lock::{Holder, Lock, Patience};

/// Takes the lock of a set whose directories exist. Readers need none: they see committed runs.
///
/// # Errors
/// [`Kind::Busy`], saying who holds it.
pub fn take(layout: &Layout, holder: &Holder, patience: &Patience) -> Result<Lock> {
    Lock::take(&path(layout), holder, patience, |by| {
        let by = by.map_or_else(|| "by whom is not known".to_owned(), Holder::to_string);
        Error::new(Kind::Busy, format!("another run is writing to this set ({by})"))
            .path(layout.directory())
            .hint("wait for it to end; `virtkeep backup --wait SECONDS` does")
    })
}

/// The lock's file.
pub fn path(layout: &Layout) -> PathBuf {
    layout.private().join("lock")
}
