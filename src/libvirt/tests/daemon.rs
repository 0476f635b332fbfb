//! A private libvirtd and its domains.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::super::backup_job::{BackupDisk, BackupMode, BackupSpec, Server};
use super::super::{Connection, Domain};

/// User and group `nobody`: root can't have a session daemon, and QEMU should not be root.
const NOBODY: u32 = 65534;
/// No condition is waited for longer than this.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A daemon of our own in a directory of its own; both end with it, and so do its domains.
pub struct Daemon {
    directory: TempDir,
    process: Child,
    /// Where it listens.
    pub uri: String,
}

impl Daemon {
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("vk-").tempdir_in("/tmp").unwrap();
        for name in ["", "run", "config", "config/libvirt", "cache", "scratch"] {
            let path = directory.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            if is_root() {
                chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        // Without it the daemon starts a log daemon that outlives it.
        std::fs::write(directory.path().join("config/libvirt/qemu.conf"), "stdio_handler = \"file\"\n").unwrap();
        let process = Self::launch(directory.path());
        let socket = directory.path().join("run/libvirt/libvirt-sock");
        let uri = format!("qemu:///session?socket={}", socket.display());
        let daemon = Self { directory, process, uri };
        daemon.wait();
        daemon
    }

    fn launch(directory: &Path) -> Child {
        // It tells every refused call, which the tests provoke.
        let log = std::fs::File::create(directory.join("libvirtd.log")).unwrap();
        Self::command(directory, "libvirtd").stdin(Stdio::null()).stderr(log).spawn().expect("libvirtd")
    }

    fn wait(&self) {
        let started = Instant::now();
        while Connection::open(&self.uri, None).is_err() {
            assert!(started.elapsed() < DEADLINE, "libvirtd does not answer");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the daemon, has `meanwhile` done, and starts it again; its domains go on.
    pub fn restart(&mut self, meanwhile: impl FnOnce()) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        meanwhile();
        self.process = Self::launch(self.directory.path());
        self.wait();
    }

    /// A command as the daemon's user, in its directories.
    fn command(directory: &Path, program: &str) -> Command {
        let mut command = if is_root() { Command::new("setpriv") } else { Command::new("env") };
        if is_root() {
            command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", "env"]);
        }
        command.arg("-i").arg("PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin");
        for (name, sub) in
            [("HOME", ""), ("XDG_RUNTIME_DIR", "run"), ("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache")]
        {
            command.arg(format!("{name}={}", directory.join(sub).display()));
        }
        command.arg(program);
        command
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let output = Self::command(self.directory.path(), program).args(args).output().expect(program);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        text
    }

    pub fn define(&self, connection: &Connection, name: &str) -> Domain {
        let mut disks = String::new();
        for target in ["vda", "vdb"] {
            let image = self.path(&format!("{name}-{target}.qcow2"));
            self.run("qemu-img", &["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "16M"]);
            disks += &format!(
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
                 <target dev='{target}' bus='virtio'/></disk>",
                image.display()
            );
        }
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices>\
             <emulator>/usr/bin/qemu-system-x86_64</emulator>{disks}\
             <disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk>\
             <controller type='usb' model='none'/><memballoon model='none'/>\
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>"
        );
        connection.define(&xml).unwrap()
    }

    /// Takes a bitmap away behind libvirt's back.
    pub fn remove_bitmap(&self, domain: &str, target: &str, bitmap: &str) {
        let image = self.path(&format!("{domain}-{target}.qcow2"));
        let nodes = self.monitor(domain, "query-named-block-nodes", serde_json::json!({"flat": true}));
        let node = nodes["return"]
            .as_array()
            .unwrap()
            .iter()
            .find(|node| node["drv"] == "qcow2" && node["image"]["filename"] == image.to_str().unwrap());
        let arguments = serde_json::json!({"node": node.unwrap()["node-name"], "name": bitmap});
        self.monitor(domain, "block-dirty-bitmap-remove", arguments);
    }

    fn monitor(&self, domain: &str, command: &str, arguments: serde_json::Value) -> serde_json::Value {
        let request = serde_json::json!({"execute": command, "arguments": arguments}).to_string();
        let answer = self.run("virsh", &["-q", "-c", &self.uri, "qemu-monitor-command", domain, &request]);
        serde_json::from_str(&answer).unwrap()
    }

    pub fn spec(&self, run: &str, disks: &[(&str, Option<&str>)], others: &[&str]) -> BackupSpec {
        let disk = |target: &str, from: Option<&str>| BackupDisk {
            target: target.to_owned(),
            export_name: target.to_owned(),
            scratch: self.path(&format!("scratch/{run}.{target}")),
            mode: from.map_or(BackupMode::Full, |from| BackupMode::Incremental { from: from.to_owned() }),
        };
        BackupSpec {
            server: Server::Unix(self.path(&format!("{run}.sock"))),
            disks: disks.iter().map(|(target, from)| disk(target, *from)).collect(),
            other_disks: others.iter().map(|target| (*target).to_owned()).collect(),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(connection) = Connection::open(&self.uri, None) {
            for domain in
                connection.domains().unwrap_or_default().iter().filter_map(|name| connection.domain(name).ok())
            {
                let _ = domain.destroy();
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
