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
    let program = crate::support::program();
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

/// Records of what nothing can build on any more go, and those of what something can stay.
#[test]
fn records_do_not_pile_up() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:4M"]);
    let domain = &piped.case.domain;
    let kept = |of: &str| -> usize {
        let names = crate::support::listing(&piped.case.set);
        names.iter().filter(|name| name.starts_with(of) && (of != "backup." || name.ends_with(".log"))).count()
    };
    let mut round = 0;
    let mut backs_up = |name: &str, options: &[&str]| {
        round += 1;
        domain.write("vda", round, u64::from(round) * 65536, 65536);
        piped.backs_up(name, options);
    };
    backs_up("0.zip", &["-l", "full"]);
    backs_up("1.zip", &["-l", "inc"]);
    backs_up("copy.zip", &["-l", "copy"]);
    backs_up("diff.zip", &["-l", "diff"]);
    // The copy is gone, the diff belongs to the chain.
    assert_eq!((kept("manifest."), kept("backup.")), (3, 3));
    piped.send_with("cat", &["-l", "inc"], "copied=error").ends_with(1);
    assert_eq!((kept("manifest."), kept("backup.")), (3, 4), "the log of a failed run is for a look");
    std::fs::write(piped.case.set.join("backup.mine.log"), "").unwrap();
    // A full costs the chain before it nothing, until a run after it succeeds.
    backs_up("2.zip", &["-l", "full"]);
    assert_eq!((kept("manifest."), kept("backup.")), (4, 5));
    backs_up("other.zip", &["--base", "virtnbdbackup.1", "-l", "inc"]);
    let references = domain.snapshot_references(&["vda"]);
    piped.restores(&["0.zip", "1.zip", "other.zip"], &[], &["vda"], &references);
    backs_up("3.zip", &["-l", "full"]);
    backs_up("4.zip", &["-l", "inc"]);
    let references = domain.snapshot_references(&["vda"]);
    assert_eq!((kept("manifest."), kept("backup.")), (2, 3), "{:?}", crate::support::listing(&piped.case.set));
    assert_eq!(crate::support::listing(&piped.case.set.join("checkpoints")).len(), 2);
    assert_eq!(piped.case.checkpoints().len(), 2);
    piped.restores(&["3.zip", "4.zip"], &[], &["vda"], &references);
    // What is left is enough for a host that lost its list.
    for name in piped.case.checkpoints().iter().rev() {
        lab.virsh(&[&"checkpoint-delete", &"d", name, &"--metadata"]);
    }
    backs_up("5.zip", &["-l", "inc"]);
    let references = domain.snapshot_references(&["vda"]);
    piped.restores(&["3.zip", "4.zip", "5.zip"], &[], &["vda"], &references);
}
