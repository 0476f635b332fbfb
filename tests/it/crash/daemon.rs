//! libvirtd and QEMU that go away during a run.

use std::time::{Duration, Instant};

use crate::support::{Case, Lab, MIB, SLOWLY, listing, random_disk, spawn_with};

fn restart(lab: &Lab) {
    lab.command("daemon-kill", &[]).succeeds();
    lab.command("daemon-start", &[]).succeeds();
}

#[test]
fn a_restarted_daemon_costs_nothing_during_the_copy() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 4 * MIB);
    case.backs_up(&[], &["vda"]);
    for place in ["job-begun", "extents-known", "copied", "job-ended", "committed"] {
        case.domain.write("vda", 0xbb, 2 * MIB, MIB);
        let reference = case.domain.snapshot_references(&["vda"]);
        let mut run = spawn_with(&case, &["-l", "inc"], &format!("{place}=stop"));
        run.stops();
        restart(&lab);
        if ["job-begun", "extents-known", "copied"].contains(&place) {
            // Not of the moment that is copied.
            case.domain.write("vda", 0xbc, 0, MIB);
        }
        run.signal("CONT");
        let run = run.wait().succeeds();
        if place != "committed" && place != "job-ended" {
            assert_eq!(
                run.stderr.matches("the connection to libvirt is lost, trying again").count(),
                1,
                "{}",
                run.stderr
            );
            run.says(&["connected to libvirt again"]);
        }
        case.restores(&[], &["vda"], &reference);
        case.no_traces();
    }
    case.backs_up(&["-l", "inc"], &["vda"]);
}

#[test]
fn a_run_whose_daemon_stays_away_is_undone_by_the_next() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 4 * MIB);
    case.backs_up(&[], &["vda"]);
    case.domain.write("vda", 0xbb, 2 * MIB, MIB);
    let mut run = spawn_with(&case, &["-l", "inc"], "stream-created=stop");
    run.stops();
    lab.command("daemon-kill", &[]).succeeds();
    run.signal("INT");
    run.signal("CONT");
    run.wait().ends_with(130).says(&["interrupted"]);
    lab.command("daemon-start", &[]).succeeds();
    assert_eq!(case.checkpoints().len(), 2);
    let next = case.backup(&["-l", "inc"]).succeeds();
    next.says(&["did not finish: undoing it", "aborted the backup job", "vda: inc since virtnbdbackup.0"]);
    let reference = case.domain.snapshot_references(&["vda"]);
    case.restores(&[], &["vda"], &reference);
    case.is_as_before(&["virtnbdbackup.0", "virtnbdbackup.1"]);
}

#[test]
fn a_qemu_that_dies_fails_the_run_and_makes_the_next_full() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 4 * MIB);
    case.backs_up(&[], &["vda"]);
    // Something to read: a run that has read all it needs may be committed.
    case.domain.write("vda", 0xba, 0, MIB);
    let mut run = spawn_with(&case, &["-l", "inc"], "extents-known=stop");
    run.stops();
    lab.command("qemu-kill", &[&"d"]).succeeds();
    run.signal("CONT");
    run.wait().ends_with(1).says(&["undoing the run"]);
    case.domain.start();
    case.domain.write("vda", 0xbb, 2 * MIB, MIB);
    case.backs_up(&[], &["vda"]).says(&["vda: full instead of an increment", "missing or broken"]);
    case.backs_up(&["-l", "inc"], &["vda"]).says(&["vda: inc since"]);
}

/// QEMU as it is when it dies between the end of its job and that of its NBD server: the socket stays.
fn qemu_dies_at_its_socket(case: &Case<'_>) {
    let intents = listing(&case.set.join(".virtkeep"));
    let run = intents.iter().find_map(|name| name.strip_prefix("intent.")?.strip_suffix(".json")).unwrap();
    let socket = case.lab.scratch().join(format!("virtkeep.{run}.sock"));
    let address = format!(r#"{{"addr":{{"type":"unix","data":{{"path":"{}"}}}}}}"#, socket.display());
    let command = format!(r#"{{"execute":"nbd-server-start","arguments":{address}}}"#);
    let answer = case.lab.virsh(&[&"qemu-monitor-command", &"d", &command]);
    assert!(!answer.contains("error"), "{answer}");
    case.lab.command("qemu-kill", &[&"d"]).succeeds();
    assert!(socket.exists());
    // libvirtd may take its time to see it.
    let begin = Instant::now();
    while case.lab.virsh(&[&"domstate", &"d"]).trim() != "shut off" {
        assert!(begin.elapsed() < Duration::from_secs(20), "libvirtd does not see that QEMU died");
    }
}

#[test]
fn the_socket_of_a_qemu_that_died_late_goes_with_the_run() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 4 * MIB);
    let mut run = spawn_with(&case, &[], "job-ended=stop");
    run.stops();
    qemu_dies_at_its_socket(&case);
    run.signal("CONT");
    run.wait().succeeds();
    case.no_traces();

    // The run dies as well: the next one completes it.
    case.domain.start();
    spawn_with(&case, &["-l", "inc"], "committed=kill").wait().ends_with(137);
    qemu_dies_at_its_socket(&case);
    case.domain.start();
    case.backs_up(&[], &["vda"]).says(&["was committed, but not tidied up"]);
    case.no_traces();
}

#[test]
fn a_cut_nbd_server_fails_the_run_only() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48), "vdb:8M"]);
    case.domain.write("vdb", 0xaa, 0, 4 * MIB);
    case.backs_up(&["-x", "vda"], &["vdb"]);
    case.domain.write("vdb", 0xbb, 0, MIB);
    // Not while it stands still: QEMU 7.2 waits for clients that are being greeted.
    let mut run = spawn_with(&case, &[SLOWLY, "-l", "inc"], "");
    run.copies(&case);
    std::thread::sleep(Duration::from_millis(100));
    lab.virsh(&[&"qemu-monitor-command", &"d", &"{\"execute\":\"nbd-server-stop\"}"]);
    run.wait().ends_with(1).says(&["disk vda", "undoing the run"]);
    case.is_as_before(&["virtnbdbackup.0"]);
    case.backs_up(&["-l", "inc"], &["vda", "vdb"]).says(&["vdb: inc since virtnbdbackup.0"]);
}
