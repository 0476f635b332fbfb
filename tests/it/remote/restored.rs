//! Restores to another host.

use std::path::Path;

use super::hosts::Hosts;
use crate::support::{Case, MIB, Run, compare, listing, run};

fn restore(hosts: &Hosts, case: &Case<'_>, out: &Path, options: &[&str]) -> Run {
    let uri = hosts.ssh();
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"restore", &"-n", &"-i", &case.set, &"-o", &out, &"-U", &uri];
    all.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
    hosts.virtkeep(&all)
}

#[test]
fn a_domain_is_restored_and_defined_on_another_host() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:17826304:cluster_size=4096,name=a b; $(id) `id`.qcow2", "vdb:4M:raw", "vdc:4M"]);
    case.domain.write("vda", 0xaa, 0, 5 * MIB);
    case.domain.write("vda", 0xab, 17 * MIB, 512);
    case.domain.write("vdc", 0xbc, MIB, MIB);
    let disks = ["vda", "vdc"];
    let references = case.domain.snapshot_references(&disks);
    hosts.backup(&case, &hosts.ssh(), &["-x", "vdb"]).succeeds();

    let out = hosts.lab.directory().join("disks/new ones");
    restore(&hosts, &case, &out, &[]).ends_with(0);
    assert!(!out.exists(), "without --to-host it is written here, where the lab is not seen");
    restore(&hosts, &case, &out, &["-D"]).ends_with(2).says(&["--to-host"]);
    restore(&hosts, &case, &out, &["--to-host", "-D", "-N", "new"]).succeeds().says(&["domain new is defined"]);
    assert_eq!(listing(&out), ["a b; $(id) `id`.qcow2", "d-vdc.qcow2", "vmconfig.xml"]);
    for (name, reference) in [("a b; $(id) `id`.qcow2", &references[0]), ("d-vdc.qcow2", &references[1])] {
        compare(&out.join(name), "qcow2", reference);
    }
    let info = run("qemu-img", &[&"info", &out.join("a b; $(id) `id`.qcow2")]).succeeds().stdout;
    assert!(info.contains("cluster_size: 4096"), "{info}");
    assert_eq!(std::fs::read_dir(out.parent().unwrap()).unwrap().count(), 4, "only the directory is new");
    let xml = hosts.lab.virsh(&[&"dumpxml", &"new"]);
    assert!(xml.contains(&format!("{}/d-vdc.qcow2", out.display())), "{xml}");
    hosts.lab.virsh(&[&"undefine", &"new"]);

    // Nothing is overwritten unasked, and nothing that is in use.
    restore(&hosts, &case, &out, &["--to-host"]).ends_with(1).says(&["exists already", "--force"]);
    restore(&hosts, &case, &out, &["--to-host", "--force", "-c"]).succeeds();
    compare(&out.join("d-vdc.qcow2"), "qcow2", &references[1]);
    let there = hosts.lab.directory().join("disks");
    restore(&hosts, &case, &there, &["--to-host", "--force", "-d", "vdc"]).ends_with(1).says(&["the image is in use"]);
    compare(&out.join("d-vdc.qcow2"), "qcow2", &references[1]);

    // Raw, and compressed.
    let raw = hosts.lab.directory().join("disks/raw");
    restore(&hosts, &case, &raw, &["--to-host", "--format=raw"]).succeeds();
    compare(&raw.join("d-vdc.raw"), "raw", &references[1]);
    let small = hosts.lab.directory().join("disks/small");
    restore(&hosts, &case, &small, &["--to-host", "--compress", "-d", "vdc"]).succeeds();
    compare(&small.join("d-vdc.qcow2"), "qcow2", &references[1]);
    hosts.no_connections();
}

#[test]
fn what_makes_no_sense_on_another_host_is_refused() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:1M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    hosts.backup(&case, &hosts.ssh(), &[]).succeeds();
    restore(&hosts, &case, Path::new("relative"), &["--to-host"]).ends_with(2).says(&["absolute"]);
    let run = hosts.virtkeep(&[&"restore", &"-i", &case.set, &"-o", &"/x", &"--to-host", &"-U", &"qemu:///session"]);
    run.ends_with(2).says(&["--to-host is for another host"]);
    let file = Path::new("/proc/version/x");
    restore(&hosts, &case, file, &["--to-host"]).ends_with(1).says(&["create directory", "/proc/version"]);
    let out = hosts.lab.directory().join("disks/out");
    restore(&hosts, &case, &out, &["--to-host", "--ssh-port", "24"]).ends_with(1).says(&["--ssh-port"]);
    assert!(!out.exists());
    hosts.no_connections();
}
