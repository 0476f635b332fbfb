//! `-t raw`: raw images of disks that are none.

use std::os::unix::fs::MetadataExt;

use super::interop::foreign;
use super::{flip, restore};
use crate::support::{Case, Lab, MIB, compare, listing, run, virtkeep};

/// An odd size: the last block of an image is not a whole one.
const DISKS: [&str; 3] = ["vda:8M", "vdb:5243392", "vdc:1M:raw"];
const TARGETS: [&str; 2] = ["vda", "vdb"];

fn make(lab: &Lab) -> Case<'_> {
    let case = Case::new(lab, "d", &DISKS);
    case.domain.write("vda", 0xa1, MIB, MIB);
    case.domain.write("vdb", 0xb1, 5 * MIB - 512, 1024);
    case.domain.write("vdc", 0xc1, 512, 512);
    case
}

#[test]
fn a_chain_begins_with_raw_images() {
    let lab = Lab::up();
    let case = make(&lab);
    let references = case.domain.snapshot_references(&["vda", "vdb", "vdc"]);
    let full = case.backup(&["-l", "full", "-t", "raw", "-r"]).succeeds();
    full.says(&["vda: full, as a raw image", "vdb: full, as a raw image", "vdc: copy, as a raw image"]);
    case.no_traces();
    for (name, reference) in ["vda.full.data", "vdb.full.data", "vdc.copy.data"].iter().zip(&references) {
        let (image, disk) = (std::fs::read(case.set.join(name)).unwrap(), std::fs::read(reference).unwrap());
        assert!(image == disk, "{name} is not the disk");
        assert!(case.set.join(format!("{name}.index")).exists() && !case.set.join(format!("{name}.chksum")).exists());
    }
    assert!(case.set.join("vda.full.data").metadata().unwrap().blocks() * 512 < 2 * MIB);
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds();

    // Increments are streams, and build on the images.
    case.domain.write("vda", 0xa2, 3 * MIB, MIB);
    case.domain.write_zeroes("vda", MIB, 64 << 10, false);
    case.backup(&["-t", "raw", "-r"]).ends_with(2).says(&[
        "Stream format raw does not support incremental or differential backup",
        "hint: ",
        "leave `-t raw` away",
    ]);
    case.backup(&["-z", "-r"]).succeeds().says(&["vda: inc since virtnbdbackup.0", "vdb: inc since virtnbdbackup.0"]);
    let newest = case.domain.snapshot_references(&TARGETS);
    let out = lab.fresh_directory().join("out");
    restore(&case.set, &[&"-o", &out]).ends_with(3).says(&["vdc: it is raw and not part of"]);
    assert_eq!(listing(&out), ["d-vda.qcow2", "d-vdb.qcow2", "vmconfig.xml"]);
    for (target, reference) in TARGETS.iter().zip(&newest) {
        compare(&out.join(format!("d-{target}.qcow2")), "qcow2", reference);
    }
    let out = lab.fresh_directory().join("out");
    restore(&case.set, &[&"-o", &out, &"-u", &"virtnbdbackup.0"]).succeeds();
    for (name, reference) in ["d-vda.qcow2", "d-vdb.qcow2", "d-vdc.raw"].iter().zip(&references) {
        compare(&out.join(name), name.rsplit_once('.').unwrap().1, reference);
    }
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds();
    let dump = virtkeep(&[&"dump", &"-i", &case.set]).succeeds();
    assert!(dump.stdout.contains("vda (raw),vdb (raw),vdc (raw)"), "{}", dump.stdout);
    let copied = lab.fresh_directory().join("vda.raw");
    let command = format!("nbdcopy \"$uri\" {}", copied.display());
    virtkeep(&[&"map", &"-i", &case.set, &"-d", &"vda", &"-e", &command]).succeeds();
    compare(&copied, "raw", &newest[0]);

    // Streams named one by one: an image is known by its index.
    for (sequence, status, words) in [
        ("vda.full.data,vda.inc.virtnbdbackup.1.data", 0, "a sequence of 2 streams"),
        ("vdb.full.data,vda.inc.virtnbdbackup.1.data", 2, "nothing proves that it continues"),
        ("vdc.copy.data", 0, "a sequence of 1 stream"),
    ] {
        let out = lab.fresh_directory().join("out.raw");
        restore(&case.set, &[&"-s", &sequence, &"-t", &"raw", &"-o", &out]).ends_with(status).says(&[words]);
        if status == 0 {
            compare(&out, "raw", if sequence.starts_with("vda") { &newest[0] } else { &references[2] });
        }
    }

    // The doctor expects their bitmaps, and none of the raw disk.
    virtkeep(&[&"doctor", &"-U", &lab.uri(), &"-d", &"d", &"-o", &case.set, &"--scratchdir", &lab.scratch()])
        .succeeds();
    // Damage below an increment is found.
    flip(&case.set.join("vda.full.data"), (MIB + 600_000) as usize);
    virtkeep(&[&"verify", &"-n", &"-i", &case.set]).ends_with(4).says(&["disk vda", "vda.full.data"]);
    restore(&case.set, &[&"-o", &lab.fresh_directory(), &"-d", &"vda"]).ends_with(4);
}

