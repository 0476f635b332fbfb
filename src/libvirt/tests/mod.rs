//! The driver against a real libvirtd: a private one, with a domain of two qcow2 disks whose guest never
//! runs. One test walks through all of it, as starting QEMU is what takes the time.

mod daemon;

use std::thread;
use std::time::{Duration, Instant};

use super::backup_job::{self, ActiveJob, BackupSpec, Server};
use super::checkpoint::{self, Checkpoint, DeleteMode};
use super::domain::{PauseReason, State};
use super::domain_xml::{Adjustment, DomainConfig, NewSource, adjust};
use super::{Connection, Domain, agent, code, code_of};
use crate::error::{Kind, report};
use daemon::{DEADLINE, Daemon};

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

/// Where a job of ours serves.
fn socket(spec: &BackupSpec) -> String {
    match &spec.server {
        Server::Unix(path) => path.display().to_string(),
        Server::Tcp { .. } => unreachable!(),
    }
}

#[test]
fn driver_against_a_real_daemon() {
    let mut daemon = Daemon::start();
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
    a_dead_daemon_is_noticed(&mut daemon, &connection);
    a_daemon_that_died_while_beginning_a_job(&mut daemon);
}

fn a_domain_that_is_off(connection: &Connection, domain: &Domain) {
    assert_eq!(domain.state().unwrap(), State::ShutOff);
    assert!(!domain.is_active().unwrap() && domain.is_persistent().unwrap());
    assert!(connection.hypervisor_version().unwrap() >= 4_000_000);
    let unknown = Connection::open(&connection.requested_uri().replace("qemu:", "nope:"), None).unwrap_err();
    assert_eq!(unknown.kind(), Kind::Usage, "{}", report(&unknown));
    assert_eq!(backup_job::active_job(domain).unwrap(), ActiveJob::None);
    assert_eq!(domain.disk_errors().unwrap(), []);
    let spec = BackupSpec { server: Server::Unix("/x".into()), disks: Vec::new(), other_disks: Vec::new() };
    let error = backup_job::begin(domain, &spec, None, false).unwrap_err();
    assert!(!backup_job::abort(domain, "x").unwrap(), "{error:?}");
}

