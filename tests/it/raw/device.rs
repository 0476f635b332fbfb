//! Restores straight onto block devices.

use super::{Mixed, restore};
use crate::support::{Case, Lab, Loop, MIB, compare, listing, run};

fn make(lab: &Lab) -> (Case<'_>, Vec<std::path::PathBuf>) {
    let case = Case::new(lab, "d", &["vda:16M", "vdb:2M"]);
    case.domain.write("vda", 0xaa, MIB, MIB);
    case.domain.write("vda", 0xab, 16 * MIB - 512, 512);
    case.domain.write("vdb", 0xba, 512 * 1024, MIB);
    let references = case.domain.snapshot_references(&["vda", "vdb"]);
    case.backup(&["-l", "full"]).succeeds();
    (case, references)
}

fn to(disk: &str, device: &Loop) -> String {
    format!("{disk}={}", device.path())
}

#[test]
fn devices_are_written_whole() {
    let lab = Lab::up();
    let (case, references) = make(&lab);
    let reference = std::fs::read(&references[0]).unwrap();
    for (size, status) in [(16 << 20, 0), (24 << 20, 0), ((16 << 20) - 512, 2)] {
        let device = Loop::filled(&lab.fresh_directory(), size, 0xff);
        let place = to("vda", &device);
        let untouched = |what: &str| assert!(device.content().iter().all(|byte| *byte == 0xff), "{what}");
        if status == 0 {
            restore(&case.set, &[&"-d", &"vda", &"--to-device", &place]).ends_with(1).says(&[
                "not empty",
                "hint: ",
                "--force",
            ]);
            untouched("a refused restore wrote");
        }
        let run = restore(&case.set, &[&"-d", &"vda", &"--to-device", &place, &"--force"]).ends_with(status);
        if status == 0 {
            let written = device.content();
            let (disk, rest) = written.split_at(16 << 20);
            assert!(disk == reference, "the device differs from the disk");
            assert!(rest.iter().all(|byte| *byte == 0xff), "written behind the disk's end");
        } else {
            run.says(&["16777216", "16776704"]);
            untouched("a refused restore wrote");
        }
    }
}

/// What the device is made of has no room for it.
#[test]
fn a_device_that_fails_is_told_to_be_incomplete() {
    let lab = Lab::up();
    let (case, _) = make(&lab);
    let small = lab.fresh_directory();
    run("mount", &[&"-t", &"tmpfs", &"-o", &"size=64K", &"tmpfs", &small]).succeeds();
    let file = small.join("file");
    std::fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
    let device = Loop::new(&file);
    let failed = restore(&case.set, &[&"-d", &"vda", &"--to-device", &to("vda", &device)]);
    drop(device);
    run("umount", &[&"-l", &small]).succeeds();
    failed.ends_with(1).says(&["is incomplete: do not use it"]);
}

