//! A run, or its way to the other host, that dies in the middle.

use std::time::{Duration, Instant};

use super::hosts::Hosts;
use crate::support::{Case, MIB, listing, run};

#[test]
fn a_killed_run_leaves_no_login_and_costs_itself_alone() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 2 * MIB);
    let ssh = hosts.ssh();
    hosts.backs_up(&case, &ssh, &[], &["vda"]);
    for (number, place) in (1_u8..).zip(["intent-written", "job-begun", "stream-created", "committed"]) {
        case.domain.write("vda", number, MIB, MIB);
        hosts.spawn(&case, &ssh, &[], &format!("{place}=kill")).wait().ends_with(137);
        hosts.no_connections();
        goes_on(&hosts, &case);
    }
    // A signal ends it soon, and all is undone by itself.
    case.domain.write("vda", 0xcc, MIB, MIB);
    let before = case.checkpoints();
    let mut stopped = hosts.spawn(&case, &ssh, &[], "stream-created=stop");
    stopped.stops();
    stopped.signal("TERM");
    stopped.signal("CONT");
    let begin = Instant::now();
    stopped.wait().ends_with(143);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    hosts.no_connections();
    goes_on(&hosts, &case);
    assert!(case.checkpoints().len() == before.len() + 1);
}

#[test]
fn a_connection_that_breaks_fails_the_run_and_the_next_goes_on() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 2 * MIB);
    let ssh = hosts.ssh();
    hosts.backs_up(&case, &ssh, &[], &["vda"]);
    case.domain.write("vda", 0xab, 0, MIB);
    for place in ["job-begun", "stream-created"] {
        let mut stopped = hosts.spawn(&case, &ssh, &[], &format!("{place}=stop"));
        stopped.stops();
        // All logins, libvirt's too; sshd itself goes on.
        let pids = run("ip", &[&"netns", &"pids", &format!("{}-there", name(&hosts))]).succeeds().stdout;
        for pid in pids.split_whitespace() {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if line.starts_with("sshd: ") && !line.contains("[listener]") {
                // Its own child may have ended by then.
                run("kill", &[&"-9", &pid]);
            }
        }
        stopped.signal("CONT");
        let ended = stopped.wait();
        // Begun and not yet copied from, it may get all it needs by a new login; what was read is lost with the old.
        assert!(ended.status == 0 || ended.status == 1, "{}: {}", ended.status, ended.stderr);
        hosts.no_connections();
        goes_on(&hosts, &case);
    }
    assert_eq!(listing(&hosts.lab.scratch()), [""; 0]);
}

fn name(hosts: &Hosts) -> String {
    hosts.directory().file_name().unwrap().to_str().unwrap().to_owned()
}

/// The next run is good, and clears up; only then is QEMU's NBD server free for a reference.
#[track_caller]
fn goes_on(hosts: &Hosts, case: &Case<'_>) {
    hosts.backup(case, &hosts.ssh(), &[]).succeeds();
    let references = case.domain.snapshot_references(&["vda"]);
    case.restores(&[], &["vda"], &references);
    hosts.no_traces(case);
}
