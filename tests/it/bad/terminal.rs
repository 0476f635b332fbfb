//! Terminals that go away, and output that nobody takes.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Background, CACHE, CONFIG, Case, Lab, SLOWLY, program, random_disk, spawn_command};

/// Runs the program on a terminal, from a shell that survives it, passes on what the kernel tells it when the terminal is
/// gone, if `passes_on`, and says how the program ended in the file `status`.
fn on_terminal(lab: &Lab, arguments: &[String], passes_on: bool, status: &Path) -> Background {
    let (program, part) = (PathBuf::from(program()), status.with_extension("part"));
    let (program, arguments) = (program.display(), arguments.join("' '"));
    let trap = if passes_on { "kill -HUP $!" } else { "" };
    let script = format!(
        "trap '{trap}' HUP; {program} '{arguments}' & while kill -0 $!; do wait $!; code=$?; done; echo $code >{0}; mv {0} {1}",
        part.display(),
        status.display()
    );
    let mut command = Command::new("script");
    command.args(["-qefc", &script, "/dev/null"]);
    spawn_command(command, "", lab.fresh_directory().join("stderr"))
}

/// How it ended.
#[track_caller]
fn ended(status: &Path) -> String {
    let begin = Instant::now();
    while !status.exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::read_to_string(status).unwrap().trim().to_owned()
}

fn arguments(case: &Case<'_>, options: &[&str]) -> Vec<String> {
    let arguments = case.arguments(&case.set, options);
    // With bars, which the tests have not otherwise.
    arguments.iter().map(|word| word.to_str().unwrap().to_owned()).filter(|word| word != "-n").collect()
}

/// ssh that breaks, a window that is closed: the signal comes, and nothing can be drawn any more.
#[test]
fn a_terminal_that_goes_away_undoes_the_run() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48)]);
    for options in [&[SLOWLY][..], &[SLOWLY, "-v"]] {
        let status = lab.fresh_directory().join("status");
        let mut run = on_terminal(&lab, &arguments(&case, options), true, &status);
        run.copies(&case);
        // Bars are there.
        std::thread::sleep(Duration::from_millis(500));
        run.signal("KILL");
        assert_eq!(ended(&status), "129");
        case.is_as_before(&[]);
    }
}

/// The same where the run is to outlive its terminal.
#[test]
fn a_run_goes_on_without_its_terminal() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48)]);
    let status = lab.fresh_directory().join("status");
    let mut run = on_terminal(&lab, &arguments(&case, &[SLOWLY]), false, &status);
    run.copies(&case);
    std::thread::sleep(Duration::from_millis(500));
    run.signal("KILL");
    assert_eq!(ended(&status), "0");
    case.restores(&[], &["vda"], &[case.domain.snapshot_reference("vda")]);
}

/// A terminal that was stopped, a pipe to a program that hangs: what can't be said holds nothing up.
#[test]
fn a_signal_is_heeded_where_nobody_listens() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48)]);
    let (_reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut full = File::from(writer);
    fcntl_setfl(&full, OFlags::NONBLOCK).unwrap();
    while !full.write(&[b'\n'; 4096]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {}
    fcntl_setfl(&full, OFlags::empty()).unwrap();
    let mut command = Command::new(program());
    command.args(case.arguments(&case.set, &[SLOWLY, "--quiet"])).env(CACHE.0, CACHE.1).env(CONFIG.0, CONFIG.1);
    let mut run = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full).spawn().unwrap();
    while !case.set.join("vda.full.data.partial").exists() {
        assert!(run.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(2));
    }
    kill_process(Pid::from_child(&run), Signal::INT).unwrap();
    // One that does not heed it goes on to its end.
    assert_eq!(run.wait().unwrap().code(), Some(130));
    case.is_as_before(&[]);
}
