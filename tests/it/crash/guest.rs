//! A guest that is frozen, paused or started for a run that dies.

use std::time::{Duration, Instant};

use crate::support::{Case, Lab, listing, run, spawn_with};

#[track_caller]
pub fn waits_until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}: it does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A real guest with a mounted filesystem on its disk, and a file there.
fn guest_case(lab: &Lab) -> Case<'_> {
    let case = Case { lab, domain: lab.guest("g", &["vda:64M"]), set: lab.fresh_directory().join("set") };
    case.domain.execute("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo first >/mnt/first && sync");
    case
}

/// What the agent of that guest says.
fn is_frozen(lab: &Lab) -> bool {
    let status = lab.virsh(&[&"qemu-agent-command", &"g", &"{\"execute\":\"guest-fsfreeze-status\"}"]);
    status.contains("frozen")
}

#[test]
fn a_frozen_guest_is_thawed_however_the_run_ends() {
    let lab = Lab::up();
    let case = guest_case(&lab);
    let frozen = || is_frozen(&lab);
    for (place, options) in [("frozen", &[][..]), ("begun-unthawed", &["--pause"])] {
        // Killed: the guard process thaws, at once.
        let mut killed = spawn_with(&case, options, &format!("{place}=stop"));
        killed.stops();
        if options.is_empty() {
            assert!(frozen(), "{place}");
        } else {
            assert_eq!(lab.virsh(&[&"domstate", &"g"]).trim(), "paused");
        }
        killed.signal("KILL");
        killed.wait().ends_with(137);
        waits_until("resumed", || lab.virsh(&[&"domstate", &"g"]).trim() == "running");
        waits_until("thawed", || !frozen());
        case.domain.execute("echo alive >/mnt/alive && sync");

        // Failed: thawed by the run itself.
        spawn_with(&case, options, &format!("{place}=error")).wait().ends_with(1).says(&["thawed"]);
        assert!(!frozen(), "{place}");
        case.domain.execute("echo alive >/mnt/alive && sync");
    }

    // The guard is killed, too: the next run thaws.
    let mut killed = spawn_with(&case, &[], "frozen=stop");
    killed.stops();
    let guard = run("pgrep", &[&"-P", &killed.id().to_string(), &"-f", &" guard$"]).succeeds();
    run("kill", &[&"-9", &guard.stdout.trim()]).succeeds();
    killed.signal("KILL");
    killed.wait().ends_with(137);
    assert!(frozen(), "nobody was there to thaw it");
    case.backup(&[]).succeeds().says(&["did not finish: undoing it", "thawed 1 filesystem", "froze 1 filesystem"]);
    assert!(!frozen());
    case.domain.execute("echo alive >/mnt/alive && sync");
    assert_eq!(listing(&lab.scratch()), [""; 0]);

    // The daemon is restarted while it is frozen: the run goes on or fails, the guest in no case.
    let mut stopped = spawn_with(&case, &["-l", "inc"], "frozen=stop");
    stopped.stops();
    lab.command("daemon-kill", &[]).succeeds();
    lab.command("daemon-start", &[]).succeeds();
    stopped.signal("CONT");
    stopped.wait();
    waits_until("thawed", || !frozen());
    case.backup(&["-l", "inc"]).succeeds();
    case.domain.execute("echo alive >/mnt/alive && sync");
}

#[test]
fn a_run_that_is_stopped_does_not_keep_the_guest_frozen() {
    let lab = Lab::up();
    let case = guest_case(&lab);
    let frozen = || is_frozen(&lab);
    let limits = ["--freeze-timeout", "1", "--freeze-limit", "1"];
    for (options, ends) in [(&["--require-freeze"][..], 1), (&["--strict"], 3)] {
        let mut stopped = spawn_with(&case, &[&limits[..], options].concat(), "frozen=stop");
        stopped.stops();
        waits_until("thawed", || !frozen());
        case.domain.execute("echo alive >/mnt/alive && sync");
        stopped.signal("CONT");
        stopped.wait().ends_with(ends).says(&["stood still for 2 s", "thawed by another"]);
        assert!(!frozen());
    }
    let mut stopped = spawn_with(&case, &[&limits[..], &["--pause"]].concat(), "begun-unthawed=stop");
    stopped.stops();
    waits_until("resumed", || lab.virsh(&[&"domstate", &"g"]).trim() == "running");
    stopped.signal("CONT");
    stopped.wait().succeeds();
}

#[test]
fn a_freeze_that_came_too_late_is_thawed_all_the_same() {
    let lab = Lab::up();
    let case = guest_case(&lab);
    // Each attempt to thaw is in the log of the agent's hook.
    let thawed = |freezes: usize| {
        let log = case.domain.execute("cat /tmp/freeze.log");
        log.matches("freeze").count() == freezes && log.lines().last().is_some_and(|line| line.starts_with("thaw"))
    };
    // Thawed before the run was over, or not yet: then it says to look.
    for (runs, options, ends) in [(1, &[][..], &[0, 3][..]), (2, &["--require-freeze"], &[1])] {
        case.domain.execute("touch /tmp/slow-freeze");
        let run = case.backup(&[&["--freeze-timeout", "1"], options].concat());
        assert!(ends.contains(&run.status), "{}: {}", run.status, run.stderr);
        run.says(&["did not answer in time"]);
        // By the run or by the guard, which outlives it.
        waits_until("thawed", || thawed(runs));
        case.domain.execute("echo alive >/mnt/alive && sync");
    }
    case.backup(&[]).succeeds().says(&["froze 1 filesystem", "thawed them"]);
}

#[test]
fn a_domain_started_for_a_run_that_dies_is_ended() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, 1 << 20);
    case.backs_up(&[], &["vda"]);
    case.domain.stop();
    let state = || lab.virsh(&[&"domstate", &"d"]).trim().to_owned();
    for place in ["intent-written", "stream-created"] {
        let mut killed = spawn_with(&case, &["-S", "-l", "inc"], &format!("{place}=stop"));
        killed.stops();
        assert_eq!(state(), "paused");
        killed.signal("KILL");
        killed.wait().ends_with(137);
        waits_until("ended", || state() == "shut off");
        case.backup(&["-S", "-l", "inc"]).succeeds().says(&["did not finish: undoing it"]);
        assert_eq!(state(), "shut off");
        case.no_traces();
    }
    // Resumed by somebody meanwhile: it is theirs.
    let mut killed = spawn_with(&case, &["-S", "-l", "inc"], "stream-created=stop");
    killed.stops();
    lab.virsh(&[&"resume", &"d"]);
    killed.signal("KILL");
    killed.wait().ends_with(137);
    case.backup(&["-S", "-l", "inc"]).succeeds();
    assert_eq!(state(), "running");
}
