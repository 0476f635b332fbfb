//! Another machine, by way of ssh: each question is a command there, of a POSIX shell, coreutils and QEMU's tools.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

use super::ssh::Ssh;
use super::{FileFacts, FileKind, Space};
use crate::error::{Error, Kind, Result};
use crate::proc_locks;
use crate::qemu::process::{self, Ended};
use crate::units::{KIB, MIB};

/// A question about a file is answered at once, unless the network or the storage there hangs.
const LIMIT: Duration = Duration::from_secs(20);
/// One about an image may take a little longer.
const TOOL_LIMIT: Duration = Duration::from_secs(60);
/// A file is fetched within this, see [`super::Host::read`] for how large they are.
const READ_LIMIT: Duration = Duration::from_secs(300);
/// What `qemu-img info` can say, or a list of all sockets.
const MAX_ANSWER: u64 = 16 * MIB;
/// A shell's status for a program that is not there.
const NO_PROGRAM: i32 = 127;
/// Status of our scripts for a file that is not there.
const NO_FILE: i32 = 44;
/// `__SO_ACCEPTCON` among the flags of a socket: it listens.
const LISTENS: u32 = 0x1_0000;

pub(super) fn run(ssh: &Ssh, tool: &str, args: &[OsString]) -> Result<Vec<u8>> {
    run_within(ssh, tool, args, TOOL_LIMIT)
}

/// What runs without a terminal goes on where the connection is lost.
pub(super) fn run_to_end(ssh: &Ssh, tool: &str, args: &[OsString]) -> Result<Vec<u8>> {
    run_within(ssh, tool, args, process::CHANGE_LIMIT)
}

fn run_within(ssh: &Ssh, tool: &str, args: &[OsString], limit: Duration) -> Result<Vec<u8>> {
    let words: Vec<OsString> = std::iter::once(tool.into()).chain(args.iter().cloned()).collect();
    let script = "command -v \"$1\" >/dev/null 2>&1 || exit 127; exec \"$@\"";
    let ended = ssh.run(script, &words, limit, MAX_ANSWER + 1)?;
    if ended.status.code() == Some(NO_PROGRAM) {
        return Err(Error::new(Kind::NotFound, format!("{tool} is not installed on {}", ssh.name()))
            .hint("install QEMU's tools there (Debian: apt-get install qemu-utils)"));
    }
    if ended.stdout.len() as u64 > MAX_ANSWER {
        return Err(Error::new(Kind::Protocol, format!("{tool} writes more than {MAX_ANSWER} bytes")));
    }
    match ended.status.success() {
        true => Ok(ended.stdout),
        false => Err(process::failure(tool, ended.status, &ended.stderr)),
    }
}

pub(super) fn file(ssh: &Ssh, path: &Path) -> Result<FileFacts> {
    let answer = ask(ssh, "open", "exec stat -L -c '%f %s' -- \"$1\"", path, KIB)?;
    let text = String::from_utf8_lossy(&answer);
    let mut fields = text.split_ascii_whitespace();
    let mode = fields.next().and_then(|field| u32::from_str_radix(field, 16).ok());
    let size = fields.next().and_then(|field| field.parse().ok());
    let (Some(mode), Some(size)) = (mode, size) else { return Err(senseless(ssh, "stat", path)) };
    let kind = match mode & 0xf000 {
        0x8000 => FileKind::File,
        0x4000 => FileKind::Directory,
        0x6000 => FileKind::Block,
        0xc000 => FileKind::Socket,
        _ => FileKind::Other,
    };
    Ok(FileFacts { kind, size })
}

pub(super) fn read(ssh: &Ssh, path: &Path, limit: u64) -> Result<Vec<u8>> {
    // A pipe would be waited for.
    if file(ssh, path)?.kind != FileKind::File {
        return Err(Error::unsupported("not a regular file").path(path));
    }
    let most = limit.saturating_add(1);
    let words = [path.as_os_str().to_owned(), most.to_string().into()];
    let ended = ssh.run("exec head -c \"$2\" -- \"$1\"", &words, READ_LIMIT, most)?;
    let content = answer("read", path, ended)?;
    if content.len() as u64 > limit {
        return Err(Error::unsupported(format!("has more than {limit} bytes")).path(path));
    }
    Ok(content)
}

pub(super) fn remove(ssh: &Ssh, path: &Path) -> Result<()> {
    ask(ssh, "remove", "exec rm -f -- \"$1\"", path, KIB).map(drop)
}

