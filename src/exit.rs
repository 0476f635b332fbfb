//! The exit statuses; `docs/exit-codes.md` is the page for users.

use crate::error::{Error, Kind};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Failed; nothing was committed.
    Failed,
    /// Wrong usage.
    Usage,
    /// Done, but look: a disk that was asked for was skipped, or `--strict` and warnings.
    Look,
    /// Damage found.
    Damage,
    /// `status`: 0 OK, 1 warning, 2 critical, 3 unknown, as monitoring plugins end.
    Plugin(u8),
    /// Done as far as the program is concerned; the status is that of the command that it ran.
    Passed(i32),
    /// Ended by this signal; rolled back, or recorded for the next run to roll back.
    Signal(i32),
}

impl Exit {
    /// `status` could not find out.
    pub const UNKNOWN: Self = Self::Plugin(3);

    /// The number that the process ends with.
    pub fn code(self) -> i32 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Look => 3,
            Self::Damage => 4,
            Self::Plugin(status) => status.into(),
            Self::Passed(status) => status,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// The status for a command that ended with `error`.
    pub fn of(error: &anyhow::Error) -> Self {
        match error.chain().find_map(|cause| cause.downcast_ref::<Error>()).map(Error::kind) {
            Some(Kind::Usage) => Self::Usage,
            Some(Kind::Corrupt | Kind::Incomplete) => Self::Damage,
            _ => Self::Failed,
        }
    }
}
