//! Runs that are ended, and runs that meet another one.

use crate::support::{Case, Lab, SLOWLY, files, random_disk, run, spawn, virtkeep};

#[test]
fn an_interrupted_run_never_was() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48)]);
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut first = spawn(&case, &[SLOWLY]);
        first.copies(&case);
        first.signal(signal);
        first.wait().ends_with(status).says(&["interrupted"]);
        case.is_as_before(&[]);
    }
    case.backs_up(&[], &["vda"]);
    case.domain.write("vda", 0xaa, 0, 32 << 20);
    let mut second = spawn(&case, &[SLOWLY, "-l", "inc"]);
    second.copies(&case);
    second.signal("INT");
    second.wait().ends_with(130);
    case.is_as_before(&["virtnbdbackup.0"]);
    case.backs_up(&["-l", "inc"], &["vda"]).says(&["vda: inc since virtnbdbackup.0"]);
}

#[test]
fn a_killed_run_is_undone_by_the_next() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48)]);
    case.backs_up(&[], &["vda"]);
    case.domain.write("vda", 0xaa, 0, 32 << 20);
    let reference = case.domain.snapshot_reference("vda");
    let mut killed = spawn(&case, &[SLOWLY, "-l", "inc"]);
    killed.copies(&case);
    killed.signal("KILL");
    killed.wait().ends_with(137);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1"]);
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds().says(&["did not finish"]);
    case.backup(&["-p"]).succeeds();
    // The dead run's job goes on until the next run: no reference can be taken before.
    let next = case.backup(&["-l", "inc"]).succeeds();
    case.restores(&[], &["vda"], &[reference]);
    next.says(&["did not finish: undoing it", "vda: inc since virtnbdbackup.0"]);
    case.is_as_before(&["virtnbdbackup.0", "virtnbdbackup.1"]);
}

#[test]
fn a_second_run_is_refused() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48)]);
    let mut first = spawn(&case, &[SLOWLY]);
    first.copies(&case);
    // It would be over before all have been refused.
    first.signal("STOP");
    let holder = format!("process {}", first.id());
    case.backup(&[]).ends_with(1).says(&["domain d is being backed up already", &holder, "--wait"]);
    // Into another directory it is the same domain.
    let other = case.set.with_file_name("other");
    case.backup_to(&other, &["-l", "copy"]).ends_with(1).says(&["being backed up already", &holder]);
    assert!(!other.exists(), "a refused run made its directory");
    // Another domain into the same directory.
    let neighbour = Case { lab: &lab, domain: lab.domain("n", &["vda:1M"]), set: case.set.clone() };
    neighbour.backup(&[]).ends_with(1).says(&["another run is writing to this set", &holder]);
    first.signal("CONT");
    first.wait().succeeds();
    case.is_as_before(&["virtnbdbackup.0"]);
    case.backs_up(&["-l", "inc"], &["vda"]);
}

#[test]
fn nobody_listening_is_no_reason_to_fail() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, 1 << 20);
    let closed = |script: &str, options: &[&str]| {
        let program = crate::support::program();
        let arguments = case.arguments(&case.set, options);
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-c", &script, &program];
        all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<std::ffi::OsStr>));
        run("bash", &all).succeeds();
        case.no_traces();
    };
    closed("exec \"$0\" \"$@\" >&- 2>&-", &[]);
    closed("exec \"$0\" \"$@\" 2> >(exec true)", &["-v"]);
    closed("exec \"$0\" \"$@\" >/dev/full 2>/dev/full", &["-v"]);
    assert_eq!(case.checkpoints().len(), 3);
    case.backs_up(&[], &["vda"]);
    run(
        "bash",
        &[&"-o", &"pipefail", &"-c", &"\"$0\" dump -i \"$1\" | true", &env!("CARGO_BIN_EXE_virtkeep"), &case.set],
    )
    .succeeds();
}

#[test]
fn estimates_and_thresholds_touch_nothing() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 2 << 20);
    let estimate = case.backup(&["-p"]).succeeds();
    assert!(estimate.stdout.contains("vda: "), "{}", estimate.stdout);
    assert!(!case.set.exists(), "an estimate made the directory");
    case.is_as_before(&[]);
    case.backs_up(&["-T", "1T"], &["vda"]);
    let before = files(&case.set);
    case.domain.write("vda", 0xab, 0, 1 << 20);
    let estimate = case.backup(&["-p", "-l", "inc"]).succeeds();
    assert!(estimate.stdout.contains("vda: 1048576 bytes"), "{}", estimate.stdout);
    case.backup(&["-T", "2M"]).succeeds().says(&["[1048576]", "[2097152], skipping backup"]);
    assert_eq!(files(&case.set), before);
    case.is_as_before(&["virtnbdbackup.0"]);
    case.backs_up(&["-T", "1M"], &["vda"]);
    assert_eq!(case.checkpoints().len(), 2);
}

#[test]
fn passwords_are_never_written_down() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:1M"]);
    case.backup(&["-vv", "--user", "joe", "--password", "s3cr3t-pass"]).succeeds();
    let grep = run("grep", &[&"-r", &"s3cr3t-pass", &case.set]);
    assert_eq!(grep.status, 1, "{}", grep.stdout);
    let said = case.backup(&["-vv", "--user", "joe", "--password", "s3cr3t-pass"]).succeeds();
    assert!(!said.stderr.contains("s3cr3t-pass"), "{}", said.stderr);
    case.backup(&["--password-file", "/nowhere"]).ends_with(1).says(&["/nowhere"]);
    case.no_traces();
}
