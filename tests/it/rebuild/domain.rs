//! Disks of all kinds, drives, firmware, autostart, storage pools.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{forget, hand_over, images, is_valid, restore};
use crate::support::{Lab, MIB, TestDomain, compare};

const NETWORK: &str = "<interface type='user'><mac address='52:54:00:12:34:56'/><model type='virtio'/></interface>";

/// The value of an element without attributes.
fn value<'x>(xml: &'x str, element: &str) -> Option<&'x str> {
    xml.split_once(&format!("<{element}>"))?.1.split_once("</").map(|(value, _)| value)
}

/// The part of the XML about a disk.
#[track_caller]
fn disk<'x>(xml: &'x str, target: &str) -> &'x str {
    let mark = format!("<target dev='{target}'");
    let found = xml.split("<disk ").skip(1).map(|text| text.split("</disk>").next().unwrap());
    found.into_iter().find(|text| text.contains(&mark)).unwrap_or_else(|| panic!("no disk {target}: {xml}"))
}

#[test]
fn a_domain_with_disks_of_all_kinds_comes_back() {
    let lab = Lab::up();
    let disks = ["vda:8M:volume", "vdb:8M", "vdc:2M:raw", "hda:1M:cdrom", "hdb:1M:cdrom", "fda:1440K"];
    let domain = lab.domain("web", &[&["--devices", NETWORK][..], &disks].concat());
    lab.virsh(&[&"autostart", &"web"]);
    domain.write("vda", 0xaa, 0, 3 * MIB);
    domain.write("vdb", 0xba, 0, 3 * MIB);
    // An overlay: what lies below it belongs to the disk.
    let overlay = lab.directory().join("disks/overlay.qcow2");
    let spec = format!("vdb,file={}", overlay.display());
    let others = ["vda", "vdc", "fda"].map(|target| format!("{target},snapshot=no"));
    let mut snapshot: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"snapshot-create-as", &"web", &"s", &"--disk-only"];
    snapshot.extend([&"--no-metadata" as &dyn AsRef<std::ffi::OsStr>, &"--diskspec", &spec]);
    for other in &others {
        snapshot.extend([&"--diskspec" as &dyn AsRef<std::ffi::OsStr>, other]);
    }
    lab.virsh(&snapshot);
    domain.write("vdb", 0xbb, 2 * MIB, 2 * MIB);
    let references = domain.snapshot_references(&["vda", "vdb"]);
    let set = lab.fresh_directory().join("set");
    lab.back_up("web", &set, &["-x", "vdc"]).succeeds();
    let old = lab.virsh(&[&"dumpxml", &"web"]);
    for gone in ["hdb", "fda"] {
        fs::remove_file(domain.image(gone)).unwrap();
    }
    let there = domain.image("hda");
    forget(&lab, "web");

    let out = images(&lab);
    hand_over(&out);
    lab.virsh(&[&"pool-define-as", &"restored", &"dir", &"--target", &out]);
    lab.virsh(&[&"pool-start", &"restored"]);
    fs::write(out.join("seen"), "").unwrap();
    let run = restore(&lab, &set, &out, &["-D"]).succeeds();
    run.says(&["disk vdc is not part", "drive hdb is empty now", "drive fda is empty now", "storage pool of"]);
    // The pool was looked at again. The images are root's, whom this libvirtd is not.
    let volumes = lab.virsh(&[&"vol-list", &"restored"]);
    assert!(volumes.contains("seen") && !volumes.contains("web-vda.qcow2"), "{volumes}");
    hand_over(&out);
    lab.virsh(&[&"pool-refresh", &"restored"]);
    let volumes = lab.virsh(&[&"vol-list", &"restored"]);
    assert!(volumes.contains("web-vda.qcow2") && volumes.contains("overlay.qcow2"), "{volumes}");
    let info = lab.virsh(&[&"dominfo", &"web"]);
    assert!(info.lines().any(|line| line.starts_with("Autostart:") && line.ends_with("enable")), "{info}");
    let xml = lab.virsh(&[&"dumpxml", &"web"]);
    is_valid(&xml).unwrap();
    is_valid(&fs::read_to_string(out.join("vmconfig.xml")).unwrap()).unwrap();
    assert_eq!(value(&xml, "uuid"), value(&old, "uuid"));
    assert!(xml.contains("52:54:00:12:34:56") && !xml.contains("'vdc'"), "{xml}");
    for (target, name) in [("vda", "web-vda.qcow2"), ("vdb", "overlay.qcow2")] {
        let disk = disk(&xml, target);
        assert!(disk.contains("type='file'") && disk.contains(out.join(name).to_str().unwrap()), "{disk}");
        assert!(!disk.contains("<backingStore type"), "{disk}");
    }
    assert!(disk(&xml, "hda").contains(there.to_str().unwrap()), "a medium that is there stays in its drive");
    assert!(!disk(&xml, "hdb").contains("<source") && !disk(&xml, "fda").contains("<source"), "{xml}");

    // It runs, with the content that it had, and is backed up again.
    hand_over(&out);
    let again = TestDomain::known(&lab, "web");
    again.start();
    for (target, reference) in ["vda", "vdb"].iter().zip(&references) {
        compare(&again.snapshot_reference(target), "raw", reference);
    }
    lab.back_up("web", &lab.fresh_directory().join("next"), &[]).succeeds();

    // Beside it, as another one.
    let out = images(&lab);
    restore(&lab, &set, &out, &["-D", "-N", "copy"]).succeeds().says(&["not started with the host"]);
    let copy = lab.virsh(&[&"dumpxml", &"copy"]);
    is_valid(&copy).unwrap();
    assert_ne!(value(&copy, "uuid"), value(&old, "uuid"));
    assert!(!copy.contains("52:54:00:12:34:56"), "{copy}");
    let info = lab.virsh(&[&"dominfo", &"copy"]);
    assert!(info.lines().any(|line| line.starts_with("Autostart:") && line.ends_with("disable")), "{info}");
}

