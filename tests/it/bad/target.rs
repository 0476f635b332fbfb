//! Places that can't be written to, and daemons and domains that are not there.

use std::ffi::OsString;
use std::path::Path;

use crate::support::{Case, Lab, Run, listing, run, virtkeep};

#[test]
fn what_is_not_there_is_named() {
    let lab = Lab::up();
    let set = lab.fresh_directory().join("set");
    let backup = |domain: &str, uri: &str| virtkeep(&[&"backup", &"-d", &domain, &"-o", &set, &"-U", &uri]);
    backup("nosuch", &lab.uri()).ends_with(1).says(&["nosuch", "hint: ", "virsh"]);
    let nowhere = format!("qemu:///session?socket={}/nowhere", lab.directory().display());
    backup("d", &nowhere).ends_with(1).says(&["nowhere", "hint: "]);
    backup("d", "no uri").ends_with(2).says(&["no uri", "hint: "]);
    assert!(!set.exists(), "a run that could not even begin made the directory");

    for command in ["restore", "verify", "dump"] {
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&command, &"-i", &set];
        if command == "restore" {
            arguments.extend([&"-o" as &dyn AsRef<std::ffi::OsStr>, &"/nowhere"]);
        }
        virtkeep(&arguments).ends_with(1).says(&[set.to_str().unwrap(), "hint: "]);
    }
    let empty = lab.fresh_directory();
    let out = lab.directory().join("out");
    virtkeep(&[&"verify", &"-i", &empty]).ends_with(1).says(&["no restore point", "hint: "]);
    virtkeep(&[&"restore", &"-i", &empty, &"-o", &out]).ends_with(1).says(&["no restore point"]);
    assert!(!out.exists());
}

#[test]
fn a_run_that_fails_before_it_writes_leaves_no_directory() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:1M", "vdb:4T"]);
    let parent = lab.fresh_directory();
    let set = parent.join("2026/11/set");
    for (options, words) in [
        (&["-x", "vdz"][..], "has no disk \"vdz\""),
        (&["-x", "vda,vdb"], "no disk to back up"),
        (&["-l", "inc"], "No full backup found"),
        (&["--scratchdir", "/nowhere"], "/nowhere"),
        (&["--scratch-required"], "could overwrite up to 4.0 TiB"),
    ] {
        let run = case.backup_to(&set, options).ends_with(1).says(&[words]);
        assert!(!run.stderr.contains("undoing"), "{}", run.stderr);
        assert_eq!(listing(&parent), [""; 0], "{options:?}");
        let script = "cd \"$0\" && exec \"$@\" >/dev/full";
        let arguments = case.arguments(Path::new("-"), options);
        let program = crate::support::program();
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-c", &script, &parent, &program];
        all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<std::ffi::OsStr>));
        crate::support::run("sh", &all).ends_with(1).says(&[words]);
        assert_eq!(listing(&parent), [""; 0], "{options:?} of a backup to standard output");
    }
    // Somebody else's directory stays, and so does a set.
    std::fs::create_dir_all(&set).unwrap();
    case.backup_to(&set, &["-x", "vdz"]).ends_with(1);
    assert_eq!((set.exists(), listing(&set)), (true, vec![]));
    case.backup_to(&set, &["-x", "vdb"]).succeeds();
    let before = listing(&set);
    case.backup_to(&set, &["-x", "vdz"]).ends_with(1);
    assert_eq!(listing(&set), before);
    assert!(set.join(".virtkeep/lock").exists());
}

