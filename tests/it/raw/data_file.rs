//! qcow2 images whose data is in a file of its own.

use std::path::{Path, PathBuf};

use super::{flip, restore};
use crate::support::{Case, Lab, Loop, MIB, compare, listing, run};

/// A domain with such an image for each `raw` in its name: data_file_raw on and off.
fn make(lab: &Lab) -> Case<'_> {
    let directory = lab.fresh_directory();
    run("chmod", &[&"777", &directory]).succeeds();
    let mut disks = vec!["vda:4M".to_owned()];
    for (disk, raw) in [("vdb", "on"), ("vdc", "off")] {
        let (image, data) =
            (directory.join(format!("{disk}.qcow2")), directory.join(format!("{disk} data, raw {raw}")));
        let data_file = data.to_str().unwrap().replace(',', ",,");
        let options = format!("data_file_raw={raw},cluster_size=32768,data_file={data_file}");
        run("qemu-img", &[&"create", &"-q", &"-f", &"qcow2", &"-o", &options, &image, &"6M"]).succeeds();
        run("chmod", &[&"666", &image, &data]).succeeds();
        disks.push(format!("{disk}:1:path={}", image.display()));
    }
    let case = Case::new(lab, "d", &disks.iter().map(String::as_str).collect::<Vec<_>>());
    for disk in ["vdb", "vdc"] {
        case.domain.write(disk, 0x31, MIB + 512, MIB);
        case.domain.write(disk, 0x32, 6 * MIB - 1024, 1024);
    }
    case
}

fn data_file_of(image: &Path) -> (PathBuf, bool) {
    let info = run("qemu-img", &[&"info", &"--output=json", &"-f", &"qcow2", &image]).succeeds();
    let info: serde_json::Value = serde_json::from_str(&info.stdout).unwrap();
    let data = &info["format-specific"]["data"];
    (data["data-file"].as_str().unwrap_or_default().into(), data["data-file-raw"].as_bool().unwrap_or_default())
}

#[test]
fn data_files_come_back_beside_their_images() {
    let lab = Lab::up();
    let case = make(&lab);
    let disks = ["vdb", "vdc"];
    let mut points = vec![case.domain.snapshot_references(&disks)];
    case.backup(&["-l", "full"]).succeeds();
    for disk in disks {
        case.domain.write(disk, 0x41, 3 * MIB, 128 * 1024);
        case.domain.write_zeroes(disk, MIB + 512, 256 * 1024, true);
    }
    points.push(case.domain.snapshot_references(&disks));
    let inc = case.backup(&[]).succeeds();
    assert!(inc.stderr.contains("vdb: inc since") && inc.stderr.contains("vdc: inc since"), "{}", inc.stderr);
    case.no_traces();
    for (point, references) in points.iter().enumerate() {
        let (out, until) = (lab.fresh_directory().join("out"), format!("virtnbdbackup.{point}"));
        restore(&case.set, &[&"-o", &out, &"-u", &until]).succeeds();
        let names = ["d-vda.qcow2", "vdb data, raw on", "vdb.qcow2", "vdc data, raw off", "vdc.qcow2", "vmconfig.xml"];
        assert_eq!(listing(&out), names);
        for (disk, raw, reference) in [("vdb", true, &references[0]), ("vdc", false, &references[1])] {
            let image = out.join(format!("{disk}.qcow2"));
            compare(&image, "qcow2", reference);
            let (data, is_raw) = data_file_of(&image);
            assert_eq!((data.parent().unwrap(), is_raw), (out.as_path(), raw));
            run("qemu-img", &[&"check", &"-q", &"-f", &"qcow2", &image]).succeeds();
            if raw {
                compare(&data, "raw", reference);
            }
        }
    }
    // One file each, where that is asked for.
    let out = lab.fresh_directory().join("out");
    restore(&case.set, &[&"-o", &out, &"-t", &"qcow2"]).succeeds();
    assert_eq!(listing(&out), ["d-vda.qcow2", "vdb.qcow2", "vdc.qcow2", "vmconfig.xml"]);
    for (disk, reference) in disks.iter().zip(&points[1]) {
        compare(&out.join(format!("{disk}.qcow2")), "qcow2", reference);
    }
}

