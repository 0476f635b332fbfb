//! Standard output as the place where a backup goes.
//!
//! The reader of a pipe or a socket may be slow, stand still or go away. Writes wait for it without being lost to
//! a signal, and at the end every byte must have left the pipe: what is still in it when its reader goes is lost.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::net::{SendFlags, send};

use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};

/// A pipe has room for 64 KiB by itself: the reader is to be woken less often.
const PIPE_SIZE: usize = 1 << 20;
/// How long a write waits for the reader before it looks whether the run is to end.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How often to look whether the pipe is empty.
const POLL: Duration = Duration::from_millis(5);
/// So much can be written to a pipe without waiting, once it has room at all.
const ATOMIC: usize = 4096;

/// What messages call it.
const NAME: &str = "standard output";
const LOST: &str = "what reads the backup ended early or failed: look at what it said; the next run goes on from the last \
                    one that was committed";
const REMEDY: &str = "send it somewhere: `-o - > web.zip`, or `-o - | ssh host 'cat > web.zip'`";

/// Standard output, taken over.
#[derive(Debug)]
pub struct Stdout {
    file: File,
    kind: Sink,
    cancel: Cancel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sink {
    /// A pipe whose writes do not wait.
    Pipe,
    /// A pipe of somebody else's, whose writes wait.
    SlowPipe,
    /// A socket, as sshd may make one for a command.
    Socket,
    /// A file or device.
    File,
}

impl Stdout {
    /// Takes over standard output; what is printed there from now on goes nowhere.
    ///
    /// # Errors
    /// [`Kind::Usage`] where a backup can't go there: a terminal, `/dev/null`, a file with content.
    pub fn take(cancel: &Cancel) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io("use standard output", error);
        if std::io::stdout().is_terminal() {
            return Err(Error::usage("the backup would go to the terminal").hint(REMEDY));
        }
        let file = File::from(rustix::stdio::stdout().try_clone_to_owned().map_err(failed)?);
        let metadata = file.metadata().map_err(failed)?;
        let kind = metadata.file_type();
        let null = std::fs::metadata("/dev/null").ok();
        if kind.is_char_device() && null.is_some_and(|null| null.rdev() == metadata.rdev()) {
            // Also what a closed one is by the time that this is reached.
            return Err(Error::usage("standard output is closed or /dev/null: the backup would be lost").hint(REMEDY));
        }
        if kind.is_file() && metadata.len() > 0 {
            return Err(Error::usage("the file that standard output goes to has content already")
                .hint("redirect with `>` into a new file, not with `>>`"));
        }
        let (file, kind) = if kind.is_fifo() {
            pipe(file)
        } else if kind.is_socket() {
            (file, Sink::Socket)
        } else {
            (file, Sink::File)
        };
        let nowhere = OpenOptions::new().write(true).open("/dev/null").map_err(failed)?;
        rustix::stdio::dup2_stdout(&nowhere).map_err(|error| failed(error.into()))?;
        Ok(Self { file, kind, cancel: cancel.clone() })
    }

    /// From now on `cancel` ends waiting for the reader.
    pub fn heed(&mut self, cancel: &Cancel) {
        self.cancel = cancel.clone();
    }

    /// Waits until everything is where it should go, and closes it.
    ///
    /// # Errors
    /// [`Kind::Io`] where a file can't be made durable or a pipe's reader left bytes behind.
    pub fn settle(self) -> Result<()> {
        match self.kind {
            Sink::File => match self.file.sync_all() {
                // Of a device that has nothing to sync, a tape say.
                Err(error)
                    if matches!(error.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::Unsupported) =>
                {
                    Ok(())
                }
                other => other.map_err(|error| lost("sync", error)),
            },
            Sink::Pipe | Sink::SlowPipe => self.drain(),
            // Nothing tells what the peer of a socket has read.
            Sink::Socket => Ok(()),
        }
    }

    fn drain(&self) -> Result<()> {
        loop {
            let left =
                rustix::io::ioctl_fionread(&self.file).map_err(|error| lost("look at the pipe", error.into()))?;
            if left == 0 {
                return Ok(());
            }
            if self.wait(PollFlags::empty()).map_err(|error| lost("look at the pipe", error))?.contains(PollFlags::ERR)
            {
                let message = format!("its reader went away and left {left} bytes unread");
                return Err(Error::new(Kind::Io, message).path(NAME).hint(LOST));
            }
            self.cancel.check()?;
            thread::sleep(POLL);
        }
    }

    /// What has happened to the output, for as long as it takes or [`PATIENCE`] lasts.
    fn wait(&self, wanted: PollFlags) -> std::io::Result<PollFlags> {
        let mut polled = [PollFd::from_borrowed_fd(self.file.as_fd(), wanted)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut polled, Some(if wanted.is_empty() { &none } else { &PATIENCE })) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(polled[0].revents()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The pipe again, so that writes to it do not wait. Its own flag would be that of everyone who has it.
fn pipe(file: File) -> (File, Sink) {
    let _ = rustix::pipe::fcntl_setpipe_size(&file, PIPE_SIZE);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path) {
        Ok(again) => (again, Sink::Pipe),
        Err(_) => (file, Sink::SlowPipe),
    }
}

fn lost(operation: &str, error: std::io::Error) -> Error {
    Error::io(operation, error).path(NAME).hint(LOST)
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let bytes = if self.kind == Sink::SlowPipe { &bytes[..bytes.len().min(ATOMIC)] } else { bytes };
        loop {
            self.cancel.check().map_err(std::io::Error::other)?;
            if self.kind != Sink::File && self.wait(PollFlags::OUT)?.is_empty() {
                continue;
            }
            let written = match self.kind {
                // As much as there is room for: its own flag would be that of everyone who has it.
                Sink::Socket => {
                    send(&self.file, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(std::io::Error::from)
                }
                _ => self.file.write(bytes),
            };
            match written {
                Err(error)
                    if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {}
                // By way of std, for whoever writes through it: what it is stays known.
                other => return other.map_err(|error| std::io::Error::other(lost("write", error))),
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
