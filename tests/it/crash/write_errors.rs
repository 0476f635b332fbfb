//! Disks that fail: system calls of a run end with an error, one after the other, by strace. Such a
//! run has failed, or is committed and whole; the next one goes on.

use std::path::Path;

use crate::support::{Case, Lab, Run, run, virtkeep};

/// No run has as many calls of a kind.
const MOST: usize = 100;

/// A run, one of whose calls failed.
struct Injected {
    run: Run,
    /// What strace saw of it.
    lines: Vec<String>,
}

impl Injected {
    /// Lets the `when`th `call` of each thread fail, of those on `path` where it is given.
    #[track_caller]
    fn backup(case: &Case<'_>, call: &str, error: &str, when: usize, path: Option<&Path>) -> Injected {
        let output = case.lab.fresh_directory().join("trace");
        let trace = format!("trace={call},renameat");
        let inject = format!("inject={call}:error={error}:when={when}");
        let mut arguments: Vec<std::ffi::OsString> =
            ["-f", "-y", "-qq", "-e", "signal=none", "-e", &trace, "-e", &inject, "-o"].map(Into::into).to_vec();
        arguments.push(output.clone().into());
        if let Some(path) = path {
            arguments.extend(["-P".into(), path.into()]);
        }
        arguments.push(crate::support::program());
        arguments.extend(case.arguments(&case.set, &[]));
        let arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = arguments.iter().map(|argument| argument as _).collect();
        let run = run("strace", &arguments);
        let lines = String::from_utf8_lossy(&std::fs::read(output).unwrap()).lines().map(str::to_owned).collect();
        Injected { run, lines }
    }

    fn place(&self) -> Option<usize> {
        self.lines.iter().position(|line| line.contains("(INJECTED)"))
    }

    /// Whether a sync of something that the commit needs did not succeed before it.
    fn lost_a_sync(&self, case: &Case<'_>) -> bool {
        let commit = self.lines.iter().position(|line| line.contains("/manifest.")).unwrap_or(self.lines.len());
        // Of a directory that is somebody else's the sync may fail.
        let of_set = |line: &String| line.contains(case.set.to_str().unwrap());
        self.lines[..commit].iter().any(|line| line.contains("fsync") && line.contains("(INJECTED)") && of_set(line))
    }
}

/// A set with a committed full.
fn case<'lab>(lab: &'lab Lab) -> Case<'lab> {
    let case = Case::new(lab, "d", &["vda:4M", "vdb:2M"]);
    case.domain.write("vda", 0xaa, 0, 192 << 10);
    case.backs_up(&[], &["vda", "vdb"]);
    case
}

fn points(case: &Case<'_>) -> usize {
    let dump = virtkeep(&[&"dump", &"--json", &"-i", &case.set]).succeeds();
    let dump: serde_json::Value = serde_json::from_str(&dump.stdout).unwrap();
    dump["restore_points"].as_array().unwrap().len()
}

/// Tries one failing call; whether there was one to fail.
#[track_caller]
fn fails_well(case: &Case<'_>, call: &str, error: &str, when: usize, path: Option<&Path>) -> bool {
    case.domain.write("vda", 1 + (when % 250) as u8, 64 << 10, 512 * (1 + when as u64 % 100));
    case.domain.write("vdb", 1 + (when % 250) as u8, 512 * when as u64, 512);
    let references = case.domain.snapshot_references(&["vda", "vdb"]);
    let before = points(case);
    let injected = Injected::backup(case, call, error, when, path);
    let what = format!("{call} {when} ({error}): {:?}", injected.place().map(|place| &injected.lines[place]));
    let said = format!("{what}\n{}", injected.run.stderr);
    let (status, new) = (injected.run.status, points(case) - before);
    match status {
        0 | 3 => assert!(new == 1 && !injected.lost_a_sync(case), "succeeded with {new} new points: {said}"),
        1 => assert!(injected.place().is_some() && new <= 1, "failed with {new} new points: {said}"),
        _ => panic!("ended with {status}: {said}"),
    }
    if new == 1 {
        case.restores(&[], &["vda", "vdb"], &references);
    }
    let next = case.backup(&[]);
    assert!(next.status == 0, "the next run: {}\nafter {said}", next.stderr);
    assert!(next.stderr.contains("inc since"), "no increment: {}\nafter {said}", next.stderr);
    case.restores(&[], &["vda", "vdb"], &references);
    case.no_traces();
    injected.place().is_some()
}

/// Every call of a kind fails, one run after the other.
#[track_caller]
fn all_fail_well(case: &Case<'_>, call: &str, error: &str) {
    let mut when = 1;
    while fails_well(case, call, error, when, None) {
        when += 1;
        assert!(when < MOST, "{call} has no end");
    }
    assert!(when > 1, "no {call} failed");
}

#[test]
fn a_failed_sync_is_a_failed_run() {
    let lab = Lab::up();
    let case = case(&lab);
    all_fail_well(&case, "fsync", "EIO");
}

#[test]
fn a_failed_change_of_names_is_undone_or_completed() {
    let lab = Lab::up();
    let case = case(&lab);
    all_fail_well(&case, "renameat", "EIO");
    all_fail_well(&case, "rename", "ENOSPC");
    all_fail_well(&case, "unlink", "EIO");
}

#[test]
fn a_failed_write_fails_the_run_or_is_of_no_use_to_it() {
    let lab = Lab::up();
    let case = case(&lab);
    // By file: elsewhere the calls of qemu-img would fail, too.
    for name in ["vda.inc.N.data.partial", "vda.inc.N.data.chksum", "checkpoints/N.xml", ".virtkeep/lock"] {
        // Data goes to its place in the file.
        let write = if name.contains(".data.partial") { "pwritev" } else { "write" };
        for (call, error) in [("openat", "EDQUOT"), (write, "ENOSPC"), ("fsync", "EIO"), ("close", "EIO")] {
            let path = case.set.join(name.replace('N', &next_checkpoint(&case)));
            let failed = fails_well(&case, call, error, 1, Some(&path));
            let locked = name.ends_with("lock") && call == "fsync";
            assert!(failed || locked, "no {call} on {} failed", path.display());
        }
    }
}

fn next_checkpoint(case: &Case<'_>) -> String {
    let last = case.checkpoints().last().unwrap().rsplit_once('.').unwrap().1.parse::<u32>().unwrap();
    format!("virtnbdbackup.{}", last + 1)
}
