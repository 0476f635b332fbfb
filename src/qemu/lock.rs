//! The locks by which QEMU shows that an image is in use.
//!
//! A process that has an image open, a domain's above all, holds locks on single bytes of the file,
//! whatever the image's format. They are read locks: one exclusive lock over all of the file meets them.

use std::fs::OpenOptions;
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};

/// Fails where the image or device at `path` is in use by QEMU or by another program that locks it.
/// Nothing is kept locked. A file system without locks has no in-use images, as far as can be known.
///
/// # Errors
/// [`Kind::Busy`] if it is in use, or can't be asked.
pub fn refuse_used(path: &Path) -> Result<()> {
    // An exclusive lock needs a file that is open for writing.
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
        Error::new(Kind::Busy, "can't find out whether the image is in use")
            .path(path)
            .hint("restore to another place, or remove the image first")
            .caused_by(error)
    })?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(Error::new(Kind::Busy, "the image is in use by a running domain")
            .path(path)
            .hint("shut the domain down first, or restore to another place with -o")),
        Err(error) => {
            tracing::debug!("{}: no locks to look at: {error}", path.display());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Cancel;
    use crate::qemu::img;
    use crate::qemu::nbd::{QemuNbd, ServeOptions};

    #[test]
    fn images_in_use_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (qcow2, raw) = (directory.path().join("a.qcow2"), directory.path().join("b.raw"));
        img::create(&qcow2, 1 << 20, &img::CreateOptions::default()).unwrap();
        std::fs::write(&raw, vec![0; 1 << 20]).unwrap();
        for (path, format) in [(&qcow2, "qcow2"), (&raw, "raw")] {
            for read_only in [false, true] {
                refuse_used(path).unwrap();
                let options = ServeOptions { read_only, ..ServeOptions::default() };
                let server = QemuNbd::serve(path, format, &options, &Cancel::new()).unwrap();
                let error = refuse_used(path).unwrap_err();
                assert_eq!(error.kind(), Kind::Busy, "{format} {error}");
                server.finish().unwrap();
                refuse_used(path).unwrap();
            }
        }
        assert_eq!(refuse_used(&directory.path().join("none")).unwrap_err().kind(), Kind::Busy);
    }
}
