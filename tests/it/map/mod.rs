//! `virtkeep map`: chains served over NBD, to real clients, odd ones and hostile ones.

#![allow(clippy::print_stdout, reason = "times are for who looks, not judged")]

mod boot;
mod chain;
mod client;
mod damage;
mod hostile;
mod kernel;
mod life;
mod real;
mod tls;
mod tools;
mod wire;
mod writable;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{CACHE, CONFIG, Run, program, run};

/// A map in the background; dropped, it is killed.
pub struct Map {
    child: Child,
    /// What it printed on standard output.
    pub uris: Vec<String>,
    pub socket: PathBuf,
    log: PathBuf,
    directory: tempfile::TempDir,
}

impl Map {
    /// Maps with these options, on a socket of its own, and waits until it serves.
    #[track_caller]
    pub fn start(options: &[&str]) -> Map {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let mut all = vec!["-s", socket.to_str().unwrap()];
        all.extend(options);
        Map::start_as(&all, directory, socket.clone())
    }

    /// Maps with exactly these options; `socket` is where it will listen.
    #[track_caller]
    pub fn start_as(options: &[&str], directory: tempfile::TempDir, socket: PathBuf) -> Map {
        let log = directory.path().join("stderr");
        let stderr = std::fs::File::create(&log).unwrap();
        let mut child = Command::new(program())
            .arg("map")
            .args(options)
            .env(CACHE.0, CACHE.1)
            .env(CONFIG.0, CONFIG.1)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut uris = Vec::new();
        // The first line comes when it listens; the others with it.
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        while !line.is_empty() {
            uris.push(line.trim_end().to_owned());
            line.clear();
            if out.buffer().is_empty() {
                break;
            }
            out.read_line(&mut line).unwrap();
        }
        let map = Map { child, uris, socket, log, directory };
        assert!(!map.uris.is_empty(), "it does not serve: {}", map.said());
        // Its standard output stays open, so that it can be written to.
        std::mem::forget(out);
        map
    }

    /// What it said on standard error so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it had so far, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        memory.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// A directory that goes with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until it has said `words`.
    #[track_caller]
    pub fn says(&self, words: &str) {
        let begin = Instant::now();
        while !self.said().contains(words) {
            assert!(begin.elapsed() < Duration::from_secs(60), "'{words}' is not in: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it by a signal; its exit status and what it said.
    #[track_caller]
    pub fn end(mut self, signal: &str) -> Run {
        use std::os::unix::process::ExitStatusExt;
        run("kill", &[&"-s", &signal, &self.child.id().to_string()]).succeeds();
        let begin = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(begin.elapsed() < Duration::from_secs(60), "it does not end: {}", self.said()),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Run {
            command: "virtkeep map".to_owned(),
            status: status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap(),
            stdout: self.uris.join("\n"),
            stderr: self.said(),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
