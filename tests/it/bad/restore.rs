//! Where a restore goes: places that hold something already, devices, formats, a new domain.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::{Case, KIB, Lab, MIB, Run, compare, listing, run, virtkeep};

/// A full with holes and an increment with zeroes, of one disk of 16 MiB.
fn make(lab: &Lab) -> (Case<'_>, PathBuf) {
    let case = Case::new(lab, "d", &["vda:16777216"]);
    case.domain.write("vda", 0xaa, 0, 2 * MIB);
    case.domain.write("vda", 0xab, 9 * MIB + 512, 64 * KIB);
    case.backup(&[]).succeeds();
    case.domain.write_zeroes("vda", 128 * KIB, 512 * KIB, true);
    case.domain.write("vda", 0xac, 15 * MIB, MIB);
    case.backup(&["-z"]).succeeds();
    let reference = case.domain.snapshot_reference("vda");
    (case, reference)
}

#[track_caller]
fn restore(set: &Path, out: &Path, options: &[&str]) -> Run {
    let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"restore", &"-n", &"-i", &set, &"-o", &out];
    arguments.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
    virtkeep(&arguments)
}

fn allocated(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

#[test]
fn what_exists_is_overwritten_only_by_force() {
    let lab = Lab::up();
    let (case, reference) = make(&lab);
    for (name, options) in [("d-vda.qcow2", &[][..]), ("d-vda.raw", &["--format=raw"])] {
        let out = lab.fresh_directory();
        let image = out.join(name);
        let format = if options.is_empty() { "qcow2" } else { "raw" };
        std::fs::write(&image, vec![0xff; 20 << 20]).unwrap();
        restore(&case.set, &out, options).ends_with(1).says(&[name, "exists", "hint: ", "--force"]);
        assert_eq!(listing(&out), [name], "a refused restore left something");
        assert!(std::fs::read(&image).unwrap().iter().all(|byte| *byte == 0xff), "a refused restore wrote");
        restore(&case.set, &out, &[options, &["--force"]].concat()).succeeds();
        compare(&image, format, &reference);
        assert_eq!(listing(&out), [name, "vmconfig.xml"]);
        // And again: the XML is there as well.
        restore(&case.set, &out, &[options, &["--force"]].concat()).succeeds();
        compare(&image, format, &reference);
    }
    // Only the XML is in the way: said before, not after the disks.
    let out = lab.fresh_directory();
    std::fs::write(out.join("vmconfig.xml"), "mine").unwrap();
    restore(&case.set, &out, &[]).ends_with(1).says(&["vmconfig.xml", "hint: ", "--force"]);
    assert_eq!(listing(&out), ["vmconfig.xml"], "a refused restore left something");

    let file = lab.fresh_directory().join("file");
    std::fs::write(&file, "mine").unwrap();
    restore(&case.set, &file, &[]).ends_with(1).says(&["file", "hint: "]);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

#[test]
fn formats_are_thin_full_or_small() {
    let lab = Lab::up();
    let (case, reference) = make(&lab);
    let restored = |name: &str, options: &[&str]| {
        let out = lab.fresh_directory();
        restore(&case.set, &out, options).succeeds();
        let image = out.join(name);
        compare(&image, if name.ends_with(".raw") { "raw" } else { "qcow2" }, &reference);
        allocated(&image)
    };
    // 2.6 MiB hold data.
    let thin = restored("d-vda.qcow2", &[]);
    assert!(thin < 4 * MIB, "{thin}");
    let raw = restored("d-vda.raw", &["--format=raw"]);
    assert!(raw < 4 * MIB, "{raw}");
    let small = restored("d-vda.qcow2", &["--compress"]);
    assert!(small < MIB, "{small}");
    let full = restored("d-vda.qcow2", &["-A"]);
    assert!(full >= 16 * MIB, "{full}");
    let full = restored("d-vda.raw", &["-A", "--format=raw"]);
    assert!(full >= 16 * MIB, "{full}");

    let out = lab.fresh_directory();
    let full = case.set.join("vda.full.data");
    let inc = case.set.join("vda.inc.virtnbdbackup.1.data");
    let sequence = |streams: &[&Path]| {
        let list: Vec<&str> = streams.iter().map(|path| path.to_str().unwrap()).collect();
        virtkeep(&[&"restore", &"-n", &"-o", &out, &"-s", &list.join(",")])
    };
    sequence(&[&inc]).ends_with(4).says(&["does not begin with a full"]);
    sequence(&[&inc, &full]).ends_with(2).says(&["does not continue", "hint: "]);
    sequence(&[&full, &full]).ends_with(2).says(&["does not continue", "hint: "]);
    sequence(&[&full, Path::new("/nowhere")]).ends_with(1).says(&["/nowhere"]);
    assert_eq!(listing(&out), [""; 0]);
    sequence(&[&full, &inc]).succeeds();
    compare(&out.join("vda.qcow2"), "qcow2", &reference);
}

#[test]
fn a_restored_domain_starts() {
    let lab = Lab::up();
    let (case, reference) = make(&lab);
    let out = lab.fresh_directory();
    run("chmod", &[&"755", &out]).succeeds();
    let uri = lab.uri();
    let define = ["-U", &uri, "-D", "-N", "d again"];
    restore(&case.set, &out, &define).succeeds().says(&["d again"]);
    run("chmod", &[&"666", &out.join("d-vda.qcow2")]).succeeds();
    lab.virsh(&[&"start", &"d again", &"--paused"]);
    lab.virsh(&[&"destroy", &"d again"]);
    compare(&out.join("d-vda.qcow2"), "qcow2", &reference);
    let xml = lab.virsh(&[&"dumpxml", &"d again"]);
    assert!(xml.contains(out.join("d-vda.qcow2").to_str().unwrap()), "{xml}");
    assert!(!xml.contains(lab.virsh(&[&"domuuid", &"d"]).trim()), "{xml}");

    // A name that is taken: the images stay, and the message says how to go on.
    let taken = lab.fresh_directory();
    restore(&case.set, &taken, &["-U", &uri, "-D", "-N", "d again"])
        .ends_with(1)
        .says(&["d again", "hint: ", "--name"]);
    let config = lab.fresh_directory();
    restore(&case.set, &config, &["-c"]).succeeds();
    let xml = std::fs::read_to_string(config.join("vmconfig.xml")).unwrap();
    assert!(xml.contains(config.join("d-vda.qcow2").to_str().unwrap()), "{xml}");
}
