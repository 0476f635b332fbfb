//! A domain with the set of its backups: what most tests are about.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{Lab, Run, TestDomain, compare, run, virtkeep};

/// 1024 bytes.
pub const KIB: u64 = 1024;
/// 1024 KiB.
pub const MIB: u64 = 1024 * KIB;

/// A domain and the set that its backups go to.
pub struct Case<'lab> {
    pub lab: &'lab Lab,
    pub domain: TestDomain<'lab>,
    pub set: PathBuf,
}

impl<'lab> Case<'lab> {
    /// The set's directory is not there yet.
    #[track_caller]
    pub fn new(lab: &'lab Lab, name: &str, disks: &[&str]) -> Case<'lab> {
        Case { lab, domain: lab.domain(name, disks), set: lab.fresh_directory().join("set") }
    }

    /// The arguments of a backup of this domain.
    pub fn arguments(&self, set: &Path, options: &[&str]) -> Vec<std::ffi::OsString> {
        let mut all: Vec<std::ffi::OsString> =
            vec!["backup".into(), "-n".into(), "-d".into(), self.domain.name().into(), "-o".into(), template(set)];
        all.extend(["-U".into(), self.lab.uri().into()]);
        // Clap takes an option once: what a test gives replaces ours.
        if !options.contains(&"--scratchdir") {
            all.extend(["--scratchdir".into(), self.lab.scratch().into()]);
        }
        all.extend(options.iter().map(|&option| option.into()));
        all
    }

    #[track_caller]
    pub fn backup_to(&self, set: &Path, options: &[&str]) -> Run {
        let arguments = self.arguments(set, options);
        let arguments: Vec<&dyn AsRef<OsStr>> = arguments.iter().map(|argument| argument as _).collect();
        virtkeep(&arguments)
    }

    #[track_caller]
    pub fn backup(&self, options: &[&str]) -> Run {
        self.backup_to(&self.set, options)
    }

    /// Backs up and fails the test unless that succeeds, the set is proven, and the newest point
    /// equals what the guest sees on `disks`.
    #[track_caller]
    pub fn backs_up(&self, options: &[&str], disks: &[&str]) -> Run {
        let references = self.domain.snapshot_references(disks);
        let run = self.backup(options).succeeds();
        self.restores(&[], disks, &references);
        self.no_traces();
        run
    }

    /// Restores `disks` of a point and compares them with their references.
    #[track_caller]
    pub fn restores(&self, options: &[&str], disks: &[&str], references: &[PathBuf]) {
        virtkeep(&[&"verify", &"-n", &"-i", &self.set]).succeeds();
        let out = self.lab.fresh_directory();
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"restore", &"-n", &"-i", &self.set, &"-o", &out];
        arguments.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
        virtkeep(&arguments).succeeds();
        for (disk, reference) in disks.iter().zip(references) {
            compare(&out.join(self.domain.image(disk).file_name().unwrap()), "qcow2", reference);
        }
        std::fs::remove_dir_all(out).unwrap();
    }

    /// The names of the checkpoints that libvirt knows.
    #[track_caller]
    pub fn checkpoints(&self) -> Vec<String> {
        let names = self.lab.virsh(&[&"checkpoint-list", &self.domain.name(), &"--name", &"--topological"]);
        names.split_whitespace().map(str::to_owned).collect()
    }

    /// Fails the test if a run left more than its backup: a job, files on the host, an intent.
    #[track_caller]
    pub fn no_traces(&self) {
        if self.lab.virsh(&[&"domstate", &self.domain.name()]).trim() != "shut off" {
            let job = self.lab.virsh(&[&"domjobinfo", &self.domain.name()]);
            assert!(job.contains("None"), "a job is left: {job}");
        }
        assert_eq!(listing(&self.lab.scratch()), [""; 0], "left in the scratch directory");
        no_traces_in(&self.set);
    }

    /// Fails the test unless a failed run left nothing, and the checkpoints are `checkpoints`.
    #[track_caller]
    pub fn is_as_before(&self, checkpoints: &[&str]) {
        self.no_traces();
        assert_eq!(self.checkpoints(), checkpoints);
    }
}

/// Fails the test if a set holds files of a run that is not committed.
#[track_caller]
fn no_traces_in(set: &Path) {
    let left: Vec<String> = listing(set).into_iter().filter(|name| name.ends_with(".partial")).collect();
    assert_eq!(left, [""; 0], "left in the set");
    let private = listing(&set.join(".virtkeep"));
    assert!(
        private.iter().all(|name| ["lock", "ended", "dropped", "stdout", "replaced"].contains(&name.as_str())),
        "left in .virtkeep: {private:?}"
    );
}

/// The sorted names in a directory; none where there is no such directory.
pub fn listing(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// All files of a set but the lock, by their paths in it.
pub fn files(set: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for folder in ["", "checkpoints"] {
        for name in listing(&set.join(folder)) {
            let path = Path::new(folder).join(name);
            if set.join(&path).is_file() {
                all.push(path);
            }
        }
    }
    all
}

/// A copy of a set, or of any directory.
#[track_caller]
pub fn copy_of(set: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    run("cp", &[&"-a", &set, &to]).succeeds();
}

/// The path as `backup -o` takes it, where a percent sign begins a code.
pub fn template(path: &Path) -> std::ffi::OsString {
    path.to_str().unwrap().replace('%', "%%").into()
}
