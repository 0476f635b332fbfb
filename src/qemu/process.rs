//! Runs a tool to its end and turns every way it can fail into an error that names the tool.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::child::end_within;
use crate::error::{Error, Kind, Result};
use crate::units::{KIB, MIB};

/// Standard output kept of a tool: `qemu-img info` of an image with thousands of bitmaps and
/// snapshots stays under it.
const STDOUT_LIMIT: u64 = 16 * MIB;

/// Standard error kept of a tool; messages need the first line.
const STDERR_LIMIT: u64 = 64 * KIB;

/// A question about an image is answered at once.
const LIMIT: Duration = Duration::from_secs(60);

/// A change of an image reads and writes all of its bitmaps. Longer than any of it should take: a tool that is
/// killed leaves them useless.
pub(crate) const CHANGE_LIMIT: Duration = Duration::from_secs(3600);

/// How long a cancelled tool may go on.
const POLL: Duration = Duration::from_millis(20);

/// A command for `tool` whose messages are not translated and whose input is empty.
pub fn command(tool: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(tool);
    command.env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Runs `command` and returns its standard output.
///
/// # Errors
/// [`Kind::NotFound`] if the tool is not installed, [`Kind::Busy`] if it does not end within a minute, else
/// the exit status and the first line of standard error.
pub fn run(command: Command) -> Result<Vec<u8>> {
    run_within(command, LIMIT)
}

/// As [`run`], for a tool that changes an image and must not be killed in the middle: it gets an hour, and no
/// signal of the terminal's.
///
/// # Errors
/// As for [`run`].
pub fn run_to_end(mut command: Command) -> Result<Vec<u8>> {
    command.process_group(0);
    run_within(command, CHANGE_LIMIT)
}

/// A command that is killed should this process die before it, however that happens, and whose process id is
/// that of the tool. To be started by a thread that lives as long as it: its end counts as ours.
///
/// Between fork and exec nothing can be done without `unsafe`, so this program starts itself, asks for that,
/// and becomes the tool (`virtkeep bound`).
pub fn bound(tool: &str) -> Command {
    let mut command = command("/proc/self/exe");
    command.arg0("virtkeep").arg("bound").arg(std::process::id().to_string()).arg(tool);
    command
}

fn run_within(command: Command, limit: Duration) -> Result<Vec<u8>> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let Ended { status, stdout, stderr } = output(command, limit, STDOUT_LIMIT + 1)?;
    if !status.success() {
        return Err(failure(&tool, status, &stderr));
    }
    if stdout.len() as u64 > STDOUT_LIMIT {
        return Err(Error::new(Kind::Protocol, format!("{tool} writes more than {STDOUT_LIMIT} bytes")));
    }
    Ok(stdout)
}

/// What a program said until its end.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, as much of it as was asked for.
    pub stdout: Vec<u8>,
    /// The begin of standard error.
    pub stderr: Vec<u8>,
}

/// Runs `command` to its end, which must come within `limit`, and keeps at most `most` bytes of its standard output.
///
/// # Errors
/// [`Kind::NotFound`] if it is not installed, [`Kind::Busy`] after `limit`; how it ended is none.
pub fn output(mut command: Command, limit: Duration, most: u64) -> Result<Ended> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let mut child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    // Both pipes are drained at once: a tool that fills one while we read the other would hang.
    let stderr = child.stderr.take().map(|pipe| thread::spawn(move || drain(pipe, STDERR_LIMIT)));
    let stdout = child.stdout.take().map(|pipe| thread::spawn(move || drain(pipe, most)));
    let status = wait_within(&mut child, &tool, limit)?;
    let stdout = stdout.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let stderr = stderr.and_then(|thread| thread.join().ok()).unwrap_or_default();
    Ok(Ended { status, stdout, stderr })
}

/// A tool on storage that went away may never end, not even when it is killed.
fn wait_within(child: &mut Child, tool: &str, limit: Duration) -> Result<ExitStatus> {
    let ended = end_within(child, limit).map_err(|error| Error::io(&format!("wait for {tool}"), error))?;
    ended.ok_or_else(|| {
        let _ = child.kill();
        Error::new(Kind::Busy, format!("{tool} does not end within {} s", limit.as_secs()))
            .hint("does the storage answer?")
    })
}

