//! Domains that are off: their images are read, and what is made, checked and removed there goes together
//! with what QEMU and libvirt do while they run.

mod chain;
mod crash;
mod images;
mod options;

use std::path::PathBuf;

use crate::support::{Case, Lab, Run, listing, run};

/// What the images of a domain that is off hold, as raw files.
#[track_caller]
fn references(case: &Case<'_>, disks: &[&str]) -> Vec<PathBuf> {
    let directory = case.lab.fresh_directory();
    let reference = |disk: &&str| {
        let path = directory.join(format!("{disk}.raw"));
        run("qemu-img", &[&"convert", &"-f", &"qcow2", &"-O", &"raw", &case.domain.image(disk), &path]).succeeds();
        path
    };
    disks.iter().map(reference).collect()
}

/// Backs up a domain that is off, and fails the test unless that succeeds, leaves nothing, and the newest point
/// equals what the images hold.
#[track_caller]
fn backs_up(case: &Case<'_>, options: &[&str], disks: &[&str]) -> Run {
    let references = references(case, disks);
    let run = case.backup(options).succeeds().says(&["is off: its images are read"]);
    case.restores(&[], disks, &references);
    leaves_nothing(case);
    run
}

/// Neither files nor a server on an image.
#[track_caller]
fn leaves_nothing(case: &Case<'_>) {
    case.no_traces();
    assert_eq!(servers(case), [""; 0], "servers are left");
    assert_eq!(state(case.lab), "shut off");
}

/// The command lines of the `qemu-nbd` that serve an image of the lab.
fn servers(case: &Case<'_>) -> Vec<String> {
    let images = case.lab.directory().to_string_lossy().into_owned();
    let processes = listing(std::path::Path::new("/proc")).into_iter();
    let command_lines = processes.filter_map(|id| std::fs::read(format!("/proc/{id}/cmdline")).ok());
    let texts = command_lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    texts.filter(|line| line.contains("qemu-nbd") && line.contains(&images)).collect()
}

/// The temporary directories that servers have their sockets in, of runs into the set's domain that were killed.
fn server_directories() -> Vec<String> {
    // Those of other tests are of this kind, too; only ours bear a run.
    let names = listing(&std::env::temp_dir()).into_iter();
    names.filter(|name| name.starts_with("virtkeep-nbd-") && name.len() > 40).collect()
}

/// Writes to the image of a domain that is off, as a tool on the host does.
#[track_caller]
fn write(case: &Case<'_>, disk: &str, command: &str) {
    run("qemu-io", &[&"-f", &"qcow2", &"-c", &command, &case.domain.image(disk)]).succeeds();
}

/// The names of the bitmaps in an image of a domain that is off; markers are called `marker`.
#[track_caller]
fn bitmaps(case: &Case<'_>, disk: &str) -> Vec<String> {
    let info = run("qemu-img", &[&"info", &"-U", &"--output=json", &case.domain.image(disk)]).succeeds();
    let info: serde_json::Value = serde_json::from_str(&info.stdout).unwrap();
    let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array().into_iter().flatten();
    let name = |bitmap: &serde_json::Value| bitmap["name"].as_str().unwrap().to_owned();
    let mut names: Vec<String> =
        bitmaps.map(name).map(|name| if name.starts_with("virtkeep.") { "marker".into() } else { name }).collect();
    names.sort();
    names
}

fn state(lab: &Lab) -> String {
    lab.virsh(&[&"domstate", &"d"]).trim().to_owned()
}
