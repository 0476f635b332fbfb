//! `qemu-nbd` on another machine, reached through the ssh connection. It ends when its standard input does, so
//! that nothing stays there when this process or the connection dies.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::ssh::{Forward, Ssh};
use crate::cancel::Cancel;
use crate::child::end_within;
use crate::error::{Error, Kind, Result};
use crate::nbd::uri;
use crate::qemu::process;
use crate::units::KIB;

/// The tool.
const TOOL: &str = "qemu-nbd";
/// As for a local one: opening an image with large bitmaps or on a sleeping disk takes seconds.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// As for a local one: the end writes caches of metadata to disk.
const FINISH_TIMEOUT: Duration = Duration::from_secs(300);
/// How often a wait looks at the cancel flag.
const POLL: Duration = Duration::from_millis(20);
/// A server that reads closes its image at once.
const LET_GO: Duration = Duration::from_secs(2);

/// Starts it in a private directory, prints its socket when it listens, ends it when the input ends. A signal
/// can be lost on it, so it is asked again.
const SCRIPT: &str = "command -v qemu-nbd >/dev/null 2>&1 || exit 127; d=$(mktemp -d) || exit 1; \
    trap 'rm -rf \"$d\"' EXIT; \
    { qemu-nbd --socket=\"$d/s\" --pid-file=\"$d/p\" \"$@\" </dev/null >/dev/null; echo $? >\"$d/y\"; mv \"$d/y\" \"$d/x\"; } & \
    while [ ! -s \"$d/p\" ] && [ ! -e \"$d/x\" ]; do sleep 0.05; done; \
    if [ -e \"$d/x\" ]; then exit \"$(cat \"$d/x\")\"; fi; p=$(cat \"$d/p\"); printf '%s\\n' \"$d/s\"; cat >/dev/null; \
    while [ ! -e \"$d/x\" ]; do kill \"$p\" 2>/dev/null; sleep 0.1; done; exit \"$(cat \"$d/x\")\"";

/// A `qemu-nbd` over there. Dropped, it is ended; [`Served::finish`] tells whether it ended well.
#[derive(Debug)]
pub struct Served {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Option<JoinHandle<Vec<u8>>>,
    name: String,
    // None only while it is started.
    forward: Option<Forward>,
}

impl Served {
    /// Starts it with `arguments`, which name the image, and waits until it can be reached.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where there is no `qemu-nbd`, what it complains about, [`Kind::Cancelled`].
    pub fn start(ssh: &Arc<Ssh>, arguments: &[OsString], cancel: &Cancel) -> Result<Self> {
        let mut command = ssh.command(SCRIPT, arguments)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process::spawn(&mut command)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let said = child.stderr.take().map(|pipe| thread::spawn(move || head(pipe)));
        let mut served = Self { child, stdin, said, name: ssh.name().to_owned(), forward: None };
        let (send, receive) = channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            let read = stdout.map(BufReader::new).map(|mut pipe| pipe.read_until(b'\n', &mut line));
            let _ = send.send(matches!(read, Some(Ok(1..))).then_some(line));
        });
        let deadline = Instant::now() + START_TIMEOUT;
        let line = loop {
            cancel.check()?;
            match receive.recv_timeout(POLL) {
                Ok(Some(line)) => break line,
                Ok(None) => return Err(served.failure()),
                Err(_) if Instant::now() < deadline => {}
                Err(_) => return Err(Error::new(Kind::Io, format!("{TOOL} does not start on {}", served.name))),
            }
        };
        let socket = PathBuf::from(OsString::from_vec(line.trim_ascii_end().to_vec()));
        served.forward = Some(ssh.forward(&socket)?);
        Ok(served)
    }

    /// The NBD URI to connect to.
    pub fn uri(&self) -> String {
        uri::unix(self.forward.as_ref().map_or(Path::new(""), Forward::local), "")
    }

    /// Ends the server and checks that it closed the image in order. Flush and disconnect clients first.
    ///
    /// # Errors
    /// [`Kind::Io`] where it did not.
    pub fn finish(mut self) -> Result<()> {
        drop(self.stdin.take());
        let ended = end_within(&mut self.child, FINISH_TIMEOUT);
        match ended.map_err(|error| Error::io(&format!("wait for {TOOL}"), error))? {
            Some(status) if status.success() => Ok(()),
            Some(_) => Err(self.failure()),
            None => Err(Error::new(Kind::Io, format!("{TOOL} does not end on {}", self.name))),
        }
    }

    /// Why it ended.
    fn failure(&mut self) -> Error {
        let status = self.child.wait();
        let said = self.said.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        match status {
            Ok(status) if status.code() == Some(127) => {
                Error::new(Kind::NotFound, format!("{TOOL} is not installed on {}", self.name))
                    .hint("install QEMU's tools there (Debian: apt-get install qemu-utils)")
            }
            Ok(status) => {
                let error = process::failure(TOOL, status, &said);
                Error::new(error.kind(), format!("on {}", self.name)).caused_by(error)
            }
            Err(error) => Error::io(&format!("wait for {TOOL}"), error),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.forward.take());
        // After `finish` both only say that it has gone. The other side ends with its input.
        drop(self.stdin.take());
        // It ends when the server there has: what is undone next may need its lock of the image.
        if let Ok(None) | Err(_) = end_within(&mut self.child, LET_GO) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn head(mut pipe: ChildStderr) -> Vec<u8> {
    let mut kept = Vec::new();
    // How it ended decides, not this.
    let _ = pipe.by_ref().take(64 * KIB).read_to_end(&mut kept);
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    kept
}