fn full_job(daemon: &Daemon, domain: &Domain) {
    let spec = daemon.spec("full", &[("vda", None), ("vdb", None)], &["hda"]);
    // This daemon may be too old to preserve; it is asked all the same.
    backup_job::begin(domain, &spec, Some(&new_checkpoint("cp0")), true).unwrap();
    let ActiveJob::Backup(xml) = backup_job::active_job(domain).unwrap() else { panic!("no job") };
    assert!(backup_job::job_is_ours(&xml, "full."));
    assert!(!backup_job::job_is_ours(&xml, "full.sock"));
    let info = daemon.run("nbdinfo", &["--json", &format!("nbd+unix:///vdb?socket={}", socket(&spec))]);
    assert!(info.contains("\"export-size\": 16777216"), "{info}");

    let foreign = backup_job::abort(domain, "other.").unwrap_err();
    assert_eq!(foreign.kind(), Kind::Busy);
    assert!(backup_job::abort(domain, "full.").unwrap());
    assert_eq!(backup_job::job_xml(domain).unwrap(), None);
    assert!(!backup_job::abort(domain, "full.").unwrap());

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
    let uri = format!("nbd+unix:///vda?socket={}", socket(&both));
    let info = daemon.run("nbdinfo", &["--json", &uri]);
    assert!(info.contains(&format!("qemu:dirty-bitmap:{}", both.disks[0].bitmap_name())), "{info}");
    backup_job::abort(domain, "inc.").unwrap();

    let mixed = daemon.spec("mixed", &[("vda", Some("cp1")), ("vdb", None)], &["hda"]);
    backup_job::begin(domain, &mixed, Some(&new_checkpoint("cp2")), false).unwrap();
    backup_job::abort(domain, "mixed.").unwrap();

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
    spec.server = Server::Unix(daemon.path("no/such/directory.sock"));
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
    backup_job::abort(domain, "first.").unwrap();
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
    assert!(checkpoint::discard(domain, &half).unwrap());
    assert_eq!(names(domain), ["cp0"]);
    // The half that was left is gone too: libvirt would refuse the name otherwise.
    let spec = daemon.spec("again", &[("vda", None), ("vdb", None)], &["hda"]);
    backup_job::begin(domain, &spec, Some(&new_checkpoint("cp2")), false).unwrap();
    backup_job::abort(domain, "again.").unwrap();

    daemon.remove_bitmap("d", "vda", "cp2");
    daemon.remove_bitmap("d", "vdb", "cp2");
    let empty = find(domain, "cp2");
    assert!(checkpoint::discard(domain, &empty).unwrap());
    assert!(!checkpoint::discard(domain, &empty).unwrap());
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
    let firmware = "<domain type='qemu'><name>u</name><memory unit='MiB'>64</memory><os>\
        <type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='pflash'>/l.fd</loader>\
        <nvram template='/t.fd'>/old.fd</nvram></os><features><acpi/></features><devices/></domain>";
    let plan = Adjustment { name: Some("u2".into()), ..Adjustment::default() };
    let copy = connection.define(&adjust(firmware, &plan).unwrap().xml).unwrap();
    let nvram = DomainConfig::parse(&copy.xml(true).unwrap()).unwrap().nvram.unwrap();
    assert_ne!(nvram.path, Some("/old.fd".into()), "the original's variables");
    assert_eq!(nvram.template, Some("/t.fd".into()));
    copy.undefine().unwrap();

    let live = domain.xml(false).unwrap();
    let config = DomainConfig::parse(&live).unwrap();
    assert_eq!(config.uuid.as_deref(), Some(domain.uuid()));
    let fit: Vec<_> = config.disks.iter().filter(|disk| disk.eligibility().is_ok()).map(|disk| &*disk.target).collect();
    assert_eq!(fit, ["vda", "vdb"]);
    let source =
        NewSource { path: "/srv/it's & <new>.qcow2".into(), format: "qcow2".into(), block: false, data_file: None };
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
    assert!(checkpoint::discard(domain, &checkpoint).unwrap());
    assert!(!checkpoint::discard(domain, &checkpoint).unwrap());
    assert_eq!(names(domain), [""; 0]);
}

fn a_dead_daemon_is_noticed(daemon: &mut Daemon, connection: &Connection) {
    assert!(connection.is_alive());
    let uri = daemon.uri.clone();
    daemon.restart(|| {
        let started = Instant::now();
        while connection.is_alive() {
            assert!(started.elapsed() < DEADLINE, "the dead daemon is taken for alive");
            thread::sleep(Duration::from_millis(20));
        }
        assert!(connection.domains().is_err());
        assert_eq!(Connection::open(&uri, None).unwrap_err().kind(), Kind::NotFound);
    });
    assert!(!connection.is_alive(), "a lost connection never comes back");
}

fn a_daemon_that_died_while_beginning_a_job(daemon: &mut Daemon) {
    let connection = Connection::open(&daemon.uri, None).unwrap();
    daemon.define(&connection, "z").start_paused(false).unwrap();
    let status = daemon.path("run/libvirt/qemu/run/z.xml");
    daemon.restart(|| {
        let text = std::fs::read_to_string(&status).unwrap();
        let job = "<job type='none' async='backup' phase='none' flags='0x0' asyncStarted='0'/>\n  <domain ";
        let changed = text.replacen("<domain ", job, 1);
        assert_ne!(changed, text);
        std::fs::write(&status, changed).unwrap();
    });
    let domain = Connection::open(&daemon.uri, None).unwrap().domain("z").unwrap();
    assert_eq!(backup_job::active_job(&domain).unwrap(), ActiveJob::Zombie);
    let spec = daemon.spec("zombie", &[("vda", None)], &["vdb", "hda"]);
    let error = backup_job::begin(&domain, &spec, None, false).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.hint_text().unwrap().contains("async='backup'"), "{error:?}");
    assert!(!backup_job::abort(&domain, "zombie.").unwrap());
    domain.destroy().unwrap();
}