/// Runs `command`, which prints nothing and may last, to its end or until `cancel` is set.
///
/// # Errors
/// As for [`run`], and [`Kind::Cancelled`].
pub fn run_until(mut command: Command, cancel: &Cancel) -> Result<()> {
    cancel.check()?;
    let tool = command.get_program().to_string_lossy().into_owned();
    // In a group of its own a Ctrl-C at the terminal reaches us alone, and is answered here.
    command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = spawn(&mut command)?;
    let stderr = child.stderr.take().map(|pipe| thread::spawn(move || drain(pipe, STDERR_LIMIT)));
    let status = loop {
        let ended = end_within(&mut child, POLL).map_err(|error| Error::io(&format!("wait for {tool}"), error))?;
        if let Some(status) = ended {
            break status;
        }
        if cancel.is_cancelled() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::cancelled());
        }
    };
    let stderr = stderr.and_then(|thread| thread.join().ok()).unwrap_or_default();
    if status.success() { Ok(()) } else { Err(failure(&tool, status, &stderr)) }
}

/// Starts `command`.
///
/// # Errors
/// [`Kind::NotFound`] with a hint if the tool is not installed.
pub fn spawn(command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|error| {
        let tool = command.get_program().to_string_lossy();
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let error = Error::io(&format!("start {tool}"), error);
        match &*tool {
            _ if !missing => error,
            "nbdinfo" => error.hint("it is in the package libnbd-bin"),
            _ => error.hint("install QEMU's tools (Debian: apt-get install qemu-utils)"),
        }
    })
}

/// The error of a tool that ended with `status` after writing `stderr`.
pub fn failure(tool: &str, status: ExitStatus, stderr: &[u8]) -> Error {
    let text = String::from_utf8_lossy(stderr);
    let name = std::path::Path::new(tool).file_name().map_or(tool.into(), OsStr::to_string_lossy);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let line = line.strip_prefix(name.as_ref()).and_then(|line| line.strip_prefix(':')).map_or(line, str::trim);
    // QEMU has no status of its own for it.
    let locked = line.contains("Failed to get") && line.ends_with("lock");
    let kind = if locked { Kind::Busy } else { Kind::Io };
    let error = Error::new(kind, format!("{name} failed ({status})"));
    if line.is_empty() { error } else { error.caused_by(line.to_owned()) }
}

/// The first `limit` bytes of a pipe; the rest is read and dropped so that the writer can end. A
/// read error ends it like the end of file: the exit status decides.
fn drain(mut pipe: impl Read, limit: u64) -> Vec<u8> {
    let mut kept = Vec::new();
    let _ = pipe.by_ref().take(limit).read_to_end(&mut kept);
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    kept
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::error::{hint, report};

    fn shell(script: &str) -> Command {
        let mut command = command("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_tool_that_does_not_end_is_given_up() {
        let error = run_within(shell("exec sleep 60"), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
    }

    #[test]
    fn failures_are_named() {
        let missing = run(command("/nonexistent/qemu-img")).unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
        assert!(hint(&missing).unwrap().contains("qemu-utils"));

        let failed = run(shell("echo; echo 'sh: no such disk' >&2; echo more >&2; exit 3")).unwrap_err();
        assert_eq!(report(&failed), "sh failed (exit status: 3): no such disk");

        let killed = run(shell("kill -9 $$")).unwrap_err();
        assert_eq!(report(&killed), "sh failed (signal: 9 (SIGKILL))");
    }

    #[test]
    fn long_work_can_be_cancelled() {
        let cancel = Cancel::new();
        run_until(shell("echo; exit 0"), &cancel).unwrap();
        let failed = run_until(shell("head -c 1000000 /dev/zero >&2; exit 3"), &cancel).unwrap_err();
        assert!(report(&failed).starts_with("sh failed (exit status: 3)"));
        let begin = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(100));
                cancel.cancel();
            });
            assert_eq!(run_until(shell("exec sleep 60"), &cancel).unwrap_err().kind(), Kind::Cancelled);
        });
        assert!(begin.elapsed() < Duration::from_secs(30));
        assert_eq!(run_until(shell("exit 0"), &cancel).unwrap_err().kind(), Kind::Cancelled);
    }

    #[test]
    fn endless_output_is_bounded() {
        let error = run(shell("head -c 20000000 /dev/zero; head -c 1000000 /dev/zero >&2")).unwrap_err();
        assert_eq!(error.kind(), Kind::Protocol);
        let error = run(shell("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1")).unwrap_err();
        assert!(report(&error).len() < 70_000);
    }

    #[test]
    fn output_is_returned_untranslated() {
        assert_eq!(run(shell("printf %s \"$LC_ALL\"; cat")).unwrap(), b"C");
    }
}