pub(super) fn listens(ssh: &Ssh, path: &Path) -> bool {
    // The file is the kernel's: there is no other way to ask without a program there.
    let list = ask(ssh, "read", "exec cat -- \"$1\"", Path::new("/proc/net/unix"), MAX_ANSWER);
    // What can't be known may be somebody's.
    list.map_or(true, |list| has_listener(&list, path))
}

/// Whether a list of the kernel's has a socket that listens at `path`.
fn has_listener(list: &[u8], path: &Path) -> bool {
    let listens = |line: &[u8]| -> Option<bool> {
        // Num RefCount Protocol Flags Type St Inode Path
        let mut rest = line;
        let mut flags = 0;
        for column in 0..7 {
            rest = rest.trim_ascii_start();
            let end = rest.iter().position(|&byte| byte == b' ')?;
            if column == 3 {
                flags = u32::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
            }
            rest = &rest[end..];
        }
        Some(flags & LISTENS != 0 && rest.strip_prefix(b" ")? == path.as_os_str().as_bytes())
    };
    list.split(|&byte| byte == b'\n').any(|line| listens(line) == Some(true))
}

pub(super) fn space(ssh: &Ssh, directory: &Path) -> Result<Space> {
    let answer = ask(ssh, "look at the free space", "exec stat -f -c '%S %b %a' -- \"$1\"", directory, KIB)?;
    let text = String::from_utf8_lossy(&answer);
    let numbers: Vec<u64> = text.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    match numbers[..] {
        [block, all, free] => Ok(Space { size: block.saturating_mul(all), free: block.saturating_mul(free) }),
        _ => Err(senseless(ssh, "stat", directory)),
    }
}

pub(super) fn names(ssh: &Ssh, directory: &Path) -> Result<Vec<OsString>> {
    let script =
        "cd -- \"$1\" && for f in * .[!.]*; do if [ -e \"$f\" ] || [ -L \"$f\" ]; then printf '%s\\0' \"$f\"; fi; done";
    let answer = ask(ssh, "read directory", script, directory, MAX_ANSWER)?;
    let names = answer.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
}

pub(super) fn is_locked(ssh: &Ssh, path: &Path) -> Option<bool> {
    let script = format!(
        "if [ ! -e \"$1\" ] && [ ! -L \"$1\" ]; then exit {NO_FILE}; fi; stat -c %i -- \"$1\" && exec cat /proc/locks"
    );
    let ended = ssh.run(&script, &[path.into()], LIMIT, MAX_ANSWER).ok()?;
    if ended.status.code() == Some(NO_FILE) {
        return Some(false);
    }
    let text = String::from_utf8(ended.stdout).ok().filter(|_| ended.status.success())?;
    let (inode, locks) = text.split_once('\n')?;
    Some(proc_locks::lists(locks, inode.parse().ok()?))
}

/// Runs a script on one path.
fn ask(ssh: &Ssh, operation: &str, script: &str, path: &Path, most: u64) -> Result<Vec<u8>> {
    answer(operation, path, ssh.run(script, &[path.into()], LIMIT, most)?)
}

pub(super) fn answer(operation: &str, path: &Path, ended: Ended) -> Result<Vec<u8>> {
    if ended.status.success() {
        return Ok(ended.stdout);
    }
    let said = OsString::from_vec(ended.stderr).to_string_lossy().trim().to_owned();
    // coreutils' words, which are not translated for us.
    let is_missing = said.contains("No such file or directory") || said.contains("Not a directory");
    let kind = if is_missing { Kind::NotFound } else { Kind::Io };
    Err(Error::new(kind, operation).path(path).caused_by(said))
}

fn senseless(ssh: &Ssh, tool: &str, path: &Path) -> Error {
    Error::new(Kind::Protocol, format!("what {tool} says on {} makes no sense", ssh.name())).path(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_in_the_kernels_list() {
        let list = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 24019 /run/a b.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 24020 /run/c.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 24021\n\xff\n";
        for (path, listens) in [("/run/a b.sock", true), ("/run/c.sock", false), ("/run/a", false), ("", false)] {
            assert_eq!(has_listener(list, Path::new(path)), listens, "{path}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let now = || std::fs::read("/proc/net/unix").unwrap();
        assert!(!has_listener(&now(), &path));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(has_listener(&now(), &path));
        drop(listener);
        assert!(!has_listener(&now(), &path));
    }
}
