//! The power goes: what a run has not made durable is lost, or is not. The run's system calls are
//! traced, and replayed up to every one of them on a model of a file system.

mod disk;
mod next;
mod trace;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use self::disk::{Disk, Loss, Tree};
use self::trace::{Call, Event, Trace};
use crate::support::{Case, Lab, run, virtkeep};

const LOSSES: [Loss; 5] = [Loss::None, Loss::Everything, Loss::Contents, Loss::Zeroes, Loss::Names];

/// A run seen from the kernel.
struct Traced {
    trace: Trace,
    /// The tree before it.
    before: Disk,
}

impl Traced {
    /// Backs up under strace. The set's directory lies two levels below the one that is modelled, so
    /// that the run makes both.
    #[track_caller]
    fn backup(case: &Case<'_>, options: &[&str]) -> Traced {
        let before = Disk::of(root(case));
        let output = case.lab.fresh_directory().join("trace");
        let mut arguments: Vec<std::ffi::OsString> =
            trace::strace_options(&output).into_iter().map(Into::into).collect();
        arguments.push(crate::support::program());
        arguments.extend(case.arguments(&case.set, options));
        let arguments: Vec<&dyn AsRef<OsStr>> = arguments.iter().map(|argument| argument as _).collect();
        run("strace", &arguments).succeeds();
        Traced { trace: Trace::read(&output), before }
    }

    /// Calls `visit` with the disk before each event and after all: with the call that begins, and
    /// whether the disk is not as at the visit before. Returns the disk at the end.
    fn replay(self, mut visit: impl FnMut(&Disk, Option<&Call>, bool)) -> Disk {
        let Traced { trace, before: mut disk } = self;
        let mut changed = true;
        for event in &trace.events {
            let beginning = match event {
                Event::Begin(number) => Some(&trace.calls[*number]),
                Event::End(_) => None,
            };
            visit(&disk, beginning, changed);
            changed = disk.apply(&trace, *event);
        }
        visit(&disk, None, changed);
        disk
    }
}

fn root<'c>(case: &'c Case<'_>) -> &'c Path {
    case.set.parent().unwrap().parent().unwrap()
}

fn case<'lab>(lab: &'lab Lab) -> Case<'lab> {
    let mut case = Case::new(lab, "d", &["vda:4M", "vdb:2M"]);
    case.set = case.set.parent().unwrap().join("new/set");
    case.domain.write("vda", 0xaa, 0, 192 << 10);
    case.domain.write("vdb", 0xbb, 1 << 20, 64 << 10);
    case
}

fn change(case: &Case<'_>) {
    case.domain.write("vda", 0xcc, 128 << 10, 128 << 10);
    case.domain.write_zeroes("vda", 0, 64 << 10, true);
    case.domain.write("vdb", 0xdd, 512, 1024);
}

/// The runs whose order counts: the first one, into a new directory, and such that build on it.
const RUNS: [&[&str]; 3] = [&[], &["-l", "inc"], &["-l", "diff", "--compress"]];

fn is_named(path: &Path, start: &str, end: &str) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.starts_with(start) && name.ends_with(end)
}

/// The lock's content is for people, and of no use after a power loss.
fn counts(path: &Path) -> bool {
    path.file_name().unwrap() != "lock"
}

#[test]
fn everything_is_durable_before_what_relies_on_it() {
    let lab = Lab::up();
    let case = case(&lab);
    for options in RUNS {
        let (mut begins, mut commits, mut names, mut ends) = (0, 0, 0, 0);
        let traced = Traced::backup(&case, options);
        traced.replay(|disk, call, _| {
            let Some(call) = call else { return };
            let files = disk.files();
            let intents: Vec<&PathBuf> = files.iter().filter(|path| is_named(path, "intent.", ".json")).collect();
            let durable = |what: &str, paths: &[&PathBuf]| {
                assert!(!paths.is_empty(), "{options:?}: no file to look at before {what}");
                for path in paths {
                    assert!(disk.is_durable(path), "{options:?}: not durable before {what}: {}", path.display());
                }
            };
            let others = |keep: &dyn Fn(&PathBuf) -> bool| -> Vec<&PathBuf> {
                files.iter().filter(|path| counts(path) && keep(path)).collect()
            };
            match call.name.as_str() {
                "write" if begins_job(call) => {
                    begins += 1;
                    durable("the job begins", &intents);
                }
                "rename" | "renameat" | "renameat2" => {
                    let (from, to) = if call.name == "rename" { (0, 1) } else { (1, 3) };
                    let (from, to) = (call.path(from), call.path(to));
                    if is_named(&to, "manifest.", ".json") {
                        commits += 1;
                        durable("the commit", &others(&|path| *path != from));
                        // Its content; its name is only now made.
                        assert!(disk.tree(Loss::Contents)[&from] == disk.tree(Loss::None)[&from], "{options:?}");
                    } else if is_named(&from, "", ".partial") {
                        names += 1;
                        durable("data get their names", &others(&|path| is_named(path, "manifest.", "")));
                        durable("data get their names", &intents);
                    }
                }
                "unlink" | "unlinkat" => {
                    let path = call.path(usize::from(call.name == "unlinkat"));
                    if is_named(&path, "intent.", ".json") {
                        ends += 1;
                        durable("the intent goes", &others(&|_| true));
                    }
                }
                _ => {}
            }
        });
        assert_eq!((begins, commits, names, ends), (1, 1, 2, 1), "{options:?}");
        change(&case);
    }
}

