//! Domains of another host that are off.

use super::hosts::Hosts;
use crate::support::{Case, MIB, Run, run};

/// Backs up a domain that is off; the newest point must be what its image holds.
#[track_caller]
fn backs_up(hosts: &Hosts, case: &Case<'_>, options: &[&str]) -> Run {
    let reference = hosts.lab.fresh_directory().join("reference");
    run("qemu-img", &[&"convert", &"-f", &"qcow2", &"-O", &"raw", &case.domain.image("vda"), &reference]).succeeds();
    let run = hosts.backup(case, &hosts.ssh(), options).succeeds().says(&["is off: its images are read"]);
    case.restores(&[], &["vda"], &[reference]);
    hosts.no_traces(case);
    run
}

#[test]
fn a_domain_that_is_off_on_another_host() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:8M:name=a b; $(id).qcow2"]);
    case.domain.write("vda", 0xaa, 0, 2 * MIB);
    case.domain.stop();
    backs_up(&hosts, &case, &[]).says(&["vda: full"]);
    let write = |command: &str| {
        run("qemu-io", &[&"-f", &"qcow2", &"-c", &command, &case.domain.image("vda")]).succeeds();
    };
    write("write -P 0xbb 1M 1M");
    let run =
        backs_up(&hosts, &case, &[]).says(&["vda: inc since virtnbdbackup.0", "Got 1 extents to backup, 1.0 MiB"]);
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    // A chain over both.
    case.domain.start();
    case.domain.write("vda", 0xcc, 3 * MIB, MIB);
    hosts.backs_up(&case, &hosts.ssh(), &[], &["vda"]).says(&["vda: inc since virtnbdbackup.1"]);
    case.domain.stop();
    // A run that dies leaves no server on the image.
    write("write -P 0xdd 4M 1M");
    hosts.spawn(&case, &hosts.ssh(), &[], "stream-created=kill").wait().ends_with(137);
    hosts.no_connections();
    backs_up(&hosts, &case, &[]).says(&["did not finish", "vda: inc since virtnbdbackup.2"]);
    // Without files there is no way.
    hosts.sshd(&["DenyUsers root keeper"]);
    hosts.backup(&case, &hosts.tls(), &["--tls"]).ends_with(1).says(&["is off, and its images can't be got at", "-S"]);
}
