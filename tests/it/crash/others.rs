//! Others at work on the domain, and on files, that a run believes to be its own.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use super::signals::Stopped;
use crate::support::{Case, Lab, MIB, TestDomain, listing, run, spawn_with, virtkeep};

/// A job as another tool begins it.
#[track_caller]
fn begin_foreign_job(lab: &Lab, socket: &Path) {
    let xml = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks>\
         <disk name='vda' backup='yes' type='file' exportname='vda'><driver type='qcow2'/>\
         <scratch file='{}/foreign.scratch'/></disk></disks></domainbackup>",
        socket.display(),
        lab.scratch().display()
    );
    let file = lab.directory().join("job.xml");
    std::fs::write(&file, xml).unwrap();
    lab.virsh(&[&"backup-begin", &"d", &file]);
}

#[test]
fn a_base_replaced_since_the_run_was_planned_is_none() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.backs_up(&[], &["vda"]);
    for place in ["intent-written", "marked"] {
        let mut planned = spawn_with(&case, &["-l", "inc", "--wait", "60"], &format!("{place}=stop"));
        planned.stops();
        // As another tool's full does it, or that of another user: their chains have the same names.
        case.domain.write("vda", 0xaa, MIB, MIB);
        lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.0"]);
        lab.virsh(&[&"checkpoint-create-as", &"d", &"virtnbdbackup.0"]);
        planned.signal("CONT");
        planned.wait().ends_with(1).says(&["virtnbdbackup.0", "since the run was planned"]);
        assert_eq!(case.checkpoints(), ["virtnbdbackup.0"], "{place}");
        case.no_traces();
        lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.0"]);
        case.backs_up(&["-l", "inc"], &["vda"]).says(&["vda: full instead of an increment"]);
        // A new chain, for the next round.
        std::fs::remove_dir_all(&case.set).unwrap();
        case.backs_up(&["-l", "full"], &["vda"]);
    }
}

#[test]
fn a_job_that_begins_after_its_run_was_killed_is_found() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.backs_up(&[], &["vda"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let qemu = lab.command("qemu-pid", &[&"d"]).succeeds().stdout;
    let mut killed = spawn_with(&case, &["-l", "inc"], "marked=stop");
    killed.stops();
    let stopped = Stopped::new(qemu.trim());
    killed.signal("CONT");
    // libvirt is at it, and does not stop because its client is gone.
    std::thread::sleep(std::time::Duration::from_millis(500));
    killed.signal("KILL");
    killed.wait().ends_with(137);
    let next = spawn_with(&case, &["-l", "inc"], "");
    std::thread::sleep(std::time::Duration::from_millis(1000));
    drop(stopped);
    next.wait().ends_with(0).says(&["did not finish: undoing it", "vda: inc since virtnbdbackup.0"]);
    case.restores(&[], &["vda"], &case.domain.snapshot_references(&["vda"]));
    case.is_as_before(&["virtnbdbackup.0", "virtnbdbackup.1"]);
}

#[test]
fn a_manifest_that_cannot_be_looked_at_is_not_taken_for_none() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    spawn_with(&case, &[], "committed=kill").wait().ends_with(137);
    let manifest = listing(&case.set).into_iter().find(|name| name.starts_with("manifest.")).unwrap();
    let manifest = case.set.join(manifest);
    let program = crate::support::program();
    let arguments = case.arguments(&case.set, &[]);
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-f", &"-qq", &"-o", &"/dev/null", &"-P", &manifest];
    all.extend([&"-e" as &dyn AsRef<std::ffi::OsStr>, &"trace=statx", &"-e", &"inject=statx:error=EIO", &program]);
    all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<std::ffi::OsStr>));
    let failed = run("strace", &all).ends_with(1);
    failed.says(&[manifest.to_str().unwrap()]);
    case.backup(&["-l", "inc"]).succeeds().says(&["was committed, but not tidied up"]);
    case.restores(&[], &["vda"], &case.domain.snapshot_references(&["vda"]));
}

#[test]
fn a_job_of_another_at_the_same_socket_is_not_ended() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let socket = lab.scratch().join("shared.sock");
    let mut second = spawn_with(&case, &["-f", socket.to_str().unwrap()], "marked=stop");
    second.stops();
    begin_foreign_job(&lab, &socket);
    second.signal("CONT");
    second.wait().ends_with(1).says(&["a backup job is running already"]);
    assert!(lab.virsh(&[&"backup-dumpxml", &"d"]).contains("foreign.scratch"), "it was ended");
    lab.virsh(&[&"domjobabort", &"d"]);
}

#[test]
fn a_socket_that_another_took_meanwhile_stays() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let socket = lab.scratch().join("shared.sock");
    spawn_with(&case, &["-f", socket.to_str().unwrap()], "intent-written=kill").wait().ends_with(137);
    let listener = UnixListener::bind(&socket).unwrap();
    case.backup(&[]).succeeds().says(&["did not finish: undoing it"]);
    assert!(socket.exists(), "the socket of a program that listens was removed");
    drop(listener);
    std::fs::remove_file(socket).unwrap();
}

