//! The one error type of everything below the commands: a kind to decide by, where it hurt, and
//! the cause.
//!
//! Kinds exist only for decisions. The place (disk, path, offset) is data and is added once, by the
//! layer that knows it. `Display` prints this error alone; the cause chain is printed by whoever
//! reports it (see [`report`]).

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};

/// Result of everything below the commands.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The request makes no sense as given: an option, a combination, an empty name.
    Usage,
    /// The named thing is not there.
    NotFound,
    /// This source, image or daemon can't do what is asked.
    Unsupported,
    /// Somebody else holds it: a running job, a lock, an existing file.
    Busy,
    /// The operating system or a peer failed.
    Io,
    /// A peer (libvirt, an NBD server, a tool) answered with something it must not.
    Protocol,
    /// Stored data is damaged: provably not what was written.
    Corrupt,
    /// Stored data is missing or ends early.
    Incomplete,
    /// The user or a signal ended the work.
    Cancelled,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Usage,
        Self::NotFound,
        Self::Unsupported,
        Self::Busy,
        Self::Io,
        Self::Protocol,
        Self::Corrupt,
        Self::Incomplete,
        Self::Cancelled,
    ];

    /// Its name in reports.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::NotFound => "not-found",
            Self::Unsupported => "unsupported",
            Self::Busy => "busy",
            Self::Io => "io",
            Self::Protocol => "protocol",
            Self::Corrupt => "corrupt",
            Self::Incomplete => "incomplete",
            Self::Cancelled => "cancelled",
        }
    }
}

