//! One guestfish, told what to do line by line.
//!
//! ```text
//! -ls0 "/etc" "-"  ─▶ guestfish ─▶ fstab NUL passwd NUL … MARK
//! echo "MARK"      ─▶           ─▶ (stderr) libguestfs: error: …, if it failed
//! ```
//!
//! Standard output carries whatever the guest has, a whole disk's worth of it if need be. The mark behind it is
//! new for each guestfish and can't be guessed. An error is written before the mark is, to a pipe of its own.

mod output;
mod said;

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

pub use self::output::Output;
use self::said::{complaint, failure, keep};
use super::{PROGRAM, quote};
use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::host::temporary;

/// How libguestfs starts QEMU.
const BACKEND: &str = "LIBGUESTFS_BACKEND";
/// Where libguestfs keeps the appliance.
const CACHE: &str = "LIBGUESTFS_CACHEDIR";
/// How often the cancel flag is looked at while guestfish is busy.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Most that is kept of an answer; lists of names of the largest directories are below it.
const MAX_ANSWER: usize = 256 << 20;
/// Time for the appliance to shut down.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time for guestfish to clear up behind an appliance that was killed: less than a signal leaves this program.
const HASTE: Duration = Duration::from_millis(3000);

/// A running guestfish with its appliance; dropped, both end, and clear up.
pub struct Shell {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
    cancel: Cancel,
    mark: Vec<u8>,
    /// Of standard output, not taken yet.
    answer: Vec<u8>,
    /// Of standard error, since the last command began.
    errors: Vec<u8>,
    /// Every command so far was answered.
    in_order: bool,
}

impl Shell {
    /// Starts guestfish and the appliance with these exports of an NBD server on a Unix socket as disks, in this
    /// order. Nothing that is done reaches them: what the appliance writes, a journal's replay say, goes to overlays
    /// of its own. These and all else that is temporary lie beside the socket: a QEMU that is killed leaves some.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without guestfish; [`Kind::Io`] with what it says where the appliance does not start;
    /// [`Kind::Cancelled`].
    pub fn launch(socket: &Path, exports: &[String], cancel: &Cancel) -> Result<Self> {
        let mut command = Command::new(PROGRAM);
        command.args(["--ro", "--no-progress-bars", "--keys-from-stdin"]);
        // In a group of its own a Ctrl-C at the terminal reaches us alone, and is answered here.
        command.env("LC_ALL", "C").process_group(0);
        if std::env::var_os(BACKEND).is_none() {
            // By way of libvirt QEMU may run as a user who can't reach our socket.
            command.env(BACKEND, "direct");
        }
        // The appliance itself is built once for all.
        if std::env::var_os(CACHE).is_none() {
            command.env(CACHE, temporary());
        }
        if let Some(directory) = socket.parent() {
            command.env("TMPDIR", directory);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Error::io("start guestfish", error))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mark = format!("\x1e{}\n", uuid::Uuid::new_v4()).into_bytes();
        let (answer, errors) = (Vec::new(), Vec::new());
        let cancel = cancel.clone();
        let mut shell = Self { child, stdin, stdout, stderr, cancel, mark, answer, errors, in_order: true };
        let server = [b"server:unix:", socket.as_os_str().as_bytes()].concat();
        for export in exports {
            shell.call("add-drive", &[export.as_bytes(), b"readonly:true", b"format:raw", b"protocol:nbd", &server])?;
        }
        shell.call("run", &[]).map_err(|error| {
            error.hint(
                "`libguestfs-test-tool` shows what is wrong with libguestfs on this host; where the message is about \
                 KVM, LIBGUESTFS_BACKEND_SETTINGS=force_tcg does without; where it is about supermin, the usual cause is that /boot/vmlinuz-* is not \
                 there or for root alone to read; $TMPDIR and /var/tmp need some space",
            )
        })?;
        Ok(shell)
    }

    /// Runs a command and returns its whole output.
    ///
    /// # Errors
    /// What guestfish says, [`Kind::NotFound`] where it is about a file that is not there.
    pub fn call(&mut self, command: &str, arguments: &[&[u8]]) -> Result<Vec<u8>> {
        let mut answer = Vec::new();
        let mut output = self.stream(command, arguments)?;
        let taken = output.by_ref().take(MAX_ANSWER as u64 + 1).read_to_end(&mut answer);
        taken.map_err(|error| Error::io("hear guestfish", error))?;
        if answer.len() > MAX_ANSWER {
            return Err(Error::unsupported(format!("the answer to {command} is more than {MAX_ANSWER} bytes")));
        }
        output.finish()?;
        Ok(answer)
    }

    /// The same as text, without the line feed at its end. What is no UTF-8 is replaced.
    ///
    /// # Errors
    /// As for [`Shell::call`].
    pub fn text(&mut self, command: &str, arguments: &[&[u8]]) -> Result<String> {
        let answer = self.call(command, arguments)?;
        let text = String::from_utf8_lossy(&answer);
        Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    /// Opens an encrypted device as `/dev/mapper/NAME`.
    ///
    /// # Errors
    /// As for [`Shell::call`].
    pub fn open_encrypted(&mut self, device: &str, name: &str, key: &[u8]) -> Result<()> {
        let mut lines = quote::line("cryptsetup-open", &[device.as_bytes(), name.as_bytes()])?;
        // The option is no quoted word.
        lines.pop();
        lines.extend(b" readonly:true\n");
        // The key is taken from the next line (--keys-from-stdin).
        lines.extend(key);
        lines.push(b'\n');
        let mut output = self.send(lines)?;
        std::io::copy(&mut output, &mut std::io::sink()).map_err(|error| Error::io("hear guestfish", error))?;
        output.finish()
    }

    /// Begins a command whose output is read as it comes.
    ///
    /// # Errors
    /// Where guestfish is gone; whether the command itself fails [`Output::finish`] says.
    pub fn stream(&mut self, command: &str, arguments: &[&[u8]]) -> Result<Output<'_>> {
        self.send(quote::line(command, arguments)?)
    }

