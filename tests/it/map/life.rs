//! How a map begins and ends: sockets, signals, --exec, --detach, unmap, what is refused.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use virtkeep::stream::codec::Compression;

use super::Map;
use super::chain::Chain;
use super::client::Client;
use crate::support::{MIB, program, run, virtkeep};

fn small() -> Chain {
    Chain::full(vec![7; MIB as usize], Compression::None)
}

#[test]
fn signals_end_it_with_status_0_and_the_socket_goes() {
    let chain = small();
    for signal in ["INT", "TERM"] {
        let map = Map::start(&["-f", &chain.list()]);
        let socket = map.socket.clone();
        assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut client = Client::connect(&socket, "vda", true);
        assert_eq!(client.read(0, 10), [7; 10]);
        // A client that stays does not hold it up.
        let run = map.end(signal).succeeds();
        assert!(!socket.exists() && !run.stderr.contains("warning"), "{}", run.stderr);
    }
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let chain = small();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let options = ["-f", &chain.list(), "-s", path.to_str().unwrap()];
    let command = |path: &Path| virtkeep(&[&"map", &"-e", &"true", &"-f", &chain.list(), &"-s", &path]);
    drop(UnixListener::bind(&path).unwrap());
    let map = Map::start_as(&options, tempfile::tempdir().unwrap(), path.clone());
    command(&path).ends_with(1).says(&["somebody listens there", "virtkeep unmap"]);
    assert_eq!(Client::connect(&path, "vda", true).size, MIB);
    // What took the path meanwhile is not ours to remove.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "x").unwrap();
    assert_eq!(map.end("TERM").status, 0);
    command(&path).ends_with(1).says(&["exists, and is no socket", "hint:"]);
    command(Path::new(&format!("/tmp/{}", "x".repeat(120)))).ends_with(2).says(&["too long for a socket"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"x");
}

#[test]
fn a_command_is_run_and_its_status_passed_on() {
    let chain = small();
    let list = chain.list();
    let map = |command: &str| virtkeep(&[&"map", &"-f", &list, &"-e", &command]);
    map("nbdinfo --size \"$uri\"").succeeds().stdout.contains("1048576").then_some(()).unwrap();
    map("test \"$uri\" = \"$uri_vda\" && test -S \"$unixsocket\" && exit 41").ends_with(41);
    map("kill -9 $$").ends_with(137);
    let left = map("echo \"$unixsocket\"").succeeds().stdout;
    assert!(!Path::new(left.trim()).exists(), "{left}");
    // Nothing of ours on standard output.
    assert_eq!(map("echo only").succeeds().stdout, "only\n");
}

#[test]
fn a_map_goes_on_in_the_background_until_it_is_unmapped() {
    let chain = small();
    let directory = tempfile::tempdir().unwrap();
    for by_number in [false, true] {
        let socket = directory.path().join("s");
        let log = directory.path().join("log");
        let run =
            virtkeep(&[&"map", &"-f", &chain.list(), &"-s", &socket, &"--detach", &"--log-file", &log]).succeeds();
        assert!(run.stdout.starts_with("nbd+unix:///vda?socket=") && run.stdout.lines().count() == 1, "{}", run.stdout);
        assert_eq!(Client::connect(&socket, "vda", true).read(5, 3), [7; 3]);
        if by_number {
            let stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            let process = rustix::net::sockopt::socket_peercred(&stream).unwrap().pid.as_raw_nonzero().to_string();
            virtkeep(&[&"unmap", &process]).succeeds();
        } else {
            virtkeep(&[&"unmap", &socket]).succeeds();
        }
        assert!(!socket.exists());
        assert!(std::fs::read_to_string(log).unwrap().contains("client 1 uses vda"));
        virtkeep(&[&"unmap", &socket]).ends_with(1);
    }
    virtkeep(&[&"unmap", &std::process::id().to_string()]).ends_with(2).says(&["is no map of this program"]);
    // It says why it does not begin, and leaves nothing.
    let missing = directory.path().join("missing");
    virtkeep(&[&"map", &"-f", &missing, &"--detach"]).ends_with(1).says(&["missing"]);
}

#[test]
fn the_default_socket_is_in_the_run_directory() {
    let chain = small();
    let run_directory = tempfile::tempdir().unwrap();
    let output = Command::new(program())
        .args(["map", "-f", &chain.list(), "-e", "echo \"$unixsocket\"; stat -c %a \"$(dirname \"$unixsocket\")\""])
        .env("XDG_RUNTIME_DIR", run_directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with(run_directory.path().to_str().unwrap()) && said.ends_with("\n700\n"), "{said}");
}

#[test]
fn a_tcp_port_is_served_with_a_warning() {
    let chain = small();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none");
    let map = Map::start_as(&["-f", &chain.list(), "--listen", "127.0.0.1:0"], directory, socket);
    assert!(map.uris[0].starts_with("nbd://127.0.0.1:"), "{:?}", map.uris);
    run("nbdcopy", &[&map.uris[0], &"null:"]).succeeds();
    map.end("TERM").succeeds().says(&["warning: 127.0.0.1:", "every user of this machine"]);
}

#[test]
fn what_makes_no_sense_is_refused_with_the_remedy() {
    let chain = small();
    let list = chain.list();
    let map = |options: &[&str]| {
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"map", &"-f", &list];
        all.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
        virtkeep(&all)
    };
    map(&["--tls-cert", "/tmp"]).ends_with(2);
    map(&["--listen", "127.0.0.1:0", "-s", "/tmp/x"]).ends_with(2);
    map(&["--detach", "-e", "true"]).ends_with(2);
    map(&["--overlay", "/tmp/x", "--overlay-dir", "/tmp"]).ends_with(2);
    map(&["--cache", "much"]).ends_with(2);
    map(&["-u", "2026-01-01"]).ends_with(2);
    map(&["--fuse", "/nonexistent"]).ends_with(2).says(&["is no directory", "hint:"]);
    virtkeep(&[&"map"]).ends_with(2);
}