/// An error with its kind, its place and its cause.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: Box<str>,
    disk: Option<Box<str>>,
    path: Option<PathBuf>,
    offset: Option<u64>,
    hint: Option<Box<str>>,
    of_export: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` has no full stop and does not repeat the place or the cause.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into().into(),
            disk: None,
            path: None,
            offset: None,
            hint: None,
            of_export: false,
            source: None,
        }
    }

    /// [`Kind::Corrupt`] with `message`.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    /// [`Kind::Incomplete`] with `message`.
    pub fn incomplete(message: impl Into<String>) -> Self {
        Self::new(Kind::Incomplete, message)
    }

    /// [`Kind::Usage`] with `message`.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// [`Kind::Unsupported`] with `message`.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// The error of work that was cancelled by the user or a signal.
    pub fn cancelled() -> Self {
        Self::new(Kind::Cancelled, "interrupted")
    }

    /// The error of a thread that panicked: a defect in this program.
    pub fn panicked() -> Self {
        Self::new(Kind::Io, "a worker thread failed unexpectedly; this is a defect in virtkeep")
    }

    /// The error that made the others stop: the first one that is not [`Kind::Cancelled`], else
    /// the first.
    pub fn first_of(results: impl IntoIterator<Item = Result<()>>) -> Result<()> {
        let mut errors: Vec<Self> = results.into_iter().filter_map(Result::err).collect();
        let first = errors.iter().position(|error| error.kind != Kind::Cancelled).unwrap_or(0);
        if errors.is_empty() { Ok(()) } else { Err(errors.swap_remove(first)) }
    }

    /// A failed operating system call: `operation` is a verb ("open", "read"). A file that is not
    /// there becomes [`Kind::NotFound`], all else [`Kind::Io`].
    pub fn io(operation: &str, source: impl Into<std::io::Error>) -> Self {
        let source = match source.into().downcast::<Self>() {
            // One of ours that came by way of a trait of std's stays what it is.
            Ok(own) => return own,
            Err(source) => source,
        };
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Io,
        };
        Self::new(kind, operation).hint_if_full(&source).caused_by(source)
    }

    /// Adds what to do where there is no space left.
    pub fn hint_if_full(self, cause: &std::io::Error) -> Self {
        match cause.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                self.hint("free some space there, or choose another place")
            }
            std::io::ErrorKind::FileTooLarge => {
                self.hint("the file system, or `ulimit -f`, allows no file of that size: choose another place")
            }
            _ => self,
        }
    }

    /// Whether this user may not do it, which says nothing about the thing.
    pub fn is_permission_denied(&self) -> bool {
        let mut next: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(current) = next {
            if let Some(error) = current.downcast_ref::<std::io::Error>() {
                return error.kind() == std::io::ErrorKind::PermissionDenied;
            }
            next = current.source();
        }
        false
    }

    /// Whether the cause is that no space is left.
    pub fn is_full(&self) -> bool {
        let mut next: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(current) = next {
            if let Some(error) = current.downcast_ref::<std::io::Error>() {
                return matches!(
                    error.kind(),
                    std::io::ErrorKind::StorageFull
                        | std::io::ErrorKind::QuotaExceeded
                        | std::io::ErrorKind::FileTooLarge
                );
            }
            next = current.source();
        }
        false
    }

    /// Adds the target name of the disk concerned, unless a deeper layer has said it.
    pub fn disk(mut self, target: &str) -> Self {
        self.disk.get_or_insert_with(|| target.into());
        self
    }

    /// Adds the file concerned, unless a deeper layer has said it, or that it is none ([`Error::of_export`]).
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        if !self.of_export {
            self.path.get_or_insert_with(|| path.as_ref().to_owned());
        }
        self
    }

    /// Says that it was met on the disk as a job or a server shows it: the file that its data goes to is not concerned.
    pub fn of_export(mut self) -> Self {
        self.of_export = true;
        self
    }

    /// Adds the byte offset concerned, unless a deeper layer has said it.
    pub fn at(mut self, offset: u64) -> Self {
        self.offset.get_or_insert(offset);
        self
    }

    /// Adds what the user can do about it: one line, naming the option or command to use.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into().into());
        self
    }

    /// Adds the cause.
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What is wrong, without its place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The byte offset in the file or disk that [`Error::path`] or [`Error::disk`] named.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// The target name of the disk concerned, if it is known.
    pub fn disk_name(&self) -> Option<&str> {
        self.disk.as_deref()
    }

    /// The file concerned, if it is known.
    pub fn file(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Whether it was met on the disk as a job or a server shows it.
    pub fn is_of_export(&self) -> bool {
        self.of_export
    }

    /// The remedy, if one is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(disk) = &self.disk {
            write!(f, "disk {disk}: ")?;
        }
        if let Some(path) = &self.path {
            write!(f, "{path:?}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// One line: the error and all of its causes, separated by colons.
pub fn report(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        next = cause.source();
    }
    line
}

/// The first disk named along the cause chain.
pub fn disk<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e str> {
    first_along(error, Error::disk_name)
}

/// The first hint found along the cause chain.
pub fn hint<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e str> {
    first_along(error, Error::hint_text)
}

/// What `of` finds first along the cause chain.
fn first_along<'e>(error: &'e (dyn StdError + 'static), of: impl Fn(&'e Error) -> Option<&'e str>) -> Option<&'e str> {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref::<Error>().and_then(&of) {
            return Some(found);
        }
        next = current.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_names_place_and_cause_once() {
        let error =
            Error::io("read", std::io::Error::from_raw_os_error(5)).disk("vda").path("/a b").at(4096).disk("vdb");
        assert_eq!(report(&error), "disk vda: \"/a b\": read at offset 4096: Input/output error (os error 5)");
    }

    #[test]
    fn what_the_export_met_is_not_put_in_a_file() {
        let error = Error::new(Kind::Io, "read").at(4096).of_export().path("/set/vda.data.partial").disk("vda");
        assert_eq!(report(&error), "disk vda: read at offset 4096");
    }

    #[test]
    fn an_error_of_ours_survives_std() {
        assert_eq!(Error::io("write", std::io::Error::other(Error::cancelled())).kind(), Kind::Cancelled);
    }

    #[test]
    fn hint_is_found_below_other_errors() {
        let inner = Error::usage("no full").hint("use -l full");
        let outer = Error::new(Kind::Io, "backup").caused_by(inner);
        assert_eq!(hint(&outer), Some("use -l full"));
    }
}