#[test]
fn what_makes_no_sense_with_it_is_refused() {
    let lab = Lab::up();
    let case = make(&lab);
    case.backup(&["-l", "copy", "-t", "raw", "-z"]).ends_with(2).says(&["Compression not supported", "leave -z away"]);
    case.backup(&["-l", "diff", "-t", "raw"]).ends_with(2).says(&["Stream format raw does not support incremental"]);
    assert!(!case.set.exists());
}

/// A domain that is off, and its raw disk, which nothing but its own domain's lock protects.
#[test]
fn a_stopped_domain_is_read_from_its_images() {
    let lab = Lab::up();
    let case = make(&lab);
    let references = case.domain.snapshot_references(&["vda", "vdb", "vdc"]);
    case.domain.stop();
    for (level, options) in [("copy", &["-r"][..]), ("full", &["-r", "-t", "raw"])] {
        let set = lab.fresh_directory().join(level);
        case.backup_to(&set, &[&["-l", level], options].concat()).succeeds().says(&["vdc: copy, as a raw image"]);
        virtkeep(&[&"verify", &"-n", &"-i", &set]).succeeds();
        let out = lab.fresh_directory().join("out");
        restore(&set, &[&"-o", &out]).succeeds();
        for (name, reference) in ["d-vda.qcow2", "d-vdb.qcow2", "d-vdc.raw"].iter().zip(&references) {
            compare(&out.join(name), name.rsplit_once('.').unwrap().1, reference);
        }
    }
    // The full is a link of the chain, which goes on when the domain runs.
    case.domain.start();
    case.domain.write("vda", 0xa3, 0, MIB);
    let set = lab.directory().join("chain");
    case.domain.stop();
    case.backup_to(&set, &["-l", "full", "-r", "-t", "raw"]).succeeds();
    case.domain.start();
    case.domain.write("vda", 0xa4, 2 * MIB, MIB);
    let reference = case.domain.snapshot_reference("vda");
    case.backup_to(&set, &["-r"]).succeeds().says(&["vda: inc since virtnbdbackup.0"]);
    let out = lab.fresh_directory();
    restore(&set, &[&"-o", &out, &"-d", &"vda"]).succeeds();
    compare(&out.join("d-vda.qcow2"), "qcow2", &reference);
}

