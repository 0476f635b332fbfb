//! Two hosts; `tests/hosts.sh` does the work.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Background, Case, Lab, Run, listing, program, run, spawn_command};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hosts.sh");

/// Two hosts. Dropped, they go with all that runs there; they go as well when this process is killed.
pub struct Hosts {
    directory: PathBuf,
    /// The lab of the other one.
    pub lab: Lab,
}

impl Hosts {
    #[track_caller]
    pub fn up() -> Hosts {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vkh{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        let hosts = Hosts { lab: Lab::at(directory.join("lab")), directory };
        run(SCRIPT, &[&"up", &hosts.directory, &"--owner", &std::process::id().to_string()]).succeeds();
        hosts
    }

    /// Where everything lives; the set goes here, for the lab is not seen from this side.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A domain there with a set here.
    #[track_caller]
    pub fn case(&self, name: &str, disks: &[&str]) -> Case<'_> {
        Case { lab: &self.lab, domain: self.lab.domain(name, disks), set: self.directory.join(format!("set-{name}")) }
    }

    /// The URI through ssh.
    pub fn ssh(&self) -> String {
        self.uri("ssh", "root@there", &[&format!("socket={}/run/libvirt/libvirt-sock", self.lab.directory().display())])
    }

    /// The URI with TLS.
    pub fn tls(&self) -> String {
        self.uri("tls", "there", &[&format!("pkipath={}", self.certificates("tls"))])
    }

    pub fn uri(&self, transport: &str, host: &str, parameters: &[&str]) -> String {
        format!("qemu+{transport}://{host}/session?{}", parameters.join("&"))
    }

    /// A directory with the client's certificates: `tls`, or `stranger` of another authority.
    pub fn certificates(&self, authority: &str) -> String {
        self.directory.join(authority).to_str().unwrap().to_owned()
    }

    /// Runs the program on this side.
    #[track_caller]
    pub fn virtkeep(&self, arguments: &[&dyn AsRef<OsStr>]) -> Run {
        self.here(Path::new(&program()), arguments)
    }

    /// Runs another program on this side.
    #[track_caller]
    pub fn here(&self, program: &Path, arguments: &[&dyn AsRef<OsStr>]) -> Run {
        let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"here", &self.directory, &program];
        all.extend_from_slice(arguments);
        run(SCRIPT, &all)
    }

    /// Backs up from this side.
    #[track_caller]
    pub fn backup(&self, case: &Case<'_>, uri: &str, options: &[&str]) -> Run {
        let arguments = self.arguments(case, uri, options);
        self.virtkeep(&arguments.iter().map(|argument| argument as &dyn AsRef<OsStr>).collect::<Vec<_>>())
    }

    /// As [`Hosts::backup`]; the newest point must be what the guest sees, and nothing may be left on either side.
    #[track_caller]
    pub fn backs_up(&self, case: &Case<'_>, uri: &str, options: &[&str], disks: &[&str]) -> Run {
        let references = case.domain.snapshot_references(disks);
        let run = self.backup(case, uri, options).succeeds();
        case.restores(&[], disks, &references);
        self.no_traces(case);
        run
    }

    /// Starts a backup that meets `fault`.
    pub fn spawn(&self, case: &Case<'_>, uri: &str, options: &[&str], fault: &str) -> Background {
        let mut command = Command::new(SCRIPT);
        command.arg("here").arg(&self.directory).arg(program()).args(self.arguments(case, uri, options));
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let log = self.directory.join(format!("stderr.{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        spawn_command(command, fault, log)
    }

    fn arguments(&self, case: &Case<'_>, uri: &str, options: &[&str]) -> Vec<OsString> {
        let mut all: Vec<OsString> = ["backup", "-n", "-d", case.domain.name(), "-U", uri, "-o"].map(Into::into).into();
        all.push(case.set.clone().into());
        all.extend(["--scratchdir".into(), self.lab.scratch().into()]);
        all.extend(options.iter().map(|&option| option.into()));
        all
    }

    /// Fails the test if anything but the backup is left, on either side.
    #[track_caller]
    pub fn no_traces(&self, case: &Case<'_>) {
        case.no_traces();
        self.no_connections();
    }

    /// Fails the test if a login of a run that is over is left.
    #[track_caller]
    pub fn no_connections(&self) {
        crate::crash::guest::waits_until("the temporary directory is empty", || {
            listing(&self.directory.join("here/tmp")).is_empty()
        });
        let left = || run("ip", &[&"netns", &"pids", &format!("{}-here", self.name())]).succeeds().stdout;
        crate::crash::guest::waits_until("nothing runs here", || left().trim().is_empty());
        // Commands of an ended login, there: each sshd but the one that listens.
        let pids = || run("ip", &[&"netns", &"pids", &format!("{}-there", self.name())]).succeeds().stdout;
        let is_login = |pid: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                line.starts_with("sshd: ") && !line.contains("[listener]") || line.starts_with("qemu-nbd")
            })
        };
        crate::crash::guest::waits_until("nobody is logged in there", || !pids().split_whitespace().any(is_login));
    }

    fn name(&self) -> String {
        self.directory.file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// Listens at a socket there.
    pub fn listen(&self, socket: &Path) -> Child {
        let mut command = Command::new(SCRIPT);
        command.arg("there").arg(&self.directory).args(["nc", "-lkU"]).arg(socket).stdin(Stdio::null());
        command.spawn().unwrap()
    }

    /// Restarts the sshd there with these lines in its configuration.
    #[track_caller]
    pub fn sshd(&self, lines: &[&str]) {
        let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"sshd", &self.directory];
        all.extend(lines.iter().map(|line| line as &dyn AsRef<OsStr>));
        run(SCRIPT, &all).succeeds();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let down = run(SCRIPT, &[&"down", &self.directory]);
        // A second panic would hide the first one.
        if !std::thread::panicking() {
            down.succeeds();
        }
    }
}
