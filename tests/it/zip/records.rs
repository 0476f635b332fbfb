//! The directory of the records, and what is refused.

use super::Piped;
use crate::support::{Lab, MIB, run, virtkeep};

#[test]
fn records_lie_where_they_are_told_to() {
    let lab = Lab::up();
    let mut piped = Piped::new(&lab, &["vda:8M"]);
    piped.case.domain.write("vda", 0x11, 0, MIB);
    let state = lab.fresh_directory().join("deep/state");
    let options = ["--state-dir", state.to_str().unwrap()];
    piped.case.set = state.clone();
    piped.backs_up("full.zip", &options);
    assert!(!piped.path("d.virtkeep").exists());
    piped.case.domain.write("vda", 0x12, MIB, MIB);
    let references = piped.case.domain.snapshot_references(&["vda"]);

    // One run at a time.
    let held = std::fs::File::open(state.join(".virtkeep/lock")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    piped.send_to("cat", &options).ends_with(1).says(&["another run", "hint: "]);
    drop(held);
    // A host that lost its checkpoints is told of them again.
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.0", &"--metadata"]);
    piped.backs_up("inc.zip", &options).says(&["vda: inc since virtnbdbackup.0", "Redefine missing checkpoint"]);
    piped.restores(&["full.zip", "inc.zip"], &[], &["vda"], &references);

    // It is no set.
    let (out, input) = (lab.fresh_directory(), &state);
    virtkeep(&[&"restore", &"-i", input, &"-o", &out]).ends_with(2).says(&["records", "hint: ", "zip"]);
    virtkeep(&[&"verify", &"-i", input]).ends_with(2).says(&["records", "hint: "]);
    let dump = virtkeep(&[&"dump", &"-i", input]).succeeds();
    assert!(dump.stdout.contains("virtnbdbackup.1"), "{}", dump.stdout);
    virtkeep(&[&"doctor", &"-U", &lab.uri(), &"-d", &"d", &"-o", input, &"--scratchdir", &lab.scratch()]).succeeds();
    piped.case.backup_to(input, &[]).ends_with(2).says(&["records", "hint: "]);
    let set = lab.fresh_directory().join("set");
    piped.case.backup_to(&set, &["-l", "copy"]).succeeds();
    piped.send_to("cat", &["--state-dir", set.to_str().unwrap()]).ends_with(2).says(&["set", "hint: ", "--state-dir"]);
    piped.case.is_as_before(&["virtnbdbackup.0", "virtnbdbackup.1"]);
}

#[test]
fn places_where_it_would_be_lost() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:8M"]);
    piped.case.domain.write("vda", 0x11, 0, MIB);
    let program = std::env::var_os("VIRTKEEP_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_virtkeep").into());
    let arguments = piped.case.arguments(std::path::Path::new("-"), &[]);
    let to = |script: &str| {
        let script = format!("cd \"$1\"; shift; {script}");
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-c", &script, &"sh", &piped.work, &program];
        all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<std::ffi::OsStr>));
        run("sh", &all)
    };
    to("\"$@\" >/dev/null").ends_with(2).says(&["/dev/null", "hint: ", "-o -"]);
    to("\"$@\" >&-").ends_with(2).says(&["closed", "hint: "]);
    to("echo precious >file; \"$@\" >>file").ends_with(2).says(&["content", "hint: "]);
    assert_eq!(std::fs::read_to_string(piped.path("file")).unwrap(), "precious\n");
    // A terminal: what is said there goes to the same one.
    let terminal = to("script -qec \"$(printf '\"%s\" ' \"$@\")\" /dev/null </dev/null").ends_with(2);
    assert!(terminal.stdout.contains("the backup would go to the terminal"), "{}", terminal.stdout);
    for options in [&["--keep-partial"][..], &["--base", "virtnbdbackup.0", "-l", "copy"]] {
        piped.send_to("cat", options).ends_with(2).says(&["hint: "]);
    }
    let set = lab.fresh_directory().join("set");
    piped.case.backup_to(&set, &["--state-dir", "x"]).ends_with(2).says(&["--state-dir", "-o -"]);
    assert_eq!(piped.case.checkpoints(), [""; 0]);
    assert!(!piped.path("d.virtkeep/d.cpt").exists());
}

/// What became zero without becoming dirty can't be looked up in streams that are somewhere else.
#[test]
fn a_disk_that_was_shrunk_and_grown() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:8M"]);
    piped.case.domain.write("vda", 0x11, 0, 8 * MIB);
    piped.backs_up("full.zip", &[]);
    for size in ["4M", "8M"] {
        lab.virsh(&[&"blockresize", &"d", &"vda", &size]);
    }
    piped.case.domain.write("vda", 0x12, MIB, MIB);
    let references = piped.case.domain.snapshot_references(&["vda"]);
    piped.backs_up("inc.zip", &["-l", "inc"]).says(&["vda: inc since"]);
    piped.restores(&["full.zip", "inc.zip"], &[], &["vda"], &references);
}