#[test]
fn data_files_go_where_they_are_told_to() {
    let lab = Lab::up();
    let case = make(&lab);
    let references = case.domain.snapshot_references(&["vdb", "vdc"]);
    case.backup(&["-l", "full"]).succeeds();
    let (elsewhere, out) = (lab.fresh_directory(), lab.fresh_directory().join("out"));
    let file = elsewhere.join("new, place");
    // What lies on a device shows where nothing is written.
    let device = Loop::filled(&elsewhere, 8 << 20, 0xee);
    let (vdb, vdc) = (format!("vdb={}", device.path()), format!("vdc={}", file.display()));
    let all = |force: &[&str]| {
        let mut options: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-o", &out, &"--relocate-data-file", &vdb];
        options.extend([&"--relocate-data-file" as &dyn AsRef<std::ffi::OsStr>, &vdc]);
        options.extend(force.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
        restore(&case.set, &options)
    };
    std::fs::write(&file, "mine").unwrap();
    all(&[]).ends_with(1).says(&["hint: ", "--force"]);
    assert!(device.content().iter().all(|byte| *byte == 0xee) && std::fs::read(&file).unwrap() == b"mine");
    all(&["--force"]).succeeds();
    assert_eq!(listing(&out), ["d-vda.qcow2", "vdb.qcow2", "vdc.qcow2", "vmconfig.xml"]);
    assert_eq!(data_file_of(&out.join("vdb.qcow2")), (device.0.clone(), true));
    assert_eq!(data_file_of(&out.join("vdc.qcow2")), (file.clone(), false));
    compare(&out.join("vdb.qcow2"), "qcow2", &references[0]);
    compare(&out.join("vdc.qcow2"), "qcow2", &references[1]);
    let content = device.content();
    assert!(
        content[..6 << 20] == std::fs::read(&references[0]).unwrap() && content[6 << 20..].iter().all(|b| *b == 0xee)
    );

    let place = format!("vda={}", elsewhere.join("x").display());
    let refused = lab.fresh_directory();
    for options in [
        &["--relocate-data-file", &place][..],
        &["--relocate-data-file", &vdc, "-t", "qcow2"],
        &["--compress"],
        &["--compress", "-d", "vdb"],
    ] {
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-o", &refused];
        all.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
        restore(&case.set, &all).ends_with(2).says(&["hint: "]);
        assert_eq!(listing(&refused), [""; 0], "a refused restore left something");
    }
}

#[test]
fn a_restored_image_with_a_data_file_boots_and_damage_leaves_none() {
    let lab = Lab::up();
    let case = make(&lab);
    let references = case.domain.snapshot_references(&["vdb", "vdc"]);
    case.backup(&["-l", "full"]).succeeds();
    let (uri, out) = (lab.uri(), lab.fresh_directory());
    run("chmod", &[&"777", &out]).succeeds();
    restore(&case.set, &[&"-o", &out, &"-U", &uri, &"-D", &"-N", &"again"]).succeeds();
    for name in listing(&out) {
        run("chmod", &[&"666", &out.join(name)]).succeeds();
    }
    lab.virsh(&[&"start", &"again", &"--paused"]);
    lab.virsh(&[&"destroy", &"again"]);
    compare(&out.join("vdb.qcow2"), "qcow2", &references[0]);
    compare(&out.join("vdc.qcow2"), "qcow2", &references[1]);

    let stream = case.set.join("vdb.full.data");
    flip(&stream, 2 << 20);
    let out = lab.fresh_directory();
    restore(&case.set, &[&"-o", &out]).ends_with(4).says(&["disk vdb"]);
    assert!(listing(&out).iter().all(|name| name.ends_with(".partial")), "{:?}", listing(&out));
}
