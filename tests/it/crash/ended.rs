//! The domain, or its job, ends in the middle of a copy: the run says which of them, not what broke on the way.

use crate::support::{Case, Lab, MIB, Run, SLOWLY, random_disk, spawn_with};

/// A backup of a domain during whose copy `end` is done.
fn ended_in_mid_copy(case: &Case<'_>, options: &[&str], end: &dyn Fn()) -> Run {
    let mut run = spawn_with(case, &[&[SLOWLY], options].concat(), "");
    run.copies(case);
    std::thread::sleep(std::time::Duration::from_millis(100));
    end();
    let run = run.wait().ends_with(1).says(&["disk vda", "undoing the run", "hint: "]);
    // What can't be read is not the file that is written.
    let error = run.stderr.lines().find(|line| line.contains("error: ")).unwrap_or_default();
    assert!(!error.contains(".partial"), "{error}");
    run
}

#[test]
fn a_domain_that_ends_in_mid_copy_is_named_as_the_reason() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48), "vdb:4M"]);
    case.backs_up(&["-x", "vda"], &["vdb"]);
    let forced_off = || drop(lab.virsh(&[&"destroy", &"d"]));
    ended_in_mid_copy(&case, &["-l", "inc"], &forced_off).says(&[
        "error: domain d was forced off while its disks were read: disk vda: ",
        "hint: the next run goes on from the last one that was committed",
    ]);
    case.domain.start();
    case.is_as_before(&["virtnbdbackup.0"]);
    let killed = || case.domain.kill();
    ended_in_mid_copy(&case, &["-l", "inc"], &killed)
        .says(&["error: QEMU of domain d ended unexpectedly while its disks were read: disk vda: "]);
    case.no_traces();
}

#[test]
fn a_job_that_somebody_aborts_is_named_as_the_reason() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48), "vdb:4M"]);
    case.domain.write("vdb", 0xaa, 0, MIB);
    case.backs_up(&["-x", "vda"], &["vdb"]);
    let aborted = || drop(lab.virsh(&[&"domjobabort", &"d"]));
    ended_in_mid_copy(&case, &["-l", "inc"], &aborted)
        .says(&["error: the backup job of domain d was aborted by somebody else: disk vda: ", "domjobabort"]);
    case.is_as_before(&["virtnbdbackup.0"]);
    case.backs_up(&["-l", "inc"], &["vdb"]).says(&["vdb: inc since virtnbdbackup.0"]);
}
