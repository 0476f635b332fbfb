//! A guest on another host, frozen from here.

use super::hosts::Hosts;
use crate::crash::guest::waits_until;
use crate::support::Case;

#[test]
fn a_guest_of_another_host_is_frozen_and_let_go_again() {
    let hosts = Hosts::up();
    let lab = &hosts.lab;
    let case = Case { lab, domain: lab.guest("g", &["vda:64M"]), set: hosts.directory().join("set") };
    case.domain.execute("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo first >/mnt/first && sync");
    let ssh = hosts.ssh();
    let run = hosts.backup(&case, &ssh, &[]).succeeds().says(&["froze 1 filesystem"]);
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    hosts.no_traces(&case);
    // Its kernel lies on the host, and came along.
    for name in ["vmlinux", "initramfs"] {
        let saved = std::fs::read(case.set.join(format!("{name}.virtnbdbackup.0"))).unwrap();
        assert!(saved == std::fs::read(lab.directory().join("guest").join(name)).unwrap(), "{name}");
    }
    // The guard has a login of its own, which outlives the run's.
    let frozen = || {
        let status = lab.virsh(&[&"qemu-agent-command", &"g", &"{\"execute\":\"guest-fsfreeze-status\"}"]);
        status.contains("frozen")
    };
    let mut killed = hosts.spawn(&case, &ssh, &[], "frozen=stop");
    killed.stops();
    assert!(frozen());
    killed.signal("KILL");
    killed.wait().ends_with(137);
    waits_until("thawed", || !frozen());
    case.domain.execute("echo alive >/mnt/alive && sync");
    hosts.no_connections();
    hosts.backup(&case, &ssh, &[]).succeeds().says(&["did not finish: undoing it"]);
    hosts.no_traces(&case);
}
