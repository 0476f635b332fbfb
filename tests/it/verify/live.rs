//! `--against-live`: what differs is found, what the guest wrote since is told apart, and the domain is left as it was.

use std::cell::RefCell;
use std::process::Command;

use serde_json::Value;

use crate::support::{Case, KIB, Lab, MIB, Run, program, spawn_command, virtkeep};

fn compare(case: &Case<'_>, options: &[&str]) -> Run {
    let (set, uri, scratch) = (&case.set, case.lab.uri(), case.lab.scratch());
    let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> =
        vec![&"verify", &"-n", &"--against-live", &"-i", &set, &"-U", &uri, &"--scratchdir", &scratch];
    arguments.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
    virtkeep(&arguments)
}

/// The bytes of each kind on the first disk, and its ranges.
fn found(run: &Run) -> ([u64; 3], Vec<(u64, u64, String)>) {
    let json: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stderr));
    let disk = &json["disks"][0];
    let bytes = ["changed_bytes", "unexplained_bytes", "unknown_bytes"].map(|name| disk[name].as_u64().unwrap());
    let ranges = disk["ranges"].as_array().unwrap().iter();
    let range = |range: &Value| {
        let number = |name: &str| range[name].as_u64().unwrap();
        (number("start"), number("end"), range["why"].as_str().unwrap().to_owned())
    };
    (bytes, ranges.map(range).collect())
}

#[track_caller]
fn says(run: &Run, words: &str) {
    assert!(run.stdout.starts_with(words), "{}{}", run.stdout, run.stderr);
}

