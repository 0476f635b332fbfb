//! Levels that don't suit the directory, and options that name what is not there.

use crate::support::{Case, Lab, listing, virtkeep};

#[test]
fn levels_that_do_not_suit_the_directory() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M"]);
    case.domain.write("vda", 0xaa, 0, 1 << 20);
    let set = case.set.to_str().unwrap();

    for level in ["inc", "diff"] {
        case.backup(&["-l", level]).ends_with(1).says(&[set, "No full backup", "hint: ", "-l full"]);
        case.is_as_before(&[]);
    }
    case.backup(&["-i", "vda,vdx"]).ends_with(1).says(&["vdx", "hint: ", "vda, vdb"]);
    case.backup(&["-x", "vdx"]).ends_with(1).says(&["vdx", "hint: ", "vda, vdb"]);
    case.backup(&["-x", "vda", "-x", "vdb"]).ends_with(1).says(&["no disk to back up", "hint: ", "-x"]);
    case.is_as_before(&[]);

    case.backs_up(&[], &["vda", "vdb"]);
    let chain = &["virtnbdbackup.0"];
    let before = listing(&case.set);
    for level in ["full", "copy"] {
        case.backup(&["-l", level]).ends_with(2).says(&[set, "hint: ", "empty directory"]);
        case.is_as_before(chain);
    }
    assert_eq!(listing(&case.set), before, "a refused run left something");

    let other = Case::new(&lab, "other", &["vda:4M"]);
    for level in ["auto", "full", "inc", "diff", "copy"] {
        other.backup_to(&case.set, &["-l", level]).ends_with(1).says(&["another domain", ": d (", "hint: ", "-o"]);
    }
    assert_eq!(listing(&case.set), before, "a refused run left something");
    assert_eq!(other.checkpoints(), [""; 0]);
    case.is_as_before(chain);

    let copy = case.set.with_file_name("copy");
    case.backup_to(&copy, &["-l", "copy"]).succeeds();
    for level in ["auto", "full", "copy"] {
        case.backup_to(&copy, &["-l", level]).ends_with(2).says(&["a copy", "hint: ", "empty"]);
    }
    case.backup_to(&copy, &["-l", "inc"]).ends_with(1).says(&["No full backup", "hint: "]);
    case.is_as_before(chain);

    case.domain.write("vdb", 0xbb, 4096, 8192);
    case.backs_up(&[], &["vda", "vdb"]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1"]);
}

#[test]
fn restore_points_that_are_not_there() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.backs_up(&[], &["vda"]);
    let out = lab.directory().join("out");
    for until in ["virtnbdbackup.7", "yesterday", "1999-12-31", "ffffffff-0000", ""] {
        virtkeep(&[&"restore", &"-i", &case.set, &"-o", &out, &"-u", &until]).ends_with(1).says(&[
            if until.is_empty() { "\"\"" } else { until },
            "hint: ",
            "virtkeep dump",
        ]);
    }
    virtkeep(&[&"restore", &"-i", &case.set, &"-o", &out, &"-d", &"vda,sdq"])
        .ends_with(1)
        .says(&["sdq", "hint: ", "vda"]);
    virtkeep(&[&"restore", &"-o", &out]).ends_with(2).says(&["--input"]);
    assert!(!out.exists(), "a refused restore made the directory");
}

#[test]
fn foreign_checkpoints_are_left_alone() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, 1 << 20);
    lab.virsh(&[&"checkpoint-create-as", &"d", &"their-own"]);
    for level in ["full", "auto"] {
        let refused = case.backup(&["-l", level]).ends_with(1);
        refused.says(&["their-own", "hint: ", "-l copy", "checkpoint-delete d their-own"]);
        case.no_traces();
    }
    assert_eq!(lab.virsh(&[&"checkpoint-list", &"d", &"--name"]).trim(), "their-own");
    let chain = case.set.with_file_name("chain");
    case.backs_up(&["-l", "copy"], &["vda"]);
    assert_eq!(lab.virsh(&[&"checkpoint-list", &"d", &"--name"]).trim(), "their-own");

    lab.virsh(&[&"checkpoint-delete", &"d", &"their-own"]);
    case.backup_to(&chain, &[]).succeeds();
    lab.virsh(&[&"checkpoint-create-as", &"d", &"theirs"]);
    case.backup_to(&chain, &["-l", "inc"]).ends_with(1).says(&["theirs", "hint: "]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "theirs"]);
    lab.virsh(&[&"checkpoint-delete", &"d", &"theirs"]);
    case.backup_to(&chain, &["-l", "inc"]).succeeds();
}

#[test]
fn a_full_elsewhere_ends_the_chain() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let first = case.set.to_str().unwrap();
    let second = case.set.with_file_name("second");
    case.domain.write("vda", 0xaa, 0, 1 << 20);
    case.backup(&[]).succeeds();
    case.backup(&["-l", "inc"]).succeeds();
    case.backup_to(&second, &["-l", "full"]).succeeds().says(&["ends the chain", first]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0"]);
    for level in ["inc", "auto", "diff"] {
        let refused = case.backup(&["-l", level]).ends_with(1);
        refused.says(&[first, "another chain", second.to_str().unwrap(), "hint: ", "-l full"]);
    }
    case.is_as_before(&["virtnbdbackup.0"]);
    case.domain.write("vda", 0xbb, 0, 8192);
    case.backup_to(&second, &["-l", "inc"]).succeeds();
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1"]);
    // The old chain is history, and still all there.
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds();
}

#[test]
fn wrong_usage() {
    for (arguments, words) in [
        (&["backup"][..], &["--domain"][..]),
        (&["backup", "-d", "d", "-o", "/x", "-l", "incremental"], &["incremental", "possible values"]),
        (&["backup", "-d", "d", "-o", "/x", "--compress=17"], &["17", "1..=16"]),
        (&["backup", "-d", "d", "-o", "/x", "-w", "0"], &["--worker", "0"]),
        (&["backup", "-d", "d", "-o", "/x", "-T", "lots"], &["lots"]),
        (&["backup", "-d", "d", "-o", "/x", "--freeze-timeout", "0"], &["1 to 3600"]),
        (&["backup", "-d", "d", "-o", "/x", "--no-freeze", "--require-freeze"], &["cannot be used with"]),
        (&["restore", "-i", "/x", "-o", "/y", "--format=raw", "--compress"], &["can't be compressed", "hint: "]),
        (&["restore", "-i", "/x", "--to-device", "vda"], &["vda=/dev"]),
        (&["restore", "-i", "/x"], &["--output"]),
        (&["verify"], &["--input"]),
        (&["mend", "-i", "/x"], &["mend"]),
    ] {
        let arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = arguments.iter().map(|argument| argument as _).collect();
        let run = virtkeep(&arguments).ends_with(2).says(words);
        assert_eq!(run.stdout, "", "{}", run.command);
    }
}
