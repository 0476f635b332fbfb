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

/// Images whose data is in a file of its own: both are made there. Devices of another host are not written.
#[test]
fn data_files_are_made_on_another_host() {
    let hosts = Hosts::up();
    let there = hosts.lab.fresh_directory();
    run("chmod", &[&"777", &there]).succeeds();
    let (image, data) = (there.join("vdb.qcow2"), there.join("data of vdb"));
    let options = format!("data_file_raw=on,data_file={}", data.display());
    run("qemu-img", &[&"create", &"-q", &"-f", &"qcow2", &"-o", &options, &image, &"4M"]).succeeds();
    run("chmod", &[&"666", &image, &data]).succeeds();
    let case = hosts.case("d", &["vda:1M", &format!("vdb:1:path={}", image.display())]);
    case.domain.write("vdb", 0x31, MIB + 512, MIB);
    let reference = case.domain.snapshot_reference("vdb");
    hosts.backup(&case, &hosts.ssh(), &[]).succeeds();
    let info = |image: &Path| run("qemu-img", &[&"info", &"-f", &"qcow2", &image]).succeeds().stdout;
    let out = hosts.lab.directory().join("disks/beside");
    restore(&hosts, &case, &out, &["--to-host", "-d", "vdb"]).succeeds();
    assert_eq!(listing(&out), ["data of vdb", "vdb.qcow2", "vmconfig.xml"]);
    compare(&out.join("vdb.qcow2"), "qcow2", &reference);
    compare(&out.join("data of vdb"), "raw", &reference);
    assert!(info(&out.join("vdb.qcow2")).contains(&format!("data file: {}/data of vdb\n", out.display())));
    let (out, place) = (hosts.lab.directory().join("disks/apart"), hosts.lab.directory().join("disks/moved"));
    let place = format!("vdb={}", place.join("x.raw").display());
    restore(&hosts, &case, &out, &["--to-host", "--relocate-data-file", &place]).succeeds();
    assert_eq!(listing(&out), ["d-vda.qcow2", "vdb.qcow2", "vmconfig.xml"]);
    compare(&out.join("vdb.qcow2"), "qcow2", &reference);

    let out = hosts.lab.directory().join("disks/refused");
    let device = crate::support::Loop::filled(hosts.directory(), 4 << 20, 0);
    for (options, words) in [
        (["--relocate-data-file", "vdb=x.raw"], "must be absolute"),
        (["--relocate-data-file", &format!("vdb={}", device.path())], "a device of another host can't be written"),
        (["--to-device", &format!("vda={}", device.path())], "a device of another host can't be written"),
    ] {
        let run = restore(&hosts, &case, &out, &[&["--to-host"][..], &options].concat()).ends_with(2);
        run.says(&[words, options[1].strip_prefix("vdb=").or(options[1].strip_prefix("vda=")).unwrap()]);
        assert!(!out.exists());
    }
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