    fn send(&mut self, mut lines: Vec<u8>) -> Result<Output<'_>> {
        self.cancel.check()?;
        if !self.in_order {
            return Err(Error::new(Kind::Protocol, "an answer of guestfish was not taken to its end"));
        }
        self.errors.clear();
        self.in_order = false;
        lines.extend(b"echo \"\\x1e");
        lines.extend(&self.mark[1..self.mark.len() - 1]);
        lines.extend(b"\"\n");
        let written = self.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(&lines).and_then(|()| stdin.flush()));
        if written.is_err() {
            return Err(self.gone());
        }
        Ok(Output { shell: self, ended: false })
    }

    /// Waits until more of standard output is there, and takes it. False at its end.
    fn hear(&mut self) -> Result<bool> {
        let mut buffer = [0; 64 << 10];
        loop {
            self.cancel.check()?;
            let (Some(stdout), Some(stderr)) = (&mut self.stdout, &mut self.stderr) else { return Ok(false) };
            let mut waiting = [
                PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN),
            ];
            match poll(&mut waiting, Some(&TICK)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(Error::io("hear guestfish", error)),
            }
            let [said, complained] = [waiting[0].revents(), waiting[1].revents()];
            let failed = |error| Error::io("hear guestfish", error);
            if !complained.is_empty() {
                let count = stderr.read(&mut buffer).map_err(failed)?;
                keep(&mut self.errors, &buffer[..count]);
                // At its end it would be ready for ever; standard output ends with it.
                if count > 0 {
                    continue;
                }
            }
            if !said.is_empty() {
                let count = stdout.read(&mut buffer).map_err(failed)?;
                self.answer.extend_from_slice(&buffer[..count]);
                return Ok(count > 0);
            }
            if complained.contains(PollFlags::HUP) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// What is in the pipe of standard error already.
    fn hear_errors(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        let Some(stderr) = &mut self.stderr else { return Ok(()) };
        loop {
            let mut waiting = [PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            match poll(&mut waiting, Some(&now)) {
                Ok(0) => return Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(Error::io("hear guestfish", error)),
            }
            let count = stderr.read(&mut buffer).map_err(|error| Error::io("hear guestfish", error))?;
            if count == 0 {
                return Ok(());
            }
            keep(&mut self.errors, &buffer[..count]);
        }
    }

    /// Fails if the command that was answered has failed.
    fn judge(&mut self) -> Result<()> {
        self.hear_errors()?;
        match complaint(&self.errors) {
            None => Ok(()),
            Some(text) => Err(failure(&text)),
        }
    }

    /// The error of a guestfish that has ended by itself.
    fn gone(&mut self) -> Error {
        // It may have said why.
        let _ = self.hear_errors();
        let text = complaint(&self.errors).or_else(|| {
            let text = String::from_utf8_lossy(&self.errors).trim().to_owned();
            (!text.is_empty()).then_some(text)
        });
        let error = Error::new(Kind::Io, "guestfish ended early");
        match text {
            Some(text) => error.caused_by(text),
            None => error,
        }
    }

    /// Takes what guestfish still says, so that it does not wait for us, until it ends.
    fn ends_within(&mut self, limit: Duration, go_on: impl Fn(&Self) -> bool) -> bool {
        let begin = Instant::now();
        let mut buffer = [0; 64 << 10];
        while begin.elapsed() < limit && go_on(self) {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return true;
            }
            let (Some(stdout), Some(stderr)) = (&mut self.stdout, &mut self.stderr) else { return false };
            let mut waiting = [
                PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN),
            ];
            let _ = poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }));
            let [said, complained] = [waiting[0].revents(), waiting[1].revents()];
            let mut count = 0;
            if !said.is_empty() {
                count += stdout.read(&mut buffer).unwrap_or(0);
            }
            if !complained.is_empty() {
                count += stderr.read(&mut buffer).unwrap_or(0);
            }
            if count == 0 {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        false
    }
}

impl Drop for Shell {
    /// At the end of its input guestfish shuts the appliance down and removes what it made. In a hurry the
    /// appliance is killed: guestfish notices, and clears up as well.
    fn drop(&mut self) {
        self.stdin = None;
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let in_time = |shell: &Self| !shell.cancel.is_cancelled();
        if self.in_order && self.ends_within(PATIENCE, in_time) {
            return;
        }
        for process in group.into_iter().flat_map(others) {
            // It may have ended by itself.
            let _ = kill_process(process, Signal::KILL);
        }
        if !self.ends_within(HASTE, |_| true) {
            if let Some(group) = group {
                let _ = kill_process_group(group, Signal::KILL);
            }
            tracing::warn!(
                "guestfish did not end and was killed: a directory libguestfs… may be left in $TMPDIR or /tmp"
            );
        }
        let _ = self.child.wait();
    }
}

/// The processes that guestfish has started: they are of the group that it leads.
fn others(group: Pid) -> Vec<Pid> {
    let of_group = |name: &OsStr| -> Option<Pid> {
        let process = name.to_str()?.parse::<i32>().ok().and_then(Pid::from_raw)?;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
        // The name, in brackets, may hold anything; behind it: state, parent, group.
        let fields = stat.rsplit_once(')')?.1;
        let of = fields.split_whitespace().nth(2)?.parse::<i32>().ok().and_then(Pid::from_raw)?;
        (of == group && process != group).then_some(process)
    };
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name: OsString| of_group(&name)).collect()
}
