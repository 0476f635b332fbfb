//! virtkeep under the names of virtnbdbackup's programs. What those are is in
//! `tests/fixtures/virtnbdbackup-2.53`: their help, and what they say.

mod chain;
mod jobs;
mod options;
mod output;
mod phrases;
mod remote;
mod restore;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::support::{Case, Lab, Run, program, run};

/// A file of virtnbdbackup 2.53's.
fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/virtnbdbackup-2.53").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// A link to the program under test; it goes with `directory`.
fn link(directory: &Path, name: &str) -> PathBuf {
    let program = program();
    let link = directory.join(name);
    if !link.exists() {
        std::os::unix::fs::symlink(program, &link).unwrap();
    }
    link
}

/// Runs virtnbdbackup for the lab's libvirtd; `options` may hold a socket of their own.
#[track_caller]
fn backup(lab: &Lab, options: &[&dyn AsRef<OsStr>]) -> Run {
    let (uri, scratch, socket) = (lab.uri(), lab.scratch(), lab.directory().join("run/dropin.sock"));
    let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"-U", &uri, &"-n", &"--scratchdir", &scratch, &"-f", &socket];
    all.extend(options);
    run(link(lab.directory(), "virtnbdbackup"), &all)
}

/// Runs virtnbdrestore for the lab's libvirtd.
#[track_caller]
fn restore(lab: &Lab, options: &[&dyn AsRef<OsStr>]) -> Run {
    let (uri, log) = (lab.uri(), lab.directory().join("restore.log"));
    let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"-U", &uri, &"-n", &"-L", &log];
    all.extend(options);
    run(link(lab.directory(), "virtnbdrestore"), &all)
}

/// Backs the case's domain up into its set.
#[track_caller]
fn back_up(case: &Case<'_>, level: &str, options: &[&str]) -> Run {
    let name = case.domain.name();
    let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"-d", &name, &"-o", &case.set, &"-l", &level];
    all.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
    backup(case.lab, &all)
}
