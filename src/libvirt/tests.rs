//! The driver against a real libvirtd: a private one, with a domain of two qcow2 disks whose guest never
//! runs. One test walks through all of it, as starting QEMU is what takes the time.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::backup_job::{self, ActiveJob, BackupDisk, BackupMode, BackupSpec};
use super::checkpoint::{self, Checkpoint, DeleteMode, Discarded};
use super::domain::{PauseReason, State};
use super::domain_xml::{Adjustment, DomainConfig, NewSource, adjust};
use super::{Connection, Domain, agent, code, code_of};
use crate::error::{Kind, report};

/// User and group `nobody`: root can't have a session daemon, and QEMU should not be root.
const NOBODY: u32 = 65534;
const DEADLINE: Duration = Duration::from_secs(60);

/// A daemon of our own in a directory of its own; both end with it, and so do its domains.
struct Daemon {
    directory: TempDir,
    process: Child,
    uri: String,
}

impl Daemon {
    fn start() -> Self {
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
        // It tells every refused call, which the tests provoke.
        let log = std::fs::File::create(directory.path().join("libvirtd.log")).unwrap();
        let process =
            Self::command(directory.path(), "libvirtd").stdin(Stdio::null()).stderr(log).spawn().expect("libvirtd");
        let socket = directory.path().join("run/libvirt/libvirt-sock");
        let uri = format!("qemu:///session?socket={}", socket.display());
        let daemon = Self { directory, process, uri };
        let started = Instant::now();
        while Connection::open(&daemon.uri, None).is_err() {
            assert!(started.elapsed() < DEADLINE, "libvirtd does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        daemon
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

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        let output = Self::command(self.directory.path(), program).args(args).output().expect(program);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        text
    }

    fn define(&self, connection: &Connection, name: &str) -> Domain {
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
    fn remove_bitmap(&self, domain: &str, target: &str, bitmap: &str) {
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

    fn spec(&self, run: &str, disks: &[(&str, Option<&str>)], others: &[&str]) -> BackupSpec {
        let disk = |target: &str, from: Option<&str>| BackupDisk {
            target: target.to_owned(),
            export_name: target.to_owned(),
            scratch: self.path(&format!("scratch/{run}.{target}")),
            mode: from.map_or(BackupMode::Full, |from| BackupMode::Incremental { from: from.to_owned() }),
        };
        BackupSpec {
            socket: self.path(&format!("{run}.sock")),
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

fn targets(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn new_checkpoint(name: &str) -> String {
    checkpoint::new_xml(name, "of a test & more", &targets(&["vda", "vdb"]), &targets(&["hda"])).unwrap()
}

fn names(domain: &Domain) -> Vec<String> {
    checkpoint::list(domain).unwrap().into_iter().map(|checkpoint| checkpoint.name).collect()
}

fn find(domain: &Domain, name: &str) -> Checkpoint {
    checkpoint::list(domain).unwrap().into_iter().find(|checkpoint| checkpoint.name == name).expect(name)
}

#[test]
fn driver_against_a_real_daemon() {
    let daemon = Daemon::start();
    let connection = Connection::open(&daemon.uri, None).unwrap();
    let domain = daemon.define(&connection, "d");
    a_domain_that_is_off(&connection, &domain);
    domain.start_paused(true).unwrap();
    assert_eq!(domain.state().unwrap(), State::Paused(PauseReason::User));
    full_job(&daemon, &domain);
    incremental_and_mixed_jobs(&daemon, &domain);
    jobs_that_cannot_begin(&daemon, &connection, &domain);
    busy_domain(&daemon, &connection, &domain);
    lost_metadata(&domain);
    lost_bitmaps(&daemon, &domain);
    agent_that_is_not_there(&domain);
    restored_xml_is_accepted(&connection, &domain);
    domain.destroy().unwrap();
    assert_eq!(domain.state().unwrap(), State::ShutOff);
    a_checkpoint_of_a_domain_that_is_off(&domain);
    domain.undefine().unwrap();
    assert_eq!(connection.domain("d").unwrap_err().kind(), Kind::NotFound);
    a_daemon_that_dies_is_noticed(daemon, &connection);
}

fn a_domain_that_is_off(connection: &Connection, domain: &Domain) {
    assert_eq!(domain.state().unwrap(), State::ShutOff);
    assert!(!domain.is_active().unwrap() && domain.is_persistent().unwrap());
    assert!(connection.hypervisor_version().unwrap() >= 4_000_000);
    let unknown = Connection::open(&connection.requested_uri().replace("qemu:", "nope:"), None).unwrap_err();
    assert_eq!(unknown.kind(), Kind::Usage, "{}", report(&unknown));
    assert_eq!(backup_job::active_job(domain).unwrap(), ActiveJob::None);
    assert_eq!(domain.disk_errors().unwrap(), []);
    let spec = BackupSpec { socket: "/x".into(), disks: Vec::new(), other_disks: Vec::new() };
    let error = backup_job::begin(domain, &spec, None, false).unwrap_err();
    assert!(!backup_job::abort(domain, Path::new("/x")).unwrap(), "{error:?}");
}

fn full_job(daemon: &Daemon, domain: &Domain) {
    let spec = daemon.spec("full", &[("vda", None), ("vdb", None)], &["hda"]);
    // This daemon may be too old to preserve; it is asked all the same.
    backup_job::begin(domain, &spec, Some(&new_checkpoint("cp0")), true).unwrap();
    let ActiveJob::Backup(xml) = backup_job::active_job(domain).unwrap() else { panic!("no job") };
    assert!(backup_job::job_is_ours(&xml, &spec.socket));
    assert!(!backup_job::job_is_ours(&xml, &daemon.path("full.soc")));
    let info = daemon.run("nbdinfo", &["--json", &format!("nbd+unix:///vdb?socket={}", spec.socket.display())]);
    assert!(info.contains("\"export-size\": 16777216"), "{info}");

    let foreign = backup_job::abort(domain, Path::new("/other")).unwrap_err();
    assert_eq!(foreign.kind(), Kind::Busy);
    assert!(backup_job::abort(domain, &spec.socket).unwrap());
    assert_eq!(backup_job::job_xml(domain).unwrap(), None);
    assert!(!backup_job::abort(domain, &spec.socket).unwrap());

    let checkpoint = find(domain, "cp0");
    assert_eq!(checkpoint.description.as_deref(), Some("of a test & more"));
    assert_eq!(checkpoint.parent, None);
    let disks: Vec<_> = checkpoint.disks.iter().map(|disk| (&*disk.target, &*disk.bitmap)).collect();
    assert_eq!(disks, [("vda", "cp0"), ("vdb", "cp0")]);
    assert!(checkpoint::is_valid(domain, &checkpoint).unwrap());
}

fn incremental_and_mixed_jobs(daemon: &Daemon, domain: &Domain) {
    let both = daemon.spec("inc", &[("vda", Some("cp0")), ("vdb", Some("cp0"))], &["hda"]);
    backup_job::begin(domain, &both, Some(&new_checkpoint("cp1")), false).unwrap();
    let uri = format!("nbd+unix:///vda?socket={}", both.socket.display());
    let info = daemon.run("nbdinfo", &["--json", &uri]);
    assert!(info.contains(&format!("qemu:dirty-bitmap:{}", both.disks[0].bitmap_name())), "{info}");
    backup_job::abort(domain, &both.socket).unwrap();

    let mixed = daemon.spec("mixed", &[("vda", Some("cp1")), ("vdb", None)], &["hda"]);
    backup_job::begin(domain, &mixed, Some(&new_checkpoint("cp2")), false).unwrap();
    backup_job::abort(domain, &mixed.socket).unwrap();

    assert_eq!(names(domain), ["cp0", "cp1", "cp2"], "parents first");
    assert_eq!(find(domain, "cp2").parent.as_deref(), Some("cp1"));
    checkpoint::delete(domain, "cp1", DeleteMode::Whole).unwrap();
    assert_eq!(find(domain, "cp2").parent.as_deref(), Some("cp0"));
}

fn jobs_that_cannot_begin(daemon: &Daemon, connection: &Connection, domain: &Domain) {
    assert_eq!(connection.domain("nobody").unwrap_err().kind(), Kind::NotFound);
    let gone = checkpoint::delete(domain, "cp1", DeleteMode::MetadataOnly).unwrap_err();
    assert_eq!(code_of(&gone), Some(code::NO_DOMAIN_CHECKPOINT));

    let begin = |spec: &BackupSpec, name: &str| {
        backup_job::begin(domain, spec, Some(&new_checkpoint(name)), false).unwrap_err()
    };
    let unknown = begin(&daemon.spec("bad", &[("vda", Some("cp1"))], &["vdb", "hda"]), "cp3");
    assert_eq!(code_of(&unknown), Some(code::NO_DOMAIN_CHECKPOINT));
    let mut spec = daemon.spec("bad", &[("vda", None)], &["vdb", "hda"]);
    spec.socket = daemon.path("no/such/directory.sock");
    assert!(begin(&spec, "cp3").hint_text().unwrap().contains("--socketfile"));
    spec = daemon.spec("bad", &[("vda", None)], &["vdb", "hda"]);
    spec.disks[0].scratch = daemon.path("no/such/scratch");
    assert!(begin(&spec, "cp3").hint_text().unwrap().contains("--scratchdir"));
    let spec = daemon.spec("bad", &[("vda", None)], &["vdb", "hda"]);
    begin(&spec, "cp2");
    assert_eq!(names(domain), ["cp0", "cp2"], "nothing was left behind");
    assert_eq!(backup_job::active_job(domain).unwrap(), ActiveJob::None);
}

fn busy_domain(daemon: &Daemon, connection: &Connection, domain: &Domain) {
    let first = daemon.spec("first", &[("vda", None)], &["vdb", "hda"]);
    backup_job::begin(domain, &first, None, false).unwrap();
    let started = Instant::now();
    let second = daemon.spec("second", &[("vdb", None)], &["vda", "hda"]);
    // Another client, as another tool would be.
    let error = backup_job::begin(&connection.domain("d").unwrap(), &second, None, false).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(10), "it waited");
    assert_eq!(error.kind(), Kind::Busy);
    assert!(report(&error).contains("first.sock") && error.hint_text().unwrap().contains("domjobabort"), "{error:?}");
    backup_job::abort(domain, &first.socket).unwrap();
}

fn lost_metadata(domain: &Domain) {
    let saved = find(domain, "cp2");
    checkpoint::delete(domain, "cp2", DeleteMode::MetadataOnly).unwrap();
    assert_eq!(names(domain), ["cp0"]);
    checkpoint::redefine(domain, &saved.redefine_xml().unwrap(), true).unwrap();
    let again = find(domain, "cp2");
    assert_eq!(again.parent.as_deref(), Some("cp0"));
    assert_eq!(Checkpoint { xml: String::new(), ..again.clone() }, Checkpoint { xml: String::new(), ..saved });
    assert!(checkpoint::is_valid(domain, &again).unwrap());
    let unknown_parent = Checkpoint { name: "cp9".into(), parent: Some("nope".into()), ..again };
    assert!(checkpoint::redefine(domain, &unknown_parent.redefine_xml().unwrap(), false).is_err());
}

fn lost_bitmaps(daemon: &Daemon, domain: &Domain) {
    daemon.remove_bitmap("d", "vda", "cp2");
    let half = find(domain, "cp2");
    assert!(!checkpoint::is_valid(domain, &half).unwrap());
    let spec = daemon.spec("lost", &[("vda", Some("cp2"))], &["vdb", "hda"]);
    let error = backup_job::begin(domain, &spec, None, false).unwrap_err();
    assert_eq!(code_of(&error), Some(code::CHECKPOINT_INCONSISTENT));
    assert_eq!(checkpoint::discard(domain, &half).unwrap(), Discarded::Whole);
    assert_eq!(names(domain), ["cp0"]);
    // The half that was left is gone too: libvirt would refuse the name otherwise.
    let spec = daemon.spec("again", &[("vda", None), ("vdb", None)], &["hda"]);
    backup_job::begin(domain, &spec, Some(&new_checkpoint("cp2")), false).unwrap();
    backup_job::abort(domain, &spec.socket).unwrap();

    daemon.remove_bitmap("d", "vda", "cp2");
    daemon.remove_bitmap("d", "vdb", "cp2");
    let empty = find(domain, "cp2");
    assert_eq!(checkpoint::discard(domain, &empty).unwrap(), Discarded::Whole);
    assert_eq!(checkpoint::discard(domain, &empty).unwrap(), Discarded::Nothing);
    assert_eq!(names(domain), ["cp0"]);
}

fn agent_that_is_not_there(domain: &Domain) {
    let second = Duration::from_secs(1);
    let freeze = agent::Freeze::begin(domain, &[], second);
    assert!(matches!(freeze.outcome(), agent::FreezeOutcome::Unavailable(_)), "paused: {freeze:?}");
    domain.resume().unwrap();
    assert_eq!(domain.state().unwrap(), State::Running);
    let freeze = agent::Freeze::begin(domain, &targets(&["/", "/srv"]), second);
    assert!(matches!(freeze.outcome(), agent::FreezeOutcome::Unavailable(_)), "not connected: {freeze:?}");
    assert_eq!(freeze.thaw(), agent::ThawOutcome::NotFrozen);
    assert!(agent::thaw(domain).is_err());
    let error = agent::guest_info(domain, second).unwrap_err();
    assert_eq!(code_of(&error), Some(code::AGENT_UNRESPONSIVE), "{}", report(&error));
    domain.suspend().unwrap();
    assert_eq!(domain.state().unwrap(), State::Paused(PauseReason::User));
}

fn restored_xml_is_accepted(connection: &Connection, domain: &Domain) {
    let live = domain.xml(false).unwrap();
    let config = DomainConfig::parse(&live).unwrap();
    assert_eq!(config.uuid.as_deref(), Some(domain.uuid()));
    let fit: Vec<_> = config.disks.iter().filter(|disk| disk.eligibility().is_ok()).map(|disk| &*disk.target).collect();
    assert_eq!(fit, ["vda", "vdb"]);
    let source = NewSource { path: "/srv/it's & <new>.qcow2".into(), format: "qcow2".into() };
    let plan = Adjustment {
        name: Some("copy & 2".into()),
        drop_uuid: true,
        drop_mac: true,
        disks: [("vda".to_owned(), source)].into(),
        ..Adjustment::default()
    };
    let adjusted = adjust(&live, &plan).unwrap();
    assert_eq!(adjusted.removed, ["vdb"]);
    let copy = connection.define(&adjusted.xml).unwrap();
    let config = DomainConfig::parse(&copy.xml(true).unwrap()).unwrap();
    assert_eq!(config.disk("vda").unwrap().source.path(), Some(&plan.disks["vda"].path));
    assert_ne!(copy.uuid(), domain.uuid());
    copy.undefine().unwrap();
}

fn a_checkpoint_of_a_domain_that_is_off(domain: &Domain) {
    let checkpoint = find(domain, "cp0");
    assert_eq!(code_of(&checkpoint::is_valid(domain, &checkpoint).unwrap_err()), Some(code::OPERATION_INVALID));
    assert_eq!(checkpoint::discard(domain, &checkpoint).unwrap(), Discarded::MetadataOnly);
    assert_eq!(names(domain), [""; 0]);
}

fn a_daemon_that_dies_is_noticed(daemon: Daemon, connection: &Connection) {
    assert!(connection.is_alive());
    let uri = daemon.uri.clone();
    drop(daemon);
    let started = Instant::now();
    while connection.is_alive() {
        assert!(started.elapsed() < DEADLINE, "the dead daemon is taken for alive");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(connection.domains().is_err());
    assert_eq!(Connection::open(&uri, None).unwrap_err().kind(), Kind::NotFound);
}