/// Has QEMU forget what was written to a disk since a checkpoint.
fn lie(case: &Case<'_>, bitmap: &str) {
    let command = |text: &str| case.lab.virsh(&[&"qemu-monitor-command", &case.domain.name(), &text]);
    let nodes: Value = serde_json::from_str(&command(r#"{"execute":"query-named-block-nodes"}"#)).unwrap();
    let mut cleared = 0;
    for node in nodes["return"].as_array().unwrap() {
        let bitmaps = node["dirty-bitmaps"].as_array().into_iter().flatten();
        if bitmaps.into_iter().any(|known| known["name"] == bitmap) {
            let arguments = serde_json::json!({ "node": node["node-name"], "name": bitmap });
            let text = serde_json::json!({ "execute": "block-dirty-bitmap-clear", "arguments": arguments });
            command(&text.to_string());
            cleared += 1;
        }
    }
    assert!(cleared > 0, "{nodes}");
}

/// All that must hold whether the domain runs or not.
fn differences_are_told_apart(lab: &Lab, stop: bool) {
    let case = Case::new(lab, "d", &["vda:6M", "vdb:2M"]);
    let quietly = |work: &dyn Fn()| {
        if stop {
            case.domain.start();
            work();
            case.domain.stop();
        } else {
            work();
        }
    };
    case.domain.write("vda", 0xaa, 0, 3 * MIB);
    case.backup(&[]).succeeds();
    case.domain.write("vda", 0xab, MIB, 64 * KIB);
    case.domain.write_zeroes("vda", 2 * MIB, 128 * KIB, true);
    case.backup(&[]).succeeds();
    if stop {
        case.domain.stop();
    }
    let before = case.checkpoints();
    let same = |what: &str| {
        let run = compare(&case, &[]).succeeds();
        says(&run, what);
        case.is_as_before(&["virtnbdbackup.0", "virtnbdbackup.1"]);
    };
    assert_eq!(before.len(), 2);
    same("OK: identical: ");
    // Written, zeroed, and written with what was there.
    quietly(&|| {
        case.domain.write("vda", 0xac, 4 * MIB + 8 * KIB, 12 * KIB);
        case.domain.write_zeroes("vda", 64 * KIB, 64 * KIB, true);
        case.domain.write("vda", 0xaa, 2 * MIB + 512 * KIB, 64 * KIB);
    });
    let run = compare(&case, &["--json", "--disk", "vda"]).succeeds();
    let changed = |start: u64, end: u64| (start, end, "changed".to_owned());
    let expected = vec![changed(64 * KIB, 128 * KIB), changed(4 * MIB + 8 * KIB, 4 * MIB + 20 * KIB)];
    assert_eq!(found(&run), ([76 * KIB, 0, 0], expected), "{}", run.stdout);
    same("OK: all that differs (76.0 KiB) was written since the backup: ");
    // Since an older point: more was written.
    let run = compare(&case, &["--json", "-u", "virtnbdbackup.0"]).succeeds();
    assert_eq!(found(&run).0, [(76 + 64 + 128) * KIB, 0, 0], "{}", run.stdout);
    // The next increment has it, and all is the same again.
    let references = RefCell::default();
    quietly(&|| *references.borrow_mut() = case.domain.snapshot_references(&["vda", "vdb"]));
    case.backup(&["-l", "inc"]).succeeds();
    case.restores(&[], &["vda", "vdb"], &references.borrow());
    says(&compare(&case, &["-d", "d"]).succeeds(), "OK: identical: ");
    assert_eq!(case.checkpoints().len(), 3);
    case.no_traces();
    case.domain.remove();
}

#[test]
fn differences_of_a_running_domain_are_told_apart() {
    differences_are_told_apart(&Lab::up(), false);
}

#[test]
fn differences_of_a_stopped_domain_are_told_apart() {
    differences_are_told_apart(&Lab::up(), true);
}

#[test]
fn what_the_bitmap_does_not_know_is_the_alarm() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:6M"]);
    case.domain.write("vda", 0xaa, 0, 3 * MIB);
    case.backup(&[]).succeeds();
    case.domain.write("vda", 0xab, MIB, 64 * KIB);
    case.domain.write_zeroes("vda", 128 * KIB, 64 * KIB, true);
    lie(&case, "virtnbdbackup.0");
    case.domain.write("vda", 0xac, 4 * MIB, 4 * KIB);
    let run = compare(&case, &[]).ends_with(4);
    let run = run.says(&["vda: differs though nothing was written there since: bytes 1048576 to 1114112"]);
    says(&run, "DIFFERENT: 128.0 KiB differ though nothing was written there since the backup: ");
    let run = compare(&case, &["--json"]).ends_with(4);
    let (bytes, ranges) = found(&run);
    assert_eq!(bytes, [4 * KIB, 128 * KIB, 0], "{}", run.stdout);
    let unexplained = |start: u64| (start, start + 64 * KIB, "unexplained".to_owned());
    let changed = (4 * MIB, 4 * MIB + 4 * KIB, "changed".to_owned());
    assert_eq!(ranges, [unexplained(128 * KIB), unexplained(MIB), changed]);
    case.no_traces();

    // Without the bitmap nobody can tell.
    case.lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.0"]);
    let run = compare(&case, &[]).ends_with(3);
    says(&run, "DIFFERENT: 132.0 KiB differ, and it is not known what was written since");
    run.says(&["vda: what was written since the backup is not known: checkpoint virtnbdbackup.0 is gone"]);
    // A set that is damaged is damage, and no difference.
    let path = case.set.join("vda.full.data");
    let mut stream = std::fs::read(&path).unwrap();
    stream[MIB as usize] ^= 1;
    std::fs::write(&path, stream).unwrap();
    compare(&case, &[]).ends_with(4).says(&["vda.full.data", "is damaged"]);
    case.is_as_before(&[]);
}

#[test]
fn a_comparison_that_dies_is_tidied_up() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    case.backup(&[]).succeeds();
    let dies = |place: &str, what: &str| {
        let mut command = Command::new(program());
        command.args(["verify", "-n", "--against-live", "-U", &lab.uri(), "-i"]).arg(&case.set);
        command.arg("--scratchdir").arg(lab.scratch());
        spawn_command(command, &format!("{place}={what}"), lab.fresh_directory().join("log")).wait()
    };
    for place in ["intent-written", "job-begun", "extents-known", "job-ended"] {
        let run = dies(place, "error");
        assert_eq!(run.status, 1, "{place}: {}", run.stderr);
        case.is_as_before(&["virtnbdbackup.0"]);
    }
    for place in ["intent-written", "job-begun", "extents-known", "job-ended"] {
        assert_eq!(dies(place, "kill").status, 137, "{place}");
        says(&compare(&case, &[]).succeeds(), "OK: identical: ");
        case.is_as_before(&["virtnbdbackup.0"]);
    }
    assert_eq!(dies("extents-known", "kill").status, 137);
    case.domain.write("vda", 0xab, 2 * MIB, MIB);
    case.backup(&[]).succeeds();
    case.no_traces();
    // Options that don't go together.
    let set = &case.set;
    virtkeep(&[&"verify", &"-i", &set, &"--against-live", &"--deep"]).ends_with(2);
    virtkeep(&[&"verify", &"-i", &set, &"-d", &"d"]).ends_with(2);
    virtkeep(&[&"verify", &"-i", &set, &"-u", &"virtnbdbackup.0"]).ends_with(2);
    compare(&case, &["--disk", "vdx"]).ends_with(1).says(&["vdx", "hint: it has vda"]);
}
