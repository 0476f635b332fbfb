//! One login at another machine by the user's own `ssh`, and everything through it: commands, sockets.
//!
//! The login is a master connection (`ssh -M`) that lives as long as its standard input is open: whatever ends
//! this process ends it, too, and with it what it began there. It is never asked for a password, for there may
//! be nobody to answer.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::address::SshTarget;
use super::shell;
use super::trouble;
use crate::child::end_within;
use crate::error::{Error, Kind, Result};
use crate::nbd::uri::MAX_SOCKET_PATH;
use crate::qemu::process;

/// A host that does not answer by then is not there.
const CONNECT_SECONDS: u32 = 20;
/// A login with everything that servers do at one: slow name services, for one.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// What the other side says when it is there. A login shell may have said other things before.
const READY: &str = "virtkeep-is-there";
/// The forwarding of a socket is set up on this machine alone.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest path of a control socket: ssh gives it a name with 17 more bytes first.
const MAX_CONTROL_PATH: usize = MAX_SOCKET_PATH - 17;
/// A master that does not end by itself by then is ended.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Standard error kept of a master.
const MAX_SAID: usize = 16 * 1024;

/// A machine that is reached by ssh.
#[derive(Debug)]
pub struct Ssh {
    target: SshTarget,
    master: Mutex<Option<Master>>,
}

/// The login.
#[derive(Debug)]
struct Master {
    child: Child,
    /// Its end is the master's; none only while it is dropped.
    stdin: Option<ChildStdin>,
    directory: TempDir,
    said: Arc<Mutex<Vec<u8>>>,
    forwards: AtomicU32,
}

/// A Unix socket of the other machine that can be connected to here; goes when dropped.
#[derive(Debug)]
pub struct Forward {
    ssh: Arc<Ssh>,
    local: PathBuf,
    remote: PathBuf,
}

/// Whether ssh can be told the path of a socket: it splits names at some characters.
pub fn can_forward(socket: &Path) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+=,@".contains(byte);
    socket.is_absolute() && socket.as_os_str().as_bytes().iter().all(plain)
}

impl Ssh {
    /// Logs in.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where there is no `ssh` or no such key, else [`Kind::Io`]; with the remedy.
    pub fn connect(target: SshTarget) -> Result<Arc<Self>> {
        if let Some(key) = target.private_key.as_ref().filter(|key| !key.exists()) {
            return Err(Error::new(Kind::NotFound, "the private key is not there")
                .path(key)
                .hint("--ssh-private-key (or keyfile= in the URI) names the file with the key"));
        }
        let master = Master::start(&target)?;
        Ok(Arc::new(Self { target, master: Mutex::new(Some(master)) }))
    }

    /// The machine's name.
    pub fn name(&self) -> &str {
        &self.target.host
    }

    /// The machine's name in the network: what the user's configuration makes of [`Ssh::name`].
    pub fn real_name(&self) -> String {
        let mut command = process::command(&self.target.program);
        command.args(["-G", "--"]).arg(&self.target.host);
        let said =
            process::output(command, FORWARD_TIMEOUT, MAX_SAID as u64).map(|ended| ended.stdout).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let name = said.lines().find_map(|line| line.strip_prefix("hostname "));
        name.map_or_else(|| self.name().to_owned(), |name| name.trim().to_owned())
    }

    /// How it is reached.
    pub fn target(&self) -> &SshTarget {
        &self.target
    }

    /// Runs `script` there, see [`shell::line`], for at most `limit`; at most `most` bytes of output are kept.
    ///
    /// # Errors
    /// [`Kind::Io`] where the connection is lost and does not come back, [`Kind::Busy`] after `limit`.
    pub fn run(&self, script: &str, arguments: &[OsString], limit: Duration, most: u64) -> Result<process::Ended> {
        self.judge(process::output(self.command(script, arguments)?, limit, most))
    }

    /// As [`Ssh::run`], with `input` on its standard input and without its output.
    ///
    /// # Errors
    /// As for [`Ssh::run`].
    pub fn send(&self, script: &str, arguments: &[OsString], input: &[u8], limit: Duration) -> Result<process::Ended> {
        use std::io::{Seek, Write};
        let filled = tempfile::tempfile().and_then(|mut file| {
            file.write_all(input)?;
            file.rewind()?;
            Ok(file)
        });
        let mut command = self.command(script, arguments)?;
        command.stdin(filled.map_err(|error| Error::io("write a temporary file", error))?);
        self.judge(process::output(command, limit, 0))
    }