#[test]
fn firmware_and_its_variables_come_back() {
    let lab = Lab::up();
    let (code, variables) = (lab.directory().join("disks/code.fd"), lab.directory().join("disks/vars.fd"));
    fs::copy("/usr/share/seabios/bios-256k.bin", &code).unwrap();
    fs::write(&variables, vec![0x5a; 128 << 10]).unwrap();
    hand_over(&lab.directory().join("disks"));
    let os = format!(
        "<loader readonly='yes' type='pflash'>{}</loader><nvram>{}</nvram>",
        code.display(),
        variables.display()
    );
    lab.domain("web", &["--os", &os, "vda:2M"]);
    let set = lab.fresh_directory().join("set");
    lab.back_up("web", &set, &[]).succeeds();
    let saved = fs::read(&variables).unwrap();
    forget(&lab, "web");
    fs::write(&variables, vec![0; 128 << 10]).unwrap();

    // The firmware that is there is used; the variables are the backup's.
    let out = images(&lab);
    restore(&lab, &set, &out, &["-D"]).succeeds();
    let xml = lab.virsh(&[&"dumpxml", &"web"]);
    assert!(xml.contains(code.to_str().unwrap()) && xml.contains(out.join("vars.fd").to_str().unwrap()), "{xml}");
    assert_eq!(fs::read(out.join("vars.fd")).unwrap(), saved);
    forget(&lab, "web");

    fs::remove_file(&code).unwrap();
    let out = images(&lab);
    restore(&lab, &set, &out, &["-D"]).succeeds();
    let xml = lab.virsh(&[&"dumpxml", &"web"]);
    is_valid(&xml).unwrap();
    assert!(xml.contains(out.join("code.fd").to_str().unwrap()), "{xml}");
    // QEMU's user reads it, and libvirt does not make it its own.
    assert_eq!(out.join("code.fd").metadata().unwrap().permissions().mode() & 0o777, 0o644);
    hand_over(&out);
    TestDomain::known(&lab, "web").start();
}

#[test]
fn a_disk_of_the_running_domain_alone_is_told() {
    let lab = Lab::up();
    let domain = lab.domain("web", &["vda:2M"]);
    let image = lab.directory().join("disks/hot.qcow2");
    crate::support::run("qemu-img", &[&"create", &"-q", &"-f", &"qcow2", &image, &"2M"]).succeeds();
    hand_over(&lab.directory().join("disks"));
    lab.virsh(&[&"attach-disk", &"web", &image, &"vdb", &"--subdriver", &"qcow2", &"--live"]);
    domain.write("vdb", 0x11, 0, MIB);
    let set = lab.fresh_directory().join("set");
    lab.back_up("web", &set, &[]).succeeds();
    let out = images(&lab);
    restore(&lab, &set, &out, &["-c"]).succeeds().says(&["disk vdb is not in the domain's XML", "by hand"]);
    assert!(out.join("hot.qcow2").exists());
}
