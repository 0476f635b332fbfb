//! `virtkeep ls` and `cp`: files out of a restore point, through a real libguestfs appliance.
//!
//! An appliance takes ten seconds to start on an idle machine: the disks are made once, and one start serves
//! several looks.

mod disks;
mod real;
mod refused;

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Run, program};

/// The variables by which libguestfs takes the kernel of the test guest, and no KVM.
pub fn appliance() -> Vec<(&'static str, String)> {
    let directory = crate::support::run(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest.sh"), &[]).succeeds().stdout;
    let directory = Path::new(directory.trim());
    let only = |folder: &str| {
        let mut entries = std::fs::read_dir(directory.join(folder)).unwrap();
        entries.next().unwrap().unwrap().path().to_str().unwrap().to_owned()
    };
    vec![
        ("SUPERMIN_KERNEL", only("boot")),
        ("SUPERMIN_MODULES", only("lib/modules")),
        ("LIBGUESTFS_BACKEND", "direct".to_owned()),
        ("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg".to_owned()),
        // Nothing of this machine's settings.
        ("LIBGUESTFS_CACHEDIR", "/var/tmp".to_owned()),
    ]
}

/// The program with these arguments and the appliance's variables.
pub fn command(arguments: &[&dyn AsRef<OsStr>]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments.iter().map(|argument| argument.as_ref())).envs(appliance()).stdin(Stdio::null());
    command
}

/// Runs it to its end; the bytes of its standard output, too.
#[track_caller]
pub fn run_bytes(mut command: Command) -> (Run, Vec<u8>) {
    let output = command.output().unwrap();
    let run = Run {
        command: format!("{command:?}"),
        status: output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal)).unwrap(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    (run, output.stdout)
}

/// Runs `virtkeep` with these arguments.
#[track_caller]
pub fn virtkeep(arguments: &[&dyn AsRef<OsStr>]) -> Run {
    run_bytes(command(arguments)).0
}