#[test]
fn targets_that_cannot_be_written() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 4 << 20);
    let parent = lab.fresh_directory();
    let set = parent.join("set");

    on_tmpfs(&parent, "ro", &case.arguments(&set, &[])).ends_with(1).says(&["set", "Read-only", "hint: ", "-o"]);
    case.is_as_before(&[]);

    let full = on_tmpfs(&parent, "size=1M", &case.arguments(&set, &[]));
    let full = full.ends_with(1).says(&["vda", "No space left", "hint: "]);
    assert!(full.stdout.lines().all(|name| name.ends_with(".log")), "left in a full directory: {}", full.stdout);
    case.is_as_before(&[]);

    // The data fits, what follows does not: somewhere on the way to the commit, or just behind it.
    case.backup(&[]).succeeds();
    let mut statuses = Vec::new();
    for kib in (4100..=4148).step_by(8) {
        let run = on_tmpfs(&parent, &format!("size={kib}K"), &case.arguments(&set, &["-l", "copy"]));
        let said = format!("{kib} KiB: {}\n{}", run.stdout, run.stderr);
        if run.status == 0 {
            assert!(run.stdout.contains("vda.copy.data\n") && !run.stdout.contains(".partial"), "{said}");
        } else {
            assert!(run.stderr.contains("No space left") && run.stderr.contains("hint: "), "{said}");
            assert!(run.stdout.lines().all(|name| name.ends_with(".log")), "left in a full directory: {said}");
        }
        statuses.push(run.status);
        case.is_as_before(&["virtnbdbackup.0"]);
    }
    assert!(statuses.contains(&0) && statuses.contains(&1), "{statuses:?}");

    let file = parent.join("file");
    std::fs::write(&file, "x").unwrap();
    case.backup_to(&file, &[]).ends_with(1).says(&["file", "hint: "]);
    case.backup_to(&file.join("set"), &[]).ends_with(1).says(&["file", "hint: "]);
    case.is_as_before(&["virtnbdbackup.0"]);

    // A missing parent is made, as virtnbdbackup does.
    let deep = parent.join("a/b/c");
    case.backup_to(&deep, &["-l", "copy"]).succeeds();
    case.backs_up(&["-l", "inc"], &["vda"]);
}

/// Runs the program where `directory` is a fresh tmpfs, seen by it alone; prints what is left there.
#[track_caller]
fn on_tmpfs(directory: &Path, options: &str, arguments: &[OsString]) -> Run {
    let script = "directory=$1; options=$2; shift 2
        mount -t tmpfs -o \"$options\" none \"$directory\" || exit 99
        trap 'umount -l \"$directory\"' EXIT
        \"$@\"; status=$?
        find \"$directory\" -type f ! -name lock -printf '%f\\n'
        exit $status";
    let program = crate::support::program();
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"--mount"];
    // In a bare chroot the root is no mount whose propagation could be changed.
    all.extend([&"--propagation" as &dyn AsRef<std::ffi::OsStr>, &"unchanged"]);
    if !is_root() {
        all.push(&"--map-root-user");
    }
    all.extend([&"sh" as &dyn AsRef<std::ffi::OsStr>, &"-c", &script, &"sh", &directory, &options, &program]);
    all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<std::ffi::OsStr>));
    run("unshare", &all)
}

fn is_root() -> bool {
    run("id", &[&"-u"]).succeeds().stdout.trim() == "0"
}

#[test]
fn scratch_directories_and_sockets() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, 1 << 20);

    // QEMU runs as somebody else where the test is root's, and as us elsewhere.
    let closed = lab.fresh_directory();
    run("chmod", &[&"500", &closed]).succeeds();
    let closed = closed.to_str().unwrap();
    case.backup(&["--scratchdir", closed]).ends_with(1).says(&[closed, "hint: ", "--scratchdir"]);
    case.is_as_before(&[]);
    assert_eq!(listing(Path::new(closed)), [""; 0]);
    let missing = lab.directory().join("missing");
    let missing = missing.to_str().unwrap();
    case.backup(&["--scratchdir", missing]).ends_with(1).says(&[missing, "hint: ", "--scratchdir"]);
    case.is_as_before(&[]);

    case.backup(&["--scratchdir", "relative"]).ends_with(2).says(&["relative", "absolute"]);
    let long = lab.scratch().join("x".repeat(100));
    case.backup(&["-f", long.to_str().unwrap()]).ends_with(2).says(&["107", "hint: ", "-f"]);
    case.is_as_before(&[]);

    // A file that is in the way of the socket is not ours to remove.
    let taken = lab.fresh_directory().join("socket");
    std::fs::write(&taken, "precious").unwrap();
    case.backup(&["-f", taken.to_str().unwrap()]).ends_with(1).says(&["socket", "hint: "]);
    case.is_as_before(&[]);
    assert_eq!(std::fs::read(&taken).unwrap(), b"precious");
    case.backs_up(&[], &["vda"]);
}

#[test]
fn partial_files_of_others_stay() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, 1 << 20);
    std::fs::create_dir(&case.set).unwrap();
    let foreign = case.set.join("vda.full.data.partial");
    std::fs::write(&foreign, "another tool writes this").unwrap();
    case.backup(&[]).ends_with(1).says(&["vda.full.data.partial", "hint: ", "remove"]);
    assert_eq!(std::fs::read(&foreign).unwrap(), b"another tool writes this");
    std::fs::remove_file(&foreign).unwrap();
    case.is_as_before(&[]);
    case.backs_up(&[], &["vda"]);
}
