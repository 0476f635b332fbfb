//! `qemu-nbd` as a child process: an image served on a private Unix socket, for as long as the
//! value lives.
//!
//! The server is in a process group of its own, so a Ctrl-C at the terminal reaches us alone and
//! what is in flight can end in order. After a SIGKILL of ours one without clients stays, holds the image's
//! lock and has to be ended by hand, unless it is bound to us ([`ServeOptions::bound_to`]).

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use uuid::Uuid;

use crate::cancel::Cancel;
use crate::child::end_within;
use crate::error::{Error, Kind, Result};
use crate::nbd::uri;
use crate::qemu::{img, process};
use crate::units::KIB;

/// The tool; found in `PATH`.
const TOOL: &str = "qemu-nbd";

/// Opening an image with large bitmaps or on a sleeping disk takes seconds; a minute is a failure.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The end writes caches of metadata and bitmaps to disk. Longer than any of it should take: to
/// kill it then leaves the image as after a power loss.
const FINISH_TIMEOUT: Duration = Duration::from_secs(300);

/// How often it is asked to end.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Written when the image is open and the socket listens.
const PID_FILE: &str = "pid";

/// How to serve an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeOptions {
    /// Refuse writes; shares the image with other readers.
    pub read_only: bool,
    /// Connections at once.
    pub connections: usize,
    /// Offer the dirty bitmap of this name as meta context `qemu:dirty-bitmap:NAME`.
    pub bitmap: Option<String>,
    /// Compress what is written (qcow2). The size of the disk must be a multiple of the cluster
    /// size, QEMU refuses others. Each cluster can be written once and as a whole: see
    /// [`NbdSink::aligned_to`](crate::block::nbd::NbdSink::aligned_to).
    pub compress: bool,
    /// The server is killed should this process die, or the thread that starts it end, and its temporary
    /// directory bears the name of this run: [`QemuNbd::remove_left`] finds it then. For servers that only read, and
    /// for images that nobody needs who was not told that they are whole.
    pub bound_to: Option<Uuid>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { read_only: true, connections: 1, bitmap: None, compress: false, bound_to: None }
    }
}

/// Blocks of up to 64 MiB are kept for the next request.
const TUNABLES: &str = "glibc.malloc.mmap_threshold=67108864:glibc.malloc.trim_threshold=268435456";

/// A running `qemu-nbd`. Killed on drop; [`QemuNbd::finish`] ends it in order.
#[derive(Debug)]
pub struct QemuNbd {
    child: Child,
    image: PathBuf,
    /// Private to us (0700): the socket needs no other protection.
    directory: TempDir,
}

impl QemuNbd {
    /// Serves `image`, opened as `format` and nothing else, and waits until it can be reached.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such image or no `qemu-nbd`; what `qemu-nbd` complains
    /// about, such as a lock held by a running domain.
    pub fn serve(image: &Path, format: &str, options: &ServeOptions, cancel: &Cancel) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix(&prefix(options.bound_to))
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|error| Error::io("create a temporary directory", error))?;
        let socket = directory.path().join("socket");
        if socket.as_os_str().as_bytes().len() > uri::MAX_SOCKET_PATH {
            return Err(Error::usage("the path is too long for a Unix socket").path(socket).hint("shorten TMPDIR"));
        }
        let stderr = File::create(directory.path().join("stderr"))
            .map_err(|error| Error::io("create", error).path(directory.path()))?;
        let mut command = if options.bound_to.is_some() { process::bound(TOOL) } else { process::command(TOOL) };
        // It sets memory aside for each request: without this glibc asks the kernel for it each time, and a restore
        // takes half as long again. Other C libraries do not know it.
        command.env("GLIBC_TUNABLES", TUNABLES);
        command.args(["--persistent", "--discard=unmap", "--cache=writeback", "--aio=threads"]);
        command.arg(format!("--shared={}", options.connections.max(1)));
        command.arg("--socket").arg(&socket).arg("--pid-file").arg(directory.path().join(PID_FILE));
        if options.read_only {
            command.arg("--read-only");
        }
        if let Some(bitmap) = &options.bitmap {
            command.arg(format!("--bitmap={bitmap}"));
        }
        command.arg("--image-opts").arg("--").arg(img::image_opts(image, format, options.compress)?);
        command.stdout(std::process::Stdio::null()).stderr(stderr).process_group(0);
        let child = process::spawn(&mut command)?;
        let mut server = Self { child, image: image.to_owned(), directory };
        server.await_start(cancel)?;
        Ok(server)
    }

    /// Removes what a server that died with its run `run` left in the file system.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn remove_left(run: Uuid) -> Result<()> {
        let directory = std::env::temp_dir();
        let prefix = prefix(Some(run));
        let entries =
            std::fs::read_dir(&directory).map_err(|error| Error::io("read directory", error).path(directory))?;
        for entry in entries.filter_map(std::result::Result::ok) {
            if entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
                std::fs::remove_dir_all(entry.path()).map_err(|error| Error::io("remove", error).path(entry.path()))?;
            }
        }
        Ok(())
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// The NBD URI to connect to.
    pub fn uri(&self) -> String {
        uri::unix(&self.socket(), "")
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends the server and checks that it closed the image in order. Flush and disconnect clients
    /// first: a failed write to the image shows there.
    pub fn finish(mut self) -> Result<()> {
        let deadline = Instant::now() + FINISH_TIMEOUT;
        loop {
            // A signal between the pid file and its main loop is lost on it (seen with QEMU 7.2): ask again.
            self.signal(Signal::TERM);
            match self.exit_status(ASK_AGAIN)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.failure(status)),
                None if Instant::now() >= deadline => {
                    return Err(Error::new(Kind::Io, format!("{TOOL} does not end")).path(&self.image));
                }
                None => {}
            }
        }
    }

    /// The socket is there, and accepts, before the image is open; the pid file comes after that.
    fn await_start(&mut self, cancel: &Cancel) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            cancel.check()?;
            if let Some(status) = self.exit_status(Duration::ZERO)? {
                return Err(self.failure(status));
            }
            if self.directory.path().join(PID_FILE).exists() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::new(Kind::Io, format!("{TOOL} does not start")).path(&self.image));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn exit_status(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        end_within(&mut self.child, limit).map_err(|error| Error::io(&format!("wait for {TOOL}"), error))
    }

    fn failure(&self, status: ExitStatus) -> Error {
        let mut stderr = Vec::new();
        // Without the text there is still the status.
        let _ = File::open(self.directory.path().join("stderr"))
            .and_then(|file| file.take(64 * KIB).read_to_end(&mut stderr));
        process::failure(TOOL, status, &stderr).path(&self.image)
    }

    /// The child is not reaped before, so its id is still its own.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

fn prefix(run: Option<Uuid>) -> String {
    run.map_or_else(|| "virtkeep-nbd-".to_owned(), |run| format!("virtkeep-nbd-{run}-"))
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        // After `finish` both only say that it has gone.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
#[path = "nbd_tests.rs"]
mod tests;
