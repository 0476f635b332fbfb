//! Backups in the background, to be interrupted.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{CACHE, CONFIG, Case, Lab, Run, listing, program, run};

/// What gives a test the time to meet a backup while it copies: four seconds for the disk of 48 MiB that most have.
pub const SLOWLY: &str = "--disk-rate-limit=12M";

/// A disk that is all data: `size` MiB of random bytes.
pub fn random_disk(lab: &Lab, size: u64) -> String {
    let directory = lab.fresh_directory();
    let (raw, image) = (directory.join("raw"), directory.join("d-vda.qcow2"));
    run("sh", &[&"-c", &format!("head -c {size}M /dev/urandom >\"$0\""), &raw]).succeeds();
    run("qemu-img", &[&"convert", &"-f", &"raw", &"-O", &"qcow2", &raw, &image]).succeeds();
    std::fs::remove_file(raw).unwrap();
    // QEMU may run as somebody else.
    run("chmod", &[&"777", &directory]).succeeds();
    run("chmod", &[&"666", &image]).succeeds();
    format!("vda:0:path={}", image.display())
}

/// A run of the program in the background, ended with this value.
pub struct Background {
    child: Child,
    log: PathBuf,
}

/// Starts a backup.
pub fn spawn(case: &Case<'_>, options: &[&str]) -> Background {
    spawn_with(case, options, "")
}

/// Starts a backup that meets `fault`, see `src/fault.rs`.
pub fn spawn_with(case: &Case<'_>, options: &[&str], fault: &str) -> Background {
    start(case.lab, case.arguments(&case.set, options), fault)
}

/// Starts the program with `arguments`.
pub fn spawn_arguments(lab: &Lab, arguments: &[&str]) -> Background {
    start(lab, arguments.iter().map(|argument| (*argument).into()).collect(), "")
}

fn start(lab: &Lab, arguments: Vec<std::ffi::OsString>, fault: &str) -> Background {
    let mut command = Command::new(program());
    command.args(arguments);
    spawn_command(command, fault, lab.fresh_directory().join("stderr"))
}

/// Starts a command that runs the program, which meets `fault`; what it says goes to `log`.
pub fn spawn_command(mut command: Command, fault: &str, log: PathBuf) -> Background {
    let stderr = std::fs::File::create(&log).unwrap();
    let child = command
        .env("VIRTKEEP_FAULT", fault)
        .env(CACHE.0, CACHE.1)
        .env(CONFIG.0, CONFIG.1)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    Background { child: child.spawn().unwrap(), log }
}

impl Background {
    /// Waits until the copy has begun.
    #[track_caller]
    pub fn copies(&mut self, case: &Case<'_>) {
        let begin = Instant::now();
        while !listing(&case.set).iter().any(|name| name.ends_with(".data.partial")) {
            let said = || std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(begin.elapsed() < Duration::from_secs(20), "no copy begins: {}", said());
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until a fault has stopped it.
    #[track_caller]
    pub fn stops(&mut self) {
        let stat = format!("/proc/{}/stat", self.child.id());
        let begin = Instant::now();
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            let said = || std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(begin.elapsed() < Duration::from_secs(20), "it does not stop: {}", said());
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until `done`.
    #[track_caller]
    pub fn until(&mut self, done: impl Fn() -> bool) {
        let begin = Instant::now();
        while !done() {
            let said = || std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(begin.elapsed() < Duration::from_secs(60), "it does not come to it: {}", said());
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        run("kill", &[&"-s", &signal, &self.child.id().to_string()]).succeeds();
    }

    #[track_caller]
    pub fn wait(mut self) -> Run {
        use std::os::unix::process::ExitStatusExt;
        let begin = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(begin.elapsed() < Duration::from_secs(60), "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Run {
            command: "virtkeep backup in the background".to_owned(),
            status: status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap(),
            stdout: String::new(),
            stderr: std::fs::read_to_string(&self.log).unwrap(),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