/// Only the edges are looked at: there are the signatures.
#[test]
fn what_is_on_a_device_is_not_overwritten_unasked() {
    let lab = Lab::up();
    let (case, references) = make(&lab);
    let device = Loop::filled(&lab.fresh_directory(), 16 << 20, 0);
    let place = to("vda", &device);
    let onto = |force: &[&str]| {
        let mut options: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-d", &"vda", &"--to-device", &place];
        options.extend(force.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
        restore(&case.set, &options)
    };
    run("mkfs.ext4", &[&"-q", &"-F", &device.0]).succeeds();
    onto(&[]).ends_with(1).says(&[device.path(), "not empty", "--force"]);
    run("e2fsck", &[&"-fn", &device.0]).succeeds();
    // In use: --force is no help.
    let mounted = lab.fresh_directory();
    run("mount", &[&device.0, &mounted]).succeeds();
    let refused = onto(&["--force"]);
    run("umount", &[&mounted]).succeeds();
    refused.ends_with(1).says(&["in use", "hint: "]);
    run("e2fsck", &[&"-fn", &device.0]).succeeds();
    onto(&["--force"]).succeeds();
    compare(&device.0, "raw", &references[0]);
    // A fresh one is taken without.
    let device = Loop::filled(&lab.fresh_directory(), 16 << 20, 0);
    restore(&case.set, &[&"-d", &"vda", &"--to-device", &to("vda", &device)]).succeeds();
    compare(&device.0, "raw", &references[0]);
    // A table at its end alone.
    let file = lab.fresh_directory().join("end");
    let mut content = vec![0; 16 << 20];
    content[(16 << 20) - 512] = 1;
    std::fs::write(&file, content).unwrap();
    let device = Loop::new(&file);
    restore(&case.set, &[&"-d", &"vda", &"--to-device", &to("vda", &device)]).ends_with(1).says(&["not empty"]);
}

#[test]
fn devices_of_running_domains_are_refused() {
    let lab = Lab::up();
    let Mixed { case, _device: device } = Mixed::new(&lab);
    let reference = case.domain.snapshot_reference("vdc");
    case.backup(&["-l", "full", "-r"]).succeeds();
    case.domain.write("vdc", 0x99, 0, MIB);
    let (place, out) = (to("vdc", &device), lab.fresh_directory());
    let options: [&dyn AsRef<std::ffi::OsStr>; 5] = [&"-d", &"vdc", &"--to-device", &place, &"--force"];
    restore(&case.set, &options).ends_with(1).says(&["in use", "hint: "]);
    // By another name of it, too: QEMU's own node is not this one.
    let alias = lab.fresh_directory().join("alias");
    let numbers = run("stat", &[&"-c", &"%Hr %Lr", &device.0]).succeeds().stdout;
    let numbers: Vec<&str> = numbers.split_whitespace().collect();
    run("mknod", &[&alias, &"b", &numbers[0], &numbers[1]]).succeeds();
    let place_of_alias = format!("vdc={}", alias.display());
    restore(&case.set, &[&"-d", &"vdc", &"--to-device", &place_of_alias, &"--force"]).ends_with(1).says(&[
        "in use by process",
        "qemu",
        "hint: ",
    ]);
    assert!(device.content()[..1 << 20].iter().all(|byte| *byte == 0x99), "a refused restore wrote");
    // Off it is free: the whole domain goes back, this disk in place.
    case.domain.stop();
    restore(&case.set, &[&"-o", &out, &"-c", &"--to-device", &place, &"--force"]).succeeds();
    compare(&device.0, "raw", &reference);
    let xml = std::fs::read_to_string(out.join("vmconfig.xml")).unwrap();
    assert!(
        xml.contains(&format!("dev='{}'", device.path())) || xml.contains(&format!("dev=\"{}\"", device.path())),
        "{xml}"
    );
    assert_eq!(listing(&out), ["d-vda.qcow2", "odd.raw", "vmconfig.xml"]);
}

#[test]
fn several_disks_go_to_several_devices() {
    let lab = Lab::up();
    let (case, references) = make(&lab);
    let devices = [16 << 20, 2 << 20].map(|size| Loop::filled(&lab.fresh_directory(), size, 0));
    let (vda, vdb) = (to("vda", &devices[0]), to("vdb", &devices[1]));
    restore(&case.set, &[&"--to-device", &vda]).ends_with(2).says(&["no place is given for vdb", "hint: "]);
    let twice = to("vdb", &devices[0]);
    restore(&case.set, &[&"--to-device", &vda, &"--to-device", &twice]).ends_with(2).says(&["same place", "hint: "]);
    restore(&case.set, &[&"--to-device", &vda, &"--to-device", &vda]).ends_with(2).says(&["two places"]);
    restore(&case.set, &[&"-o", &lab.fresh_directory(), &"--to-device", &"vdz=/dev/null"]).ends_with(2).says(&["vdz"]);
    restore(&case.set, &[&"-d", &"vda", &"--to-device", &"vda=/dev/null"]).ends_with(2).says(&["no block device"]);
    restore(&case.set, &[&"-d", &"vda", &"--to-device", &"vda=/dev/vk-none"]).ends_with(1).says(&["/dev/vk-none"]);
    // The one way onto a device.
    restore(&case.set, &[&"-o", &devices[0].0, &"-t", &"raw", &"-d", &"vda", &"--force"])
        .ends_with(2)
        .says(&["block device", "hint: --to-device DISK="]);
    for option in ["-A", "-c", "-D", "--compress", "-t=qcow2"] {
        restore(&case.set, &[&"-d", &"vda", &"--to-device", &vda, &option]).ends_with(2).says(&["hint: "]);
    }
    assert!(devices.iter().all(|device| device.content().iter().all(|byte| *byte == 0)), "a refused restore wrote");
    restore(&case.set, &[&"--to-device", &vda, &"--to-device", &vdb]).succeeds();
    for (device, reference) in devices.iter().zip(&references) {
        compare(&device.0, "raw", reference);
    }
}
