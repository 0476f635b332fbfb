//! Signals while libvirt or QEMU do not answer.

use std::time::{Duration, Instant};

use crate::support::{Case, Lab, MIB, run, spawn_with};

/// Stops a process, continues it when dropped.
pub struct Stopped(String);

impl Stopped {
    pub fn new(id: &str) -> Stopped {
        run("kill", &[&"-STOP", &id]).succeeds();
        Stopped(id.to_owned())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        run("kill", &[&"-CONT", &self.0]).succeeds();
    }
}

#[test]
fn a_signal_ends_the_run_while_qemu_does_not_answer() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 4 * MIB);
    case.backs_up(&[], &["vda"]);
    let qemu = lab.command("qemu-pid", &[&"d"]).succeeds().stdout;
    for (place, signal, status) in [("stream-created", "TERM", 143), ("name-freed", "INT", 130), ("copied", "HUP", 129)]
    {
        case.domain.write("vda", 0xbb, 2 * MIB, MIB);
        let mut backup = spawn_with(&case, &["-l", "inc"], &format!("{place}=stop"));
        backup.stops();
        let stopped = Stopped::new(qemu.trim());
        backup.signal("CONT");
        backup.signal(signal);
        let begin = Instant::now();
        backup.wait().ends_with(status).says(&["cleaning up takes too long"]);
        // Five seconds are promised; a loaded machine gets some more.
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
        drop(stopped);
        let next = case.backup(&["-l", "inc"]).succeeds().says(&["did not finish: undoing it"]);
        next.says(&["vda: inc since"]);
        let reference = case.domain.snapshot_references(&["vda"]);
        case.restores(&[], &["vda"], &reference);
        case.no_traces();
    }
}

#[test]
fn a_second_signal_leaves_at_once() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 4 * MIB);
    let mut backup = spawn_with(&case, &[], "stream-created=stop");
    backup.stops();
    let stopped = Stopped::new(lab.command("qemu-pid", &[&"d"]).succeeds().stdout.trim());
    backup.signal("CONT");
    backup.signal("TERM");
    std::thread::sleep(Duration::from_millis(1500));
    backup.signal("INT");
    let run = backup.wait().ends_with(130);
    assert!(!run.stderr.contains("takes too long"), "{}", run.stderr);
    drop(stopped);
    let next = case.backup(&[]).succeeds().says(&["did not finish: undoing it"]);
    next.says(&["full"]);
    case.is_as_before(&["virtnbdbackup.0"]);
}
