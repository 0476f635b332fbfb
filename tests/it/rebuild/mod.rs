//! Domains that are gone, made again from their sets.

mod domain;
mod extras;
mod tpm;
mod xml;

use std::ffi::OsStr;
use std::path::Path;

use crate::support::{Lab, Run, run, virtkeep};

#[track_caller]
fn restore(lab: &Lab, set: &Path, out: &Path, options: &[&str]) -> Run {
    let uri = lab.uri();
    let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"restore", &"-n", &"-i", &set, &"-o", &out, &"-U", &uri];
    arguments.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
    virtkeep(&arguments)
}

/// Ends a domain and its definition; its images stay.
#[track_caller]
fn forget(lab: &Lab, name: &str) {
    if lab.virsh(&[&"domstate", &name]).trim() != "shut off" {
        lab.virsh(&[&"destroy", &name]);
    }
    lab.virsh(&[&"undefine", &name, &"--checkpoints-metadata", &"--keep-nvram"]);
}

/// A directory that the daemon's user owns, as those of a real host's images are.
fn images(lab: &Lab) -> std::path::PathBuf {
    let directory = lab.fresh_directory();
    run("chmod", &[&"755", &directory]).succeeds();
    directory
}

/// The lab's QEMU runs as nobody, and its daemon can't give it files.
#[track_caller]
fn hand_over(directory: &Path) {
    run("chown", &[&"-R", &"--reference", &directory.parent().unwrap().join("scratch"), &directory]).succeeds();
}

/// Fails the test unless the XML is a domain's by libvirt's schema.
#[track_caller]
fn is_valid(xml: &str) -> Result<(), String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), xml).unwrap();
    let checked = run("virt-xml-validate", &[&file.path(), &"domain"]);
    if checked.status == 0 { Ok(()) } else { Err(format!("{}{}\n{xml}", checked.stdout, checked.stderr)) }
}