    fn judge(&self, ended: Result<process::Ended>) -> Result<process::Ended> {
        let ended =
            ended.map_err(|error| Error::new(error.kind(), format!("{}: no answer", self.name())).caused_by(error))?;
        // ssh's own status. What runs there gives others.
        match ended.status.code() {
            Some(255) => Err(self.lost(&String::from_utf8_lossy(&ended.stderr))),
            _ => Ok(ended),
        }
    }

    /// The command that runs `script` there.
    ///
    /// # Errors
    /// Where the login is lost and there is no other.
    pub fn command(&self, script: &str, arguments: &[OsString]) -> Result<Command> {
        let mut command = self.client()?;
        command.arg("-T").arg("--").arg(&self.target.host).arg(shell::line(script, arguments));
        Ok(command)
    }

    /// Makes the Unix socket `remote` reachable here. That it can be opened there shows with the first connection.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a path that ssh can't be told.
    pub fn forward(self: &Arc<Self>, remote: &Path) -> Result<Forward> {
        if !can_forward(remote) {
            return Err(Error::usage(
                "ssh can't forward a socket of this name: letters, digits and /._-+=,@ can be in it",
            )
            .path(remote)
            .hint("--scratchdir or --socketfile name another place"));
        }
        let local = self.with_master(|master| {
            let number = master.forwards.fetch_add(1, Ordering::Relaxed);
            Ok(master.directory.path().join(format!("n{number}")))
        })?;
        let forward = Forward { ssh: Arc::clone(self), local, remote: remote.to_owned() };
        forward.tell("forward")?;
        Ok(forward)
    }

    /// What the master has said last: why a forwarded socket could not be opened, for one.
    pub fn last_words(&self) -> Option<String> {
        let master = self.master.lock().unwrap_or_else(PoisonError::into_inner);
        let said = master.as_ref()?.said();
        said.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
    }

    /// A client of the master: it needs none of the user's configuration, and never logs in by itself.
    fn client(&self) -> Result<Command> {
        let control = self.with_master(|master| Ok(master.control()))?;
        let mut command = process::command(&self.target.program);
        command.args(["-F", "none", "-o", "ControlMaster=no", "-o", "ProxyCommand=false", "-o", "BatchMode=yes"]);
        command.arg("-S").arg(control).process_group(0);
        Ok(command)
    }

    fn with_master<T>(&self, act: impl FnOnce(&Master) -> Result<T>) -> Result<T> {
        let mut master = self.master.lock().unwrap_or_else(PoisonError::into_inner);
        if !master.as_mut().is_some_and(Master::is_alive) {
            tracing::debug!("the ssh connection to {} is lost: logging in again", self.name());
            *master = None;
            *master = Some(Master::start(&self.target)?);
        }
        match master.as_ref() {
            Some(master) => act(master),
            None => Err(self.lost("")),
        }
    }

    fn lost(&self, stderr: &str) -> Error {
        trouble::explain(&self.target, stderr)
    }
}

impl Master {
    fn start(target: &SshTarget) -> Result<Self> {
        let directory = private_directory()?;
        let mut child = command(target, directory.path()).spawn().map_err(|error| {
            Error::io("start the ssh client", error).hint("install it (Debian: apt-get install openssh-client)")
        })?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let listener = child.stderr.take().map(|pipe| {
            let said = Arc::clone(&said);
            thread::spawn(move || listen(pipe, &said))
        });
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let master = Self { child, stdin, directory, said, forwards: AtomicU32::new(0) };
        let (send, receive) = channel();
        thread::spawn(move || {
            let Some(stdout) = stdout else { return };
            let mut lines = BufReader::new(stdout).split(b'\n').map_while(std::result::Result::ok);
            // Nobody may be waiting any more.
            let _ = send.send(lines.any(|line| line.trim_ascii() == READY.as_bytes()));
            lines.for_each(drop);
        });
        match receive.recv_timeout(LOGIN_TIMEOUT) {
            Ok(true) => Ok(master),
            Ok(false) => {
                // What it said last may still be in the pipe.
                let deadline = Instant::now() + END_TIMEOUT;
                while listener.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(trouble::explain(target, &master.said()))
            }
            Err(_) => Err(trouble::explain(target, "the login timed out")),
        }
    }

