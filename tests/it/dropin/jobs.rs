//! The job alone: its names on the host, `-s`, `-k`, `-q` and `-p`.

use std::path::Path;

use super::{back_up, backup};
use crate::support::{Case, Lab, MIB, listing, run};

fn case<'lab>(lab: &'lab Lab) -> Case<'lab> {
    let case = Case::new(lab, "d", &["vda:4M"]);
    case.domain.write("vda", 1, 0, MIB);
    case
}

/// People's rules of AppArmor name them.
#[test]
fn socket_and_scratch_files_have_the_names_of_virtnbdbackup() {
    let lab = Lab::up();
    let case = case(&lab);
    let uri = lab.uri();
    let program = super::link(lab.directory(), "virtnbdbackup");
    let started =
        run(&program, &[&"-U", &uri, &"-d", &"d", &"-s", &"-o", &case.set, &"--scratchdir", &lab.scratch()]).succeeds();
    let job = lab.virsh(&[&"backup-dumpxml", &"d"]);
    let socket = job.split("socket='").nth(1).unwrap().split('\'').next().unwrap();
    let number = socket.strip_prefix("/var/tmp/virtnbdbackup.").unwrap_or_else(|| panic!("{job}"));
    number.parse::<u32>().unwrap_or_else(|_| panic!("{job}"));
    let scratch = job.split("<scratch file='").nth(1).unwrap().split('\'').next().unwrap();
    let name = Path::new(scratch).file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("backup.") && name.ends_with(".vda"), "{job}");
    started.says(&[&format!("vda: [nbd+unix:///vda?socket={socket}]")]);
    backup(&lab, &[&"-d", &"d", &"-k", &"-o", &case.set]).succeeds();
    assert!(!Path::new(socket).exists());
}

#[test]
fn a_job_is_started_read_and_ended() {
    let lab = Lab::up();
    let case = case(&lab);
    back_up(&case, "full", &[]).succeeds();
    case.domain.write("vda", 2, MIB, MIB);
    let reference = case.domain.snapshot_reference("vda");
    for level in ["copy", "inc"] {
        let started = back_up(&case, level, &["-s"]).succeeds().says(&["Started backup job for debugging, exiting."]);
        // Whoever wants can read the disk there.
        let uri = started.stderr.split("vda: [").nth(1).unwrap().split(']').next().unwrap();
        let copy = lab.fresh_directory().join("copy");
        run("nbdcopy", &[&uri, &copy]).succeeds();
        assert!(
            std::fs::read(&copy).unwrap() == std::fs::read(&reference).unwrap(),
            "the job of {level} shows something else"
        );
        // It keeps others out, as any job does.
        back_up(&case, "inc", &[]).ends_with(1).says(&["Active block job for running domain", "use option -k"]);
        back_up(&case, level, &["-k"]).succeeds().says(&["Stopping backup job"]);
        case.no_traces();
    }
    // There is no checkpoint without its data: the chain goes on.
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0"]);
    back_up(&case, "inc", &[]).succeeds();
    case.restores(&[], &["vda"], &[reference]);
}

#[test]
fn there_may_be_no_job_to_end() {
    let lab = Lab::up();
    let case = case(&lab);
    back_up(&case, "copy", &["-k"]).ends_with(1).says(&["Failed to stop backup job"]);
}

#[test]
fn extents_are_compared_with_those_of_nbdinfo() {
    let lab = Lab::up();
    let case = case(&lab);
    case.domain.write_zeroes("vda", 2 * MIB, MIB, false);
    back_up(&case, "full", &["-q"]).succeeds().says(&["Using qemu tools to query extents", "nbdinfo reports the same"]);
    case.domain.write("vda", 2, MIB, 4096);
    case.domain.write_zeroes("vda", 0, 65536, true);
    let reference = case.domain.snapshot_reference("vda");
    back_up(&case, "inc", &["--qemu"]).succeeds().says(&["nbdinfo reports the same"]);
    case.restores(&[], &["vda"], &[reference]);
}

/// Where another nbdinfo says something else, the run fails: one of the two is wrong.
#[test]
fn another_answer_of_nbdinfo_fails_the_run() {
    let lab = Lab::up();
    let case = case(&lab);
    let tools = lab.fresh_directory();
    let tool = tools.join("nbdinfo");
    std::fs::write(&tool, "#!/bin/sh\necho '[{\"offset\": 0, \"length\": 4194304, \"type\": 3}]'\n").unwrap();
    run("chmod", &[&"755", &tool]).succeeds();
    let command = format!(
        "PATH={}:$PATH exec {} -U '{}' -n --scratchdir {} -d d -q -o {}",
        tools.display(),
        super::link(lab.directory(), "virtnbdbackup").display(),
        lab.uri(),
        lab.scratch().display(),
        case.set.display()
    );
    run("sh", &[&"-c", &command]).ends_with(1).says(&["nbdinfo reports other extents"]);
    case.no_traces();
    assert!(!listing(&case.set).iter().any(|name| name.ends_with(".data")));
}

/// virtnbdbackup backs up all the same with -p -l full.
#[test]
fn an_estimate_backs_nothing_up() {
    let lab = Lab::up();
    let case = case(&lab);
    for level in ["full", "copy"] {
        let run = back_up(&case, level, &["-p"]).succeeds().says(&["Estimated checkpoint backup size: ["]);
        assert_eq!(run.stdout, "");
        assert!(!listing(&case.set).iter().any(|name| name.ends_with(".data")));
    }
    back_up(&case, "full", &[]).succeeds();
    back_up(&case, "inc", &["-p"]).succeeds().says(&["Estimated checkpoint backup size: [", "] Bytes"]);
    let run = back_up(&case, "inc", &["-T", "99999999"]).succeeds();
    let run = run.says(&["does not meet required threshold [99999999], skipping backup."]);
    assert!(!run.stderr.contains("Finished successfully"), "{}", run.stderr);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0"]);
}
