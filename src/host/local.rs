//! This machine.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{FileFacts, FileKind, Space};
use crate::error::{Error, Result};
use crate::qemu::process;

pub(super) fn run(tool: &str, args: &[OsString]) -> Result<Vec<u8>> {
    let mut command = process::command(tool);
    command.args(args);
    process::run(command)
}

pub(super) fn run_to_end(tool: &str, args: &[OsString]) -> Result<Vec<u8>> {
    let mut command = process::command(tool);
    command.args(args);
    process::run_to_end(command)
}

pub(super) fn file(path: &Path) -> Result<FileFacts> {
    let metadata = path.metadata().map_err(|error| Error::io("open", error).path(path))?;
    let kind = metadata.file_type();
    let kind = match kind {
        _ if kind.is_file() => FileKind::File,
        _ if kind.is_dir() => FileKind::Directory,
        _ if kind.is_block_device() => FileKind::Block,
        _ if kind.is_socket() => FileKind::Socket,
        _ => FileKind::Other,
    };
    Ok(FileFacts { kind, size: metadata.len() })
}

pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    // A pipe would be waited for.
    if file(path)?.kind != FileKind::File {
        return Err(Error::unsupported("not a regular file").path(path));
    }
    let mut content = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut content));
    read.map_err(|error| Error::io("read", error).path(path))?;
    if content.len() as u64 > limit {
        return Err(Error::unsupported(format!("has more than {limit} bytes")).path(path));
    }
    Ok(content)
}

pub(super) fn listens(path: &Path) -> bool {
    // Refused is the one answer of a dead one; a full queue, or one that is not for us, is somebody's.
    match UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound),
    }
}

pub(super) fn space(directory: &Path) -> Result<Space> {
    let stat = rustix::fs::statvfs(directory)
        .map_err(|error| Error::io("look at the free space", std::io::Error::from(error)).path(directory))?;
    // QEMU does not run as root: what is kept for root is not free.
    Ok(Space { size: stat.f_blocks.saturating_mul(stat.f_frsize), free: stat.f_bavail.saturating_mul(stat.f_frsize) })
}

pub(super) fn names(directory: &Path) -> Result<Vec<OsString>> {
    let failed = |error| Error::io("read directory", error).path(directory);
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.file_name()).map_err(failed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use std::os::unix::net::UnixListener;

    #[test]
    fn files_and_sockets_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let (plain, socket) = (directory.path().join("plain"), directory.path().join("socket"));
        std::fs::write(&plain, b"12345").unwrap();
        assert_eq!(file(&plain).unwrap(), FileFacts { kind: FileKind::File, size: 5 });
        assert_eq!(read(&plain, 5).unwrap(), b"12345");
        assert_eq!(read(&plain, 4).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(read(directory.path(), 4).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(file(&socket).unwrap_err().kind(), Kind::NotFound);
        let listener = UnixListener::bind(&socket).unwrap();
        assert!(listens(&socket) && file(&socket).unwrap().kind == FileKind::Socket);
        drop(listener);
        assert!(!listens(&socket));
        crate::set::layout::remove(&socket).unwrap();
        crate::set::layout::remove(&socket).unwrap();
        assert!(!listens(&socket) && space(directory.path()).unwrap().size > 0);
    }
}