    fn control(&self) -> PathBuf {
        self.directory.path().join("c")
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None)) && self.control().exists()
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if let Ok(None) = end_within(&mut self.child, END_TIMEOUT) {
            // Not reaped before, so its id is still its own.
            if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// The master's command. The shell around it removes the directory when it ends, should nobody else be there.
fn command(target: &SshTarget, directory: &Path) -> Command {
    let mut command = process::command("sh");
    command.args(["-c", "\"$@\"; status=$?; rm -rf -- \"$0\"; exit $status"]).arg(directory).arg(&target.program);
    command.arg("-S").arg(directory.join("c"));
    for option in [
        "ControlMaster=yes",
        "ControlPersist=no",
        "BatchMode=yes",
        // What the user's configuration may say for logins by hand.
        "RemoteCommand=none",
        "RequestTTY=no",
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "PermitLocalCommand=no",
        "StreamLocalBindUnlink=yes",
        // A host that goes away is noticed within a minute.
        "ServerAliveInterval=15",
        "ServerAliveCountMax=4",
    ] {
        command.arg("-o").arg(option);
    }
    command.arg("-o").arg(format!("ConnectTimeout={CONNECT_SECONDS}"));
    if target.no_verify {
        command.args(["-o", "StrictHostKeyChecking=no"]);
    }
    if let Some(port) = target.port {
        command.arg("-p").arg(port.to_string());
    }
    if let Some(user) = &target.user {
        command.arg("-l").arg(user);
    }
    if let Some(key) = &target.private_key {
        command.arg("-i").arg(key);
    }
    command.arg("-T").arg("--").arg(&target.host).arg(shell::line(&format!("echo {READY}; exec cat"), &[]));
    // In a group of its own a Ctrl-C at the terminal reaches us alone, and is answered here.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command
}

/// Only this user can get at what is in it.
fn private_directory() -> Result<TempDir> {
    let make = |parent: &Path| {
        tempfile::Builder::new()
            .prefix("virtkeep-ssh-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(|error| Error::io("create a temporary directory", error).path(parent).hint("TMPDIR names another"))
    };
    let directory = make(&std::env::temp_dir())?;
    match directory.path().as_os_str().len() + 2 > MAX_CONTROL_PATH {
        true => make(Path::new("/tmp")),
        false => Ok(directory),
    }
}

/// Keeps what comes out of a pipe, the last of it.
fn listen(mut pipe: impl Read, said: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&buffer[..count]);
        let too_much = said.len().saturating_sub(MAX_SAID);
        said.drain(..too_much);
    }
}

impl Forward {
    /// The socket on this machine.
    pub fn local(&self) -> &Path {
        &self.local
    }

    /// The socket there.
    pub fn remote(&self) -> &Path {
        &self.remote
    }

    /// The machine.
    pub fn ssh(&self) -> &Arc<Ssh> {
        &self.ssh
    }

    fn tell(&self, order: &str) -> Result<()> {
        let mut command = self.ssh.client()?;
        let mut pair = self.local.clone().into_os_string();
        pair.push(":");
        pair.push(&self.remote);
        command.args(["-O", order, "-L"]).arg(pair).arg("--").arg(&self.ssh.target.host);
        let ended = process::output(command, FORWARD_TIMEOUT, 4096)?;
        if ended.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
        Err(Error::new(Kind::Io, format!("ssh can't {order} a socket of {}", self.ssh.name())).caused_by(said))
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // With the master it goes anyway; and a master that is gone is not to be started for this.
        let alive =
            self.ssh.master.lock().unwrap_or_else(PoisonError::into_inner).as_mut().is_some_and(Master::is_alive);
        if alive {
            if let Err(error) = self.tell("cancel") {
                tracing::debug!("{}", crate::error::report(&error));
            }
        }
        let _ = std::fs::remove_file(&self.local);
    }
}