/// A program that is not installed is asked for by name.
#[test]
fn missing_programs_are_named() {
    let chain = small();
    let empty = tempfile::tempdir().unwrap();
    // nbd-client lies in /usr/sbin, which is looked at, too: where it is there, its device is what is missing.
    for (option, value, words) in [
        ("--fuse", empty.path().to_str().unwrap(), "the program nbdfuse is missing"),
        ("--device", "/dev/nbd-none", "hint: "),
    ] {
        let output = Command::new(program())
            .args(["map", "-f", &chain.list(), option, value])
            .env("PATH", empty.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(words), "{said}");
    }
}

/// A map with `--fuse` whose disk is to be seen at `file`; none where the kernel's FUSE, or the right to mount, is missing
/// and the map says so.
fn shown(chain: &Chain, mount: &Path, file: &Path) -> Option<Map> {
    let map = Map::start(&["-f", &chain.list(), "--fuse", mount.to_str().unwrap()]);
    let begin = Instant::now();
    loop {
        if std::fs::read(file).is_ok_and(|content| content == chain.content) {
            return Some(map);
        }
        if map.said().contains("nbdfuse ended") {
            let usable = std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
            assert!(!usable, "{}", map.said());
            return None;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "neither: {}", map.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_disk_is_shown_as_a_file_or_it_is_said_why_not() {
    let chain = small();
    let mount = tempfile::tempdir().unwrap();
    let file = mount.path().join("vda");
    if let Some(map) = shown(&chain, mount.path(), &file) {
        map.end("TERM").succeeds();
    }
    assert!(!file.exists(), "the file is left");
}

/// What is mounted outlives its server, and nobody can look at it.
#[test]
fn a_killed_nbdfuse_leaves_no_mount() {
    let chain = small();
    let mount = tempfile::tempdir().unwrap();
    let file = mount.path().join("vda");
    let Some(map) = shown(&chain, mount.path(), &file) else { return };
    run("pkill", &[&"-KILL", &"-f", &format!("^nbdfuse .*{}", file.display())]).succeeds();
    let begin = Instant::now();
    while !map.said().contains("nbdfuse ended") {
        assert!(begin.elapsed() < Duration::from_secs(20), "it is not noticed: {}", map.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    map.end("TERM").ends_with(1);
    let left = file.symlink_metadata();
    assert!(left.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound), "{left:?}");
}
