//! `backup -r`, and what becomes of it.

use std::os::unix::fs::MetadataExt;

use super::{Mixed, flip, image_in, restore};
use crate::support::{Case, Lab, MIB, compare, listing, virtkeep};

const DISKS: [&str; 3] = ["vda", "vdb", "vdc"];

#[test]
fn raw_disks_are_in_a_full_and_left_out_of_increments() {
    let lab = Lab::up();
    let Mixed { case, _device } = Mixed::new(&lab);
    let references = case.domain.snapshot_references(&DISKS);
    // The device's real content is what the guest sees; the file is shorter than its disk.
    case.backup(&["-l", "full", "-r"]).succeeds().says(&["vdb: copy, as a raw image", "vdc: copy, as a raw image"]);
    case.no_traces();
    for (target, reference) in [("vdb", &references[1]), ("vdc", &references[2])] {
        let (image, reference) =
            (std::fs::read(image_in(&case.set, target)).unwrap(), std::fs::read(reference).unwrap());
        assert!(image == reference, "{target}: the image is not the disk");
        assert!(!case.set.join(format!("{target}.copy.data.chksum")).exists());
    }
    // 3 KiB of data: its blocks, not the disk.
    let allocated = image_in(&case.set, "vdb").metadata().unwrap().blocks() * 512;
    assert!(allocated <= 256 << 10, "{allocated}");
    let verify = virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds();
    assert!(verify.stdout.contains("every byte is proven"), "{}", verify.stdout);

    let check = |options: &[&dyn AsRef<std::ffi::OsStr>], status, disks: &[(&str, &str, usize)]| {
        let out = lab.fresh_directory().join("out");
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-o", &out];
        all.extend_from_slice(options);
        let run = restore(&case.set, &all).ends_with(status);
        for (name, format, reference) in disks {
            compare(&out.join(name), format, &references[*reference]);
        }
        assert_eq!(listing(&out).len(), disks.len() + 1, "{:?}", listing(&out));
        run
    };
    let device = format!("{}.raw", _device.0.file_name().unwrap().to_str().unwrap());
    let as_is = [("d-vda.qcow2", "qcow2", 0), ("odd.raw", "raw", 1), (device.as_str(), "raw", 2)];
    check(&[], 0, &as_is);
    check(&[&"-t", &"raw"], 0, &[("d-vda.raw", "raw", 0), ("odd.raw", "raw", 1), (&device, "raw", 2)]);
    let qcow2 = device.replace(".raw", "");
    check(&[&"-t", &"qcow2"], 0, &[("d-vda.qcow2", "qcow2", 0), ("odd.qcow2", "qcow2", 1), (&qcow2, "qcow2", 2)]);
    check(&[&"-t", &"qcow2", &"--compress", &"-d", &"vdb"], 0, &[("odd.qcow2", "qcow2", 1)]);

    // The increment: told, not an error, and not a warning of every night's run.
    case.domain.write("vdb", 0x77, 0, MIB);
    let estimate = case.backup(&["-r", "-p"]).succeeds().says(&["Excluding disk [vdb]: it is raw", "newest image"]);
    assert!(!estimate.stdout.contains("vdb") && estimate.stdout.contains("vda: "), "{}", estimate.stdout);
    let inc = case.backup(&["-r", "--strict"]).succeeds().says(&["Excluding disk [vdb]: it is raw", "newest image"]);
    assert!(!inc.stderr.contains("warning"), "{}", inc.stderr);
    assert!(!case.set.join("vdb.inc.virtnbdbackup.1.data").exists());
    case.no_traces();
    // Never mixed unasked.
    check(&[], 3, &as_is[..1]).says(&["warning: vdb: it is raw", "warning: vdc", "--older-raw", "-d vdb"]);
    check(&[&"-d", &"vda"], 0, &as_is[..1]);
    check(&[&"-d", &"vdb", &"-u", &"virtnbdbackup.0"], 0, &as_is[1..2]);
    check(&[&"--older-raw"], 0, &as_is).says(&["warning: vdb: it is raw, and is restored as of"]);
    let out = lab.fresh_directory();
    restore(&case.set, &[&"-o", &out, &"-d", &"vdb"]).ends_with(1).says(&["no disk \"vdb\"", "hint: ", "--older-raw"]);
    // In the XML too.
    let out = lab.fresh_directory();
    restore(&case.set, &[&"-o", &out, &"-c"]).ends_with(3).says(&["vdb is not part of this restore"]);
    let out = lab.fresh_directory();
    restore(&case.set, &[&"-o", &out, &"-c", &"--older-raw"]).succeeds();
    let xml = std::fs::read_to_string(out.join("vmconfig.xml")).unwrap();
    assert!(xml.contains(out.join("odd.raw").to_str().unwrap()), "{xml}");
    // What was a device is a file now.
    assert!(xml.contains(out.join(&device).to_str().unwrap()) && !xml.contains("type='block'"), "{xml}");

    let dump = virtkeep(&[&"dump", &"-i", &case.set]).succeeds();
    assert!(dump.stdout.contains("vda,vdb (raw),vdc (raw)"), "{}", dump.stdout);
    let dump = virtkeep(&[&"dump", &"-i", &case.set, &"--json"]).succeeds();
    let dump: serde_json::Value = serde_json::from_str(&dump.stdout).unwrap();
    let disks = dump["restore_points"][0]["disks"].as_array().unwrap();
    assert_eq!(disks.iter().map(|disk| disk["raw"].as_bool().unwrap()).collect::<Vec<_>>(), [false, true, true]);
}

