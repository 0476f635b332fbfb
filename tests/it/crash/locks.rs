//! Runs that meet each other.

use crate::support::{Case, Lab, MIB, TestDomain, spawn_with, virtkeep};

#[test]
fn a_second_run_waits_where_asked() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let mut first = spawn_with(&case, &[], "copied=stop");
    first.stops();
    // Readers are not held up, and see nothing yet.
    virtkeep(&[&"dump", &"-i", &case.set]).succeeds();
    case.backup(&["--wait", "1"]).ends_with(1).says(&["waiting: ", "being backed up already"]);
    let second = spawn_with(&case, &["--wait", "60"], "");
    std::thread::sleep(std::time::Duration::from_millis(300));
    first.signal("CONT");
    first.wait().succeeds();
    second.wait().succeeds().says(&["vda: inc since virtnbdbackup.0"]);
    case.is_as_before(&["virtnbdbackup.0", "virtnbdbackup.1"]);
    // An interrupted wait ends at once.
    let mut first = spawn_with(&case, &[], "copied=stop");
    first.stops();
    let second = spawn_with(&case, &["--wait", "60"], "");
    std::thread::sleep(std::time::Duration::from_millis(300));
    second.signal("INT");
    second.wait().ends_with(130);
    first.signal("CONT");
    first.wait().succeeds();
}

#[test]
fn a_job_of_another_tool_is_waited_for_and_never_ended() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let foreign = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{0}/foreign.sock'/><disks>\
         <disk name='vda' backup='yes' type='file' exportname='vda'><driver type='qcow2'/>\
         <scratch file='{0}/foreign.scratch'/></disk></disks></domainbackup>",
        lab.scratch().display()
    );
    let file = lab.directory().join("job.xml");
    std::fs::write(&file, foreign).unwrap();
    lab.virsh(&[&"backup-begin", &"d", &file]);
    case.backup(&["--wait", "1"]).ends_with(1).says(&["waiting: ", "a backup job is running already", "foreign.sock"]);
    assert!(lab.virsh(&[&"backup-dumpxml", &"d"]).contains("foreign.sock"));
    let waiting = spawn_with(&case, &["--wait", "60"], "");
    std::thread::sleep(std::time::Duration::from_millis(500));
    lab.virsh(&[&"domjobabort", &"d"]);
    waiting.wait().succeeds();
    case.no_traces();
}

#[test]
fn a_dead_run_is_no_obstacle_for_another_set() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    case.backs_up(&[], &["vda"]);
    spawn_with(&case, &[], "stream-created=kill").wait().ends_with(137);
    let copy = Case { lab: &lab, domain: TestDomain::known(&lab, "d"), set: case.set.with_file_name("copy") };
    copy.backup(&["-l", "copy"]).succeeds().says(&["did not finish: undoing it"]);
    case.is_as_before(&["virtnbdbackup.0"]);

    // Its set is away: the job goes, the rest is told by the intent when the set is back.
    spawn_with(&case, &[], "stream-created=kill").wait().ends_with(137);
    let away = case.set.with_file_name("away");
    std::fs::rename(&case.set, &away).unwrap();
    let copy = Case { lab: &lab, domain: TestDomain::known(&lab, "d"), set: case.set.with_file_name("copy2") };
    copy.backup(&["-l", "copy"]).succeeds().says(&["aborted the backup job of run"]);
    std::fs::rename(&away, &case.set).unwrap();
    case.backs_up(&["-l", "inc"], &["vda"]).says(&["did not finish: undoing it", "vda: inc since virtnbdbackup.0"]);
}