#[test]
fn a_domain_that_its_owner_started_later_is_his() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.backs_up(&[], &["vda"]);
    case.domain.stop();
    let mut killed = spawn_with(&case, &["-S", "-l", "inc"], "intent-written=stop");
    killed.stops();
    killed.signal("KILL");
    killed.wait().ends_with(137);
    let state = || lab.virsh(&[&"domstate", &"d"]).trim().to_owned();
    super::guest::waits_until("ended", || state() == "shut off");
    case.domain.start();
    assert_eq!(state(), "paused");
    case.backup(&["-l", "inc"]).succeeds().says(&["did not finish: undoing it"]);
    assert_eq!(state(), "paused");
    case.backup(&["-S", "-l", "inc"]).succeeds();
    assert_eq!(state(), "paused");
}

#[test]
fn a_run_that_fails_early_does_not_make_the_dead_forgotten() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    spawn_with(&case, &[], "stream-created=kill").wait().ends_with(137);
    // Its target is no directory.
    let file = lab.fresh_directory().join("file");
    std::fs::write(&file, "").unwrap();
    case.backup_to(&file, &[]).ends_with(1);
    let copy = Case { lab: &lab, domain: TestDomain::known(&lab, "d"), set: case.set.with_file_name("copy") };
    copy.backup(&["-l", "copy"]).succeeds().says(&["did not finish: undoing it"]);
    case.is_as_before(&[]);
}

#[test]
fn the_job_of_a_dead_run_goes_where_its_set_is_gone() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    spawn_with(&case, &[], "stream-created=kill").wait().ends_with(137);
    // A disk that is not mounted any more.
    std::fs::remove_dir_all(&case.set).unwrap();
    case.backup(&["-l", "full"]).succeeds().says(&["aborted the backup job of run"]);
    case.restores(&[], &["vda"], &case.domain.snapshot_references(&["vda"]));
    case.no_traces();
}

#[test]
fn a_password_file_is_read_once() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.stop();
    // As a shell gives it: <(pass show libvirt).
    let pipe = lab.fresh_directory().join("pipe");
    run("mkfifo", &[&pipe]).succeeds();
    let mut writer = Command::new("sh").args(["-c", "echo secret >\"$0\""]).arg(&pipe).spawn().unwrap();
    spawn_with(&case, &["-S", "--password-file", pipe.to_str().unwrap()], "").wait().succeeds();
    writer.wait().unwrap();
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds();
}

#[test]
fn a_lock_that_is_a_link_is_not_followed() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:1M"]);
    let precious = lab.fresh_directory().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    std::fs::create_dir_all(case.set.join(".virtkeep")).unwrap();
    std::os::unix::fs::symlink(&precious, case.set.join(".virtkeep/lock")).unwrap();
    case.backup(&[]).ends_with(1).says(&[".virtkeep/lock", "hint: "]);
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "precious");
}

#[test]
fn nohup_is_heeded() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let program = crate::support::program();
    let script = "trap '' HUP; \"$@\" & p=$!; \
                  while ! grep -q '^State:.*T' /proc/$p/status; do sleep 0.05; done; kill -HUP $p; kill -CONT $p; wait $p";
    let arguments = case.arguments(&case.set, &[]);
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(program).args(arguments).env("VIRTKEEP_FAULT", "stream-created=stop");
    assert!(command.status().unwrap().success());
}

#[test]
fn a_killed_run_beside_disks_without_bitmaps_is_undone() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:1M:raw", "hda:1M:cdrom", "vdc:1M:readonly"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    for options in [&["-l", "full", "-x", "vdb,vdc"][..], &["-l", "inc", "-x", "vdb,vdc"]] {
        spawn_with(&case, options, "stream-created=kill").wait().ends_with(137);
        case.backup(options).succeeds().says(&["did not finish: undoing it"]);
        case.no_traces();
    }
    let copy = Case { lab: &lab, domain: TestDomain::known(&lab, "d"), set: case.set.with_file_name("copy") };
    spawn_with(&copy, &["-l", "copy"], "stream-created=kill").wait().ends_with(137);
    copy.backup(&["-l", "copy"]).says(&["did not finish: undoing it", "Finished successfully"]);
    case.no_traces();
}

#[test]
fn a_guest_that_its_owner_paused_stays_paused() {
    let lab = Lab::up();
    let case = Case { lab: &lab, domain: lab.guest("g", &["vda:64M"]), set: lab.fresh_directory().join("set") };
    spawn_with(&case, &["--pause"], "intent-written=kill").wait().ends_with(137);
    lab.virsh(&[&"suspend", &"g"]);
    case.backup(&[]).succeeds().says(&["did not finish: undoing it"]);
    assert_eq!(lab.virsh(&[&"domstate", &"g"]).trim(), "paused");
}
