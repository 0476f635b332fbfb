//! Reads a file front to back in a thread of its own, ahead of the one that sums it: what the kernel copies is half of
//! the processor time of a check, and a disk is not idle while its last bytes are digested.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use crate::stored::OpenFile;

/// Parts on their way between the two threads.
const PARTS: usize = 4;

/// Bytes of a file: a part of a buffer that is used again.
pub(super) type Part = (Vec<u8>, usize);

/// The thread that reads. It ends with the file, at an error, or when this is dropped.
pub(super) struct Ahead {
    /// Both are none when it is to end.
    empty: Option<Sender<Vec<u8>>>,
    read: Option<Receiver<io::Result<Part>>>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Begins to read `file` in parts of `len` bytes; the last one may be shorter. None where there is no thread to
    /// be had.
    pub(super) fn new(file: OpenFile, len: usize) -> Option<Self> {
        let (empty, buffers) = channel::<Vec<u8>>();
        let (parts, read) = channel();
        let run = move || {
            let mut position = 0;
            for mut buffer in buffers {
                // At most the length of the buffer.
                let len = (file.size() - position).min(buffer.len() as u64) as usize;
                if len == 0 {
                    return;
                }
                let part = file.read_exact_at(&mut buffer[..len], position).map(|()| (buffer, len));
                position += len as u64;
                let failed = part.is_err();
                if parts.send(part).is_err() || failed {
                    return;
                }
            }
        };
        let thread = Builder::new().name("read ahead".to_owned()).spawn(run).ok()?;
        // Who receives them waits for them.
        (0..PARTS).for_each(|_| drop(empty.send(vec![0; len])));
        Some(Self { empty: Some(empty), read: Some(read), thread: Some(thread) })
    }

    /// The next part of the file; `used` is one that is not needed any more, or empty.
    ///
    /// # Errors
    /// Of the file; after one, and behind its end, there is nothing more to be had.
    pub(super) fn next(&mut self, used: Vec<u8>) -> io::Result<Part> {
        if let Some(empty) = self.empty.as_ref().filter(|_| !used.is_empty()) {
            // Where nobody reads any more all was read.
            let _ = empty.send(used);
        }
        let part = self.read.as_ref().and_then(|read| read.recv().ok());
        part.unwrap_or_else(|| Err(io::Error::other("nobody reads the file any more")))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        (self.empty, self.read) = (None, None);
        // A panic was told when it happened.
        self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::stored::StoredFile;

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, OpenFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let open = StoredFile::from(file.path()).open().unwrap();
        (file, open)
    }

    #[test]
    fn a_file_comes_in_its_order() {
        let bytes: Vec<u8> = (0..100_003u32).map(|i| (i / 7) as u8).collect();
        for (size, len) in [(0, 10), (10, 10), (9, 10), (100_003, 10), (100_003, 1000), (100_000, 10_000)] {
            let (_kept, file) = file(&bytes[..size]);
            let mut ahead = Ahead::new(file, len).unwrap();
            let (mut found, mut used) = (Vec::new(), Vec::new());
            while found.len() < size {
                let (buffer, len) = ahead.next(used).unwrap();
                found.extend_from_slice(&buffer[..len]);
                used = buffer;
            }
            assert!(found == bytes[..size]);
            assert_eq!(ahead.next(used).unwrap_err().kind(), io::ErrorKind::Other, "{size}");
        }
    }

    #[test]
    fn a_file_that_got_shorter_is_told() {
        let (kept, file) = file(&[1; 1000]);
        kept.as_file().set_len(500).unwrap();
        let mut ahead = Ahead::new(file, 300).unwrap();
        let (used, len) = ahead.next(Vec::new()).unwrap();
        assert_eq!(len, 300);
        assert_eq!(ahead.next(used).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(ahead.next(Vec::new()).unwrap_err().kind(), io::ErrorKind::Other);
    }

    /// Nobody waits for the rest of a file of which enough was seen.
    #[test]
    fn what_is_dropped_ends() {
        let (_kept, file) = file(&[1; 100_000]);
        let mut ahead = Ahead::new(file, 10).unwrap();
        ahead.next(Vec::new()).unwrap();
    }
}