/// On standard output a raw image is a member of the zip file, with its index.
#[test]
fn images_go_to_standard_output() {
    let lab = Lab::up();
    let case = make(&lab);
    let references = case.domain.snapshot_references(&["vda", "vdb", "vdc"]);
    let work = lab.fresh_directory();
    let zip = work.join("x.zip");
    let records = work.join("records");
    for (level, kind) in [("full", "raw"), ("copy", "stream")] {
        // What libnbd says of itself is no data.
        let script = "export LIBNBD_DEBUG=1; zip=$1; shift; exec \"$@\" >\"$zip\"";
        let arguments = case.arguments(
            std::path::Path::new("-"),
            &["-l", level, "-r", "-t", kind, "--state-dir", records.to_str().unwrap()],
        );
        let program = crate::support::program();
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-c", &script, &"sh", &zip, &program];
        all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<std::ffi::OsStr>));
        run("sh", &all).succeeds().says(&["libnbd: debug: "]);
        run("unzip", &[&"-tq", &zip]).succeeds();
        let verify = virtkeep(&[&"verify", &"-n", &"-i", &zip]).succeeds();
        assert!(verify.stdout.contains("every byte is proven"), "{}", verify.stdout);
        let out = lab.fresh_directory().join("out");
        restore(&zip, &[&"-o", &out]).succeeds();
        for (name, reference) in ["d-vda.qcow2", "d-vdb.qcow2", "d-vdc.raw"].iter().zip(&references) {
            compare(&out.join(name), name.rsplit_once('.').unwrap().1, reference);
        }
    }
    let mapped = work.join("mapped.raw");
    let command = format!("nbdcopy \"$uri\" {}", mapped.display());
    virtkeep(&[&"map", &"-i", &zip, &"-d", &"vdc", &"-e", &command]).succeeds();
    compare(&mapped, "raw", &references[2]);
    // As it is, by anybody's unzip.
    run("unzip", &[&"-q", &zip, &"vdc.copy.data", &"-d", &work]).succeeds();
    assert!(std::fs::read(work.join("vdc.copy.data")).unwrap() == std::fs::read(&references[2]).unwrap());
}

/// virtnbdbackup's own restore can't read them; increments on top can be there all the same.
#[test]
fn foreign_fulls_of_raw_images_are_restored() {
    let lab = Lab::up();
    // Sizes with which virtnbdbackup's own copy of a disk is whole.
    let case = Case::new(&lab, "d", &["vda:8M", "vdb:3212288:raw"]);
    case.domain.write("vda", 0xa1, MIB, MIB);
    case.domain.write("vdb", 0xb1, MIB, MIB);
    let references = case.domain.snapshot_references(&["vda", "vdb"]);
    foreign(&case, "full", &["--raw", "-t", "raw"]);
    restore(&case.set, &[&"-s", &"vda.full.data", &"-o", &lab.fresh_directory()])
        .ends_with(4)
        .says(&["not a frame header", "hint: if it is a raw image of virtnbdbackup, restore the set instead"]);
    let check = |options: &[&dyn AsRef<std::ffi::OsStr>], disks: &[(&str, &std::path::Path)]| {
        let out = lab.fresh_directory().join("out");
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-o", &out];
        all.extend(options);
        restore(&case.set, &all).succeeds();
        for (name, reference) in disks {
            compare(&out.join(name), name.rsplit_once('.').unwrap().1, reference);
        }
    };
    check(&[], &[("d-vda.qcow2", &references[0]), ("d-vdb.raw", &references[1])]);
    let verify = virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds();
    verify.says(&["vda.full.data: a raw image without a checksum"]);
    // Its chain goes on with ours.
    case.domain.write("vda", 0xa2, 4 * MIB, MIB);
    let reference = case.domain.snapshot_reference("vda");
    case.backup(&["-r"]).succeeds().says(&["vda: inc since virtnbdbackup.0"]);
    check(&[&"-d", &"vda"], &[("d-vda.qcow2", &reference)]);
    check(&[&"-u", &"virtnbdbackup.0"], &[("d-vda.qcow2", &references[0]), ("d-vdb.raw", &references[1])]);
}