#[test]
fn without_the_option_raw_disks_are_left_out_as_ever() {
    let lab = Lab::up();
    let Mixed { case, _device } = Mixed::new(&lab);
    case.backup(&["-l", "full"]).ends_with(3).says(&["Excluding disk [vdb]: it is raw", "-r", "-x vdb"]);
    // An increment with it: there is nothing of that disk in the set, which is told.
    case.backup(&["-r"]).ends_with(3).says(&["warning: Excluding disk [vdb]", "no run of the set has it"]);
    case.backup(&["-r", "-x", "vdb,vdc"]).succeeds();
    case.no_traces();
}

#[test]
fn domains_of_raw_disks_alone_are_copied() {
    let lab = Lab::up();
    let empty = lab.fresh_directory().join("empty.raw");
    std::fs::write(&empty, b"").unwrap();
    crate::support::run("chmod", &[&"777", &empty.parent().unwrap(), &empty]).succeeds();
    let none = format!("vdb:1:raw,path={}", empty.display());
    let case = Case::new(&lab, "d", &["vda:3M:raw", &none]);
    case.backup(&["-r"]).ends_with(1).says(&["raw disks alone", "hint: ", "-l copy"]);
    case.backup(&["-l", "copy"]).ends_with(1).says(&["no disk to back up"]);
    // All zeroes, and nothing at all.
    case.backup(&["-l", "copy", "-r", "-z"]).succeeds();
    case.no_traces();
    assert_eq!(image_in(&case.set, "vda").metadata().unwrap().blocks(), 0);
    assert_eq!(image_in(&case.set, "vda").metadata().unwrap().len(), 3 * MIB);
    assert_eq!(image_in(&case.set, "vdb").metadata().unwrap().len(), 0);
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds();
    let out = lab.fresh_directory().join("out");
    restore(&case.set, &[&"-o", &out]).succeeds();
    assert!(std::fs::read(out.join("d-vda.raw")).unwrap() == vec![0; 3 << 20]);
    assert_eq!(out.join("empty.raw").metadata().unwrap().len(), 0);
}

#[test]
fn damage_of_an_image_is_found() {
    let lab = Lab::up();
    let Mixed { case, _device } = Mixed::new(&lab);
    let reference = case.domain.snapshot_reference("vdc");
    case.backup(&["-l", "full", "-r"]).succeeds();
    let image = image_in(&case.set, "vdc");
    let index = case.set.join("vdc.copy.data.index");
    let verify = |status| virtkeep(&[&"verify", &"-n", &"-i", &case.set]).ends_with(status);
    let try_restore = |status| {
        let out = lab.fresh_directory();
        let run = restore(&case.set, &[&"-o", &out, &"-d", &"vdc", &"-t", &"raw"]).ends_with(status);
        assert!(status == 0 || listing(&out).iter().all(|name| name.ends_with(".partial")), "{:?}", listing(&out));
        run
    };
    // Data.
    flip(&image, 4 << 20);
    verify(4).says(&["disk vdc", "vdc.copy.data", "4194304"]);
    try_restore(4).says(&["disk vdc"]);
    flip(&image, 4 << 20);
    verify(0);
    // What should read as zero: a restore does not use it.
    let hole = (2 << 20) + (512 << 10);
    flip(&image, hole);
    verify(4).says(&["disk vdc", "should read as zeroes"]);
    try_restore(0);
    flip(&image, hole);
    // The index.
    flip(&index, 140);
    verify(4).says(&["disk vdc", "index"]);
    try_restore(4).says(&["disk vdc"]);
    flip(&index, 140);
    let hidden = lab.fresh_directory().join("index");
    std::fs::rename(&index, &hidden).unwrap();
    verify(4).says(&["disk vdc", "vdc.copy.data.index", "missing"]);
    try_restore(4).says(&["vdc.copy.data.index"]);
    assert!(virtkeep(&[&"dump", &"-i", &case.set]).ends_with(4).stdout.contains("MISSING FILES"));
    std::fs::rename(&hidden, &index).unwrap();
    // An end that is missing.
    let content = std::fs::read(&image).unwrap();
    std::fs::write(&image, &content[..content.len() - 1]).unwrap();
    verify(4).says(&["disk vdc"]);
    try_restore(4);
    virtkeep(&[&"dump", &"-i", &case.set]).ends_with(4);
    std::fs::write(&image, &content).unwrap();
    verify(0);
    let out = lab.fresh_directory().join("x.raw");
    restore(&case.set, &[&"-o", &out, &"-d", &"vdc", &"-t", &"raw"]).succeeds();
    compare(&out, "raw", &reference);
    // Without its manifest it is nobody's: never taken for an image of the other tool.
    for name in listing(&case.set).iter().filter(|name| name.starts_with("manifest.")) {
        std::fs::remove_file(case.set.join(name)).unwrap();
    }
    verify(4).says(&["vdc.copy.data", "manifest"]);
    assert!(!virtkeep(&[&"dump", &"-i", &case.set]).ends_with(4).stdout.contains("vdc"));
}
