//! What a run leaves on another host, seen and mended from here.

use std::os::unix::net::UnixListener;

use super::hosts::Hosts;
use crate::crash::guest::waits_until;
use crate::support::{Case, MIB, Run, listing};

fn doctor(hosts: &Hosts, case: &Case<'_>, options: &[&str]) -> Run {
    let (uri, scratch) = (hosts.ssh(), hosts.lab.scratch());
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> =
        vec![&"doctor", &"-d", &"d", &"-o", &case.set, &"-U", &uri, &"--scratchdir", &scratch];
    all.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
    hosts.virtkeep(&all)
}

#[test]
fn the_doctor_sees_and_mends_another_host() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let ssh = hosts.ssh();
    hosts.backs_up(&case, &ssh, &[], &["vda"]);
    let run = doctor(&hosts, &case, &[]).succeeds();
    assert!(run.stdout.contains("bitmap good: vda"), "{}", run.stdout);

    hosts.spawn(&case, &ssh, &[], "stream-created=kill").wait().ends_with(137);
    let run = doctor(&hosts, &case, &[]).ends_with(3);
    assert!(run.stdout.contains("DEAD"), "{}", run.stdout);
    // A job that goes on has its files in use.
    assert!(!run.stdout.contains("nobody uses it"), "{}", run.stdout);
    doctor(&hosts, &case, &["--repair"]).succeeds().says(&["aborted the backup job"]);
    doctor(&hosts, &case, &[]).succeeds();
    hosts.no_traces(&case);

    // A host that died leaves files; a socket that somebody listens at is left alone.
    let manifest = listing(&case.set).into_iter().find(|name| name.starts_with("manifest.")).unwrap();
    let id = manifest.trim_start_matches("manifest.").trim_end_matches(".json").to_owned();
    let scratch = hosts.lab.scratch();
    std::fs::write(scratch.join(format!("virtkeep.{id}.vda.scratch")), "x").unwrap();
    let socket = scratch.join(format!("virtkeep.{id}.sock"));
    // Who listens is known of the host's own network alone.
    let mut listener = hosts.listen(&socket);
    waits_until("it listens", || socket.exists());
    let dead = scratch.join("virtkeep.11111111-1111-4111-8111-111111111111.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let run = doctor(&hosts, &case, &[]).ends_with(3);
    assert_eq!(run.stdout.matches("left behind").count(), 2, "{}", run.stdout);
    doctor(&hosts, &case, &["--repair"]).ends_with(3).says(&["removed"]);
    assert_eq!(listing(&scratch).len(), 2, "{:?}", listing(&scratch));
    listener.kill().unwrap();
    listener.wait().unwrap();
    doctor(&hosts, &case, &["--repair"]).ends_with(3);
    assert_eq!(listing(&scratch).len(), 1, "another's stays: {:?}", listing(&scratch));
}

#[test]
fn a_scratch_directory_that_fills_up_there_ends_the_run() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:4M"]);
    let nowhere = ["--scratch-reserve", "1000T"];
    let run = hosts.backup(&case, &hosts.ssh(), &nowhere).ends_with(1).says(&["the scratch directory has only"]);
    assert!(!run.stderr.contains("undoing") || case.checkpoints().is_empty(), "{}", run.stderr);
    hosts.no_traces(&case);
    let run = hosts.virtkeep(&[
        &"backup",
        &"-d",
        &"d",
        &"-o",
        &case.set,
        &"-U",
        &hosts.ssh(),
        &"--scratchdir",
        &"/nowhere/scratch",
    ]);
    run.ends_with(1).says(&["the scratch directory is not there", "--scratchdir"]);
}
