//! A backup job that libvirt believes in and QEMU does not have: the daemon was killed while it began one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::chain;
use crate::support::{Case, Lab, MIB, spawn};

impl Case<'_> {
    /// What libvirtd keeps of the running domain for its own restart.
    fn status_file(&self) -> PathBuf {
        self.lab.directory().join("run/libvirt/qemu/run/d.xml")
    }

    /// Kills libvirtd while it begins a job; false where it came too early or too late.
    fn kill_daemon_in_begin(&self) -> bool {
        // No shell script is fast enough.
        let pid = std::fs::read_to_string(self.lab.directory().join("libvirtd.pid")).unwrap();
        let run = spawn(self, &["-l", "inc"]);
        let begin = Instant::now();
        while !std::fs::read_to_string(self.status_file()).unwrap_or_default().contains("async='backup'") {
            assert!(begin.elapsed() < Duration::from_secs(20), "no job begins");
        }
        crate::support::run("kill", &[&"-9", &pid.trim()]).succeeds();
        self.lab.command("daemon-kill", &[]);
        self.lab.command("daemon-start", &[]).succeeds();
        run.wait();
        self.lab.command("virsh", &[&"domjobinfo", &"d"]).stderr.contains("backup job data missing")
    }
}

#[test]
fn a_job_left_half_made_by_a_killed_daemon() {
    let lab = Lab::up();
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    let begin = Instant::now();
    while !case.kill_daemon_in_begin() {
        assert!(begin.elapsed() < Duration::from_secs(120), "libvirtd was never killed at the right moment");
    }
    let run = case.backup(&["-l", "inc"]).ends_with(1);
    run.says(&["hint: ", "libvirtd", "async='backup'"]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1"]);

    // The remedy, to the letter.
    lab.command("daemon-kill", &[]).succeeds();
    let status = std::fs::read_to_string(case.status_file()).unwrap();
    let mended = without_job(&status);
    std::fs::write(case.status_file(), mended).unwrap();
    lab.command("daemon-start", &[]).succeeds();
    case.domain.write("vda", 0xb1, 3 * MIB, 65536);
    case.backs_up(&["-l", "inc"], &["vda"]).says(&["vda: inc since virtnbdbackup.1"]);
}

/// Without the element `<job type='none' async='backup' .../>` and what is in it.
fn without_job(status: &str) -> String {
    let begin = status.find("<job ").unwrap();
    let head = &status[begin..begin + status[begin..].find('>').unwrap() + 1];
    let end = if head.ends_with("/>") {
        begin + head.len()
    } else {
        begin + status[begin..].find("</job>").unwrap() + "</job>".len()
    };
    format!("{}{}", &status[..begin], &status[end..])
}