#[test]
fn a_power_loss_leaves_a_run_that_is_whole_or_never_was() {
    let lab = Lab::up();
    let case = case(&lab);
    let after = case.set.with_extension("after");
    let (mut states, mut committed) = (0, 0);
    for (earlier, options) in RUNS.into_iter().enumerate() {
        let references = case.domain.snapshot_references(&["vda", "vdb"]);
        let traced = Traced::backup(&case, options);
        std::fs::rename(&case.set, &after).unwrap();
        let (mut seen, mut may_be) = (HashSet::new(), false);
        let end = traced.replay(|disk, call, changed| {
            may_be |= call.is_some_and(|call| call.name.starts_with("rename") && names_manifest(call));
            if !changed {
                return;
            }
            for loss in LOSSES {
                let tree = disk.tree(loss);
                if !seen.insert(fingerprint(&tree)) {
                    continue;
                }
                states += 1;
                lay_out(&tree, root(&case));
                let points = look(&case, earlier > 0);
                let new = points.checked_sub(earlier).unwrap_or_else(|| panic!("{loss:?}: a run is lost"));
                assert!(new <= usize::from(may_be), "{loss:?}: committed too early");
                if new == 1 && committed_is_new(&mut committed) {
                    case.restores(&[], &["vda", "vdb"], &references);
                }
            }
        });
        // What a successful run leaves is durable.
        lay_out(&end.tree(Loss::Everything), root(&case));
        assert_eq!(look(&case, true), earlier + 1, "the run is lost");
        std::fs::remove_dir_all(&case.set).unwrap();
        std::fs::rename(&after, &case.set).unwrap();
        change(&case);
    }
    assert!(states > 100 && committed > 10, "{states} states, {committed} of them committed");
}

/// Counts; every fourth is restored.
fn committed_is_new(committed: &mut usize) -> bool {
    *committed += 1;
    *committed % 4 == 1
}

/// The request to libvirt.
fn begins_job(call: &Call) -> bool {
    call.name == "write" && call.bytes(1).windows(13).any(|bytes| bytes == b"<domainbackup")
}

fn names_manifest(call: &Call) -> bool {
    is_named(&call.path(if call.name == "rename" { 1 } else { 3 }), "manifest.", ".json")
}

fn fingerprint(tree: &Tree) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (path, content) in tree {
        // Each line of the log is not a state of its own.
        let log = is_named(path, "backup.", ".log");
        (path, content.as_ref().filter(|_| !log)).hash(&mut hasher);
    }
    hasher.finish()
}

/// Makes what is in `root` equal to `tree`.
fn lay_out(tree: &Tree, root: &Path) {
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if tree.contains_key(&path) || path.join("set").exists() {
            let _ = std::fs::remove_dir_all(path.join("set"));
        }
    }
    for (path, content) in tree {
        match content {
            None => std::fs::create_dir_all(path).unwrap(),
            Some(content) => std::fs::write(path, content).unwrap(),
        }
    }
}

/// The number of restore points that readers see; all are whole.
#[track_caller]
fn look(case: &Case<'_>, some: bool) -> usize {
    if !case.set.exists() {
        assert!(!some, "the set is lost");
        return 0;
    }
    let dump = virtkeep(&[&"dump", &"--json", &"-i", &case.set]).succeeds();
    let dump: serde_json::Value = serde_json::from_str(&dump.stdout).unwrap();
    assert_eq!(dump["problems"], serde_json::json!([]));
    let points = dump["restore_points"].as_array().unwrap().len();
    let verified = virtkeep(&[&"verify", &"-n", &"-i", &case.set]);
    if points == 0 {
        verified.ends_with(1).says(&["no restore point"]);
    } else {
        verified.succeeds();
    }
    points
}
