//! `virtnbdrestore`.

use std::path::Path;

use super::{back_up, restore};
use crate::support::{Case, Lab, MIB, compare, listing};

const TARGETS: [&str; 2] = ["vda", "vdb"];

/// A chain of a full and an inc, and what the disks held at its end.
fn chain<'lab>(lab: &'lab Lab) -> (Case<'lab>, Vec<std::path::PathBuf>) {
    let case = Case::new(lab, "d", &["vda:4M", "vdb:4M"]);
    case.domain.write("vda", 1, 0, MIB);
    back_up(&case, "full", &[]).succeeds();
    case.domain.write("vda", 2, MIB, MIB);
    case.domain.write("vdb", 3, MIB, MIB);
    back_up(&case, "inc", &[]).succeeds();
    let references = case.domain.snapshot_references(&TARGETS);
    (case, references)
}

fn xml(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_domain_comes_back_under_another_name() {
    let lab = Lab::up();
    let (case, references) = chain(&lab);
    let out = lab.fresh_directory().join("out");
    let run = restore(&lab, &[&"-cD", &"-i", &case.set, &"-o", &out]).succeeds();
    run.says(&[
        "Adjusted config placed in: [",
        "Change VM name from [d] to [restore_d]",
        "Successfully redefined domain",
    ]);
    assert_eq!(listing(&out), ["d-vda.qcow2", "d-vdb.qcow2", "vmconfig.xml"]);
    for (target, reference) in TARGETS.iter().zip(&references) {
        compare(&out.join(format!("d-{target}.qcow2")), "qcow2", reference);
    }
    assert_eq!(lab.virsh(&[&"domstate", &"restore_d"]).trim(), "shut off");
    // -D alone adjusts, too; -N names it.
    let other = lab.fresh_directory().join("out");
    restore(&lab, &[&"-D", &"-N", &"web", &"-C", &"web.xml", &"-i", &case.set, &"-o", &other]).succeeds();
    assert!(xml(&other.join("web.xml")).contains("<name>web</name>"));
    assert_eq!(lab.virsh(&[&"domstate", &"web"]).trim(), "shut off");
}

#[test]
fn a_name_alone_changes_nothing() {
    let lab = Lab::up();
    let (case, _) = chain(&lab);
    let out = lab.fresh_directory().join("out");
    let run = restore(&lab, &[&"-N", &"web", &"-i", &case.set, &"-o", &out]).succeeds();
    run.says(&["Copied original vm config to [", "virtual machine config must be adjusted manually"]);
    assert!(xml(&out.join("vmconfig.xml")).contains("<name>d</name>"));
}

/// One after another into the same directory: the XML is replaced, images never.
#[test]
fn disks_are_restored_one_by_one() {
    let lab = Lab::up();
    let (case, references) = chain(&lab);
    let out = lab.fresh_directory().join("out");
    for (target, reference) in TARGETS.iter().zip(&references) {
        restore(&lab, &[&"-c", &"-d", target, &"-i", &case.set, &"-o", &out]).succeeds();
        compare(&out.join(format!("d-{target}.qcow2")), "qcow2", reference);
    }
    // virtnbdrestore would leave the path of the original disk in it.
    assert!(!xml(&out.join("vmconfig.xml")).contains(case.domain.image("vda").to_str().unwrap()));
    restore(&lab, &[&"-i", &case.set, &"-o", &out]).ends_with(1).says(&["Target file already exists: ["]);
    restore(&lab, &[&"-d", &"vdz", &"-i", &case.set, &"-o", &out.join("x")])
        .ends_with(1)
        .says(&["Disk restore failed: ["]);
}

#[test]
fn points_and_sequences() {
    let lab = Lab::up();
    let (case, references) = chain(&lab);
    let out = |name: &str| lab.directory().join(name);
    restore(&lab, &[&"-i", &case.set, &"-o", &out("u"), &"-u", &"virtnbdbackup.1"])
        .succeeds()
        .says(&["Reached checkpoint [virtnbdbackup.1], stopping", "End of stream, [1.0MiB] of data processed"]);
    restore(&lab, &[&"-i", &case.set, &"-o", &out("v"), &"-u", &"virtnbdbackup.9"]).ends_with(1);
    let files = "vdb.full.data,vdb.inc.virtnbdbackup.1.data";
    restore(&lab, &[&"-cD", &"-i", &case.set, &"-o", &out("s"), &"-s", &files])
        .succeeds()
        .says(&["Using manual specified sequence of files.", "Disabling redefine and config adjust options."]);
    let image = listing(&out("s")).into_iter().find(|name| name.ends_with(".qcow2")).unwrap();
    compare(&out("s").join(image), "qcow2", &references[1]);
}

#[test]
fn dump_prints_the_heads() {
    let lab = Lab::up();
    let (case, _) = chain(&lab);
    for words in [&["-o", "dump"][..], &["-a", "dump", "-o", "/nowhere"]] {
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-i", &case.set];
        all.extend(words.iter().map(|word| word as &dyn AsRef<std::ffi::OsStr>));
        let run = restore(&lab, &all).succeeds().says(&["Dumping saveset meta information"]);
        let heads: Vec<serde_json::Value> = serde_json::from_str(&run.stdout).unwrap();
        let told = |head: &serde_json::Value| {
            let text = |key: &str| head[key].as_str().unwrap().to_owned();
            (text("diskName"), text("checkpointName"), text("parentCheckpoint"), head["incremental"].as_bool().unwrap())
        };
        let (zero, one) = ("virtnbdbackup.0".to_owned(), "virtnbdbackup.1".to_owned());
        let expected = [
            ("vda".to_owned(), zero.clone(), String::new(), false),
            ("vdb".to_owned(), zero.clone(), String::new(), false),
            ("vda".to_owned(), one.clone(), zero.clone(), true),
            ("vdb".to_owned(), one, zero, true),
        ];
        assert_eq!(heads.iter().map(told).collect::<Vec<_>>(), expected);
        assert!(
            run.stdout.starts_with("[\n    {\n        \"virtualSize\": 4194304,\n        \"dataSize\": "),
            "{}",
            run.stdout
        );
    }
}

#[test]
fn verify_tells_damage_and_what_is_unproven() {
    let lab = Lab::up();
    let (case, _) = chain(&lab);
    let verify = || restore(&lab, &[&"-i", &case.set, &"-o", &"verify"]);
    let run = verify().succeeds().says(&["Computing checksum for: ", "Comparing checksum with stored information"]);
    assert_eq!(run.stdout, "");
    assert_eq!(run.stderr.matches("[main]: OK\n").count(), 4, "{}", run.stderr);
    let path = case.set.join("vda.full.data");
    let mut data = std::fs::read(&path).unwrap();
    data[5000] ^= 1;
    std::fs::write(&path, data).unwrap();
    verify().ends_with(1).says(&["Stored sums do not match: ["]);
    // What virtnbdrestore 2.53 takes no notice of.
    let out = lab.fresh_directory().join("out");
    restore(&lab, &[&"-i", &case.set, &"-o", &out]).ends_with(1);
    assert!(!out.join("d-vda.qcow2").exists());
}

/// A sum that is missing proves nothing; virtnbdrestore says nothing of it in its status.
#[test]
fn a_missing_sum_does_not_pass() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 1, 0, MIB);
    let (uri, scratch, socket) = (lab.uri(), lab.scratch(), lab.directory().join("run/foreign.sock"));
    crate::support::run(
        "virtnbdbackup",
        &[&"-U", &uri, &"-n", &"-d", &"d", &"-l", &"full", &"--scratchdir", &scratch, &"-f", &socket, &"-o", &case.set],
    )
    .succeeds();
    let _ = std::fs::remove_file(case.set.join("vda.full.data.chksum"));
    restore(&lab, &[&"-i", &case.set, &"-o", &"verify"]).ends_with(1).says(&["no checksum"]);
}

/// virtnbdbackup's images of raw disks: restored with -r, else left out with a warning.
#[test]
fn raw_disks_are_restored_with_r() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M:raw"]);
    let (uri, scratch, socket) = (lab.uri(), lab.scratch(), lab.directory().join("run/foreign.sock"));
    let mut words: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-U", &uri, &"-n", &"-d", &"d", &"-l", &"copy", &"-r"];
    words.extend([&"--scratchdir" as &dyn AsRef<std::ffi::OsStr>, &scratch, &"-f", &socket, &"-o", &case.set]);
    case.domain.write("vdb", 7, MIB, MIB);
    case.domain.write("vda", 9, 0, MIB);
    let reference = case.domain.snapshot_reference("vda");
    let image = case.domain.image("vdb");
    let is_restored = |path: &Path| assert!(std::fs::read(path).unwrap() == std::fs::read(&image).unwrap(), "{path:?}");
    crate::support::run("virtnbdbackup", &words).succeeds();
    let out = |name: &str| lab.directory().join(name);
    let raw = out("raw").join(case.domain.image("vdb").file_name().unwrap());
    restore(&lab, &[&"-r", &"-i", &case.set, &"-o", &out("raw")]).succeeds();
    is_restored(&raw);
    compare(&out("raw").join(case.domain.image("vda").file_name().unwrap()), "qcow2", &reference);
    restore(&lab, &[&"-r", &"-d", &"vda", &"-i", &case.set, &"-o", &out("one")]).succeeds();
    restore(&lab, &[&"-i", &case.set, &"-o", &out("all")]).succeeds().says(&["Raw disk [vdb] is left out"]);
    assert!(!out("all").join(raw.file_name().unwrap()).exists());

    // Ours, restored by either.
    let set = lab.fresh_directory().join("ours");
    let words: [&dyn AsRef<std::ffi::OsStr>; 7] = [&"-d", &"d", &"-l", &"copy", &"-r", &"-o", &set];
    super::backup(&lab, &words).succeeds().says(&["Creating full provisioned raw backup image"]);
    restore(&lab, &[&"-r", &"-i", &set, &"-o", &out("ours")]).succeeds();
    is_restored(&out("ours").join(raw.file_name().unwrap()));
}

/// All disks as raw images: `-t raw`, whose sets virtnbdrestore itself can't read. No `-r` is needed for those that
/// are not raw themselves.
#[test]
fn raw_output_is_written_and_restored() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M:raw"]);
    case.domain.write("vda", 9, 0, MIB);
    case.domain.write("vdb", 7, MIB, MIB);
    let references = case.domain.snapshot_references(&["vda", "vdb"]);
    let full = back_up(&case, "full", &["-t", "raw", "-r"]).succeeds();
    full.says(&["Creating full provisioned raw backup image", "Finished successfully"]);
    assert!(std::fs::read(case.set.join("vda.full.data")).unwrap() == std::fs::read(&references[0]).unwrap());
    assert!(std::fs::read(case.set.join("vdb.copy.data")).unwrap() == std::fs::read(&references[1]).unwrap());
    assert!(!case.set.join("vda.full.data.chksum").exists());
    restore(&lab, &[&"-i", &case.set, &"-o", &"verify"]).succeeds();
    restore(&lab, &[&"-i", &case.set, &"-o", &"dump"]).succeeds();
    let out = lab.directory().join("raw output");
    restore(&lab, &[&"-i", &case.set, &"-o", &out]).succeeds().says(&["Raw disk [vdb] is left out"]);
    compare(&out.join("d-vda.qcow2"), "qcow2", &references[0]);
    for (level, options, words) in [
        ("inc", &["-t", "raw"][..], "Stream format raw does not support incremental or differential backup."),
        ("auto", &["-t", "raw"], "Stream format raw does not support incremental or differential backup."),
        ("copy", &["-t", "raw", "-z"], "Compression not supported with raw output."),
    ] {
        back_up(&case, level, options).ends_with(1).says(&[words]);
    }
    case.domain.write("vda", 5, 2 * MIB, MIB);
    back_up(&case, "inc", &[]).succeeds();
    let out = lab.directory().join("continued");
    restore(&lab, &[&"-i", &case.set, &"-d", &"vda", &"-o", &out]).succeeds();
    compare(&out.join("d-vda.qcow2"), "qcow2", &case.domain.snapshot_reference("vda"));
}

/// No unzip is needed first.
#[test]
fn zip_archives_are_read() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 1, 0, MIB);
    let reference = case.domain.snapshot_reference("vda");
    let directory = lab.fresh_directory();
    let command = format!(
        "cd {} && virtnbdbackup -U '{}' -n -d d -l copy --scratchdir {} -f {} -o - >full.zip",
        directory.display(),
        lab.uri(),
        lab.scratch().display(),
        lab.directory().join("run/foreign.sock").display()
    );
    crate::support::run("sh", &[&"-c", &command]).succeeds();
    let (zip, out) = (directory.join("full.zip"), lab.fresh_directory().join("out"));
    restore(&lab, &[&"-i", &zip, &"-o", &out]).succeeds();
    compare(&out.join("d-vda.qcow2"), "qcow2", &reference);
    restore(&lab, &[&"-i", &zip, &"--input-source", &"zip", &"-o", &"dump"]).succeeds();
}

#[test]
fn sources_that_it_can_not_read() {
    let lab = Lab::up();
    let out = lab.directory().join("out");
    restore(&lab, &[&"-i", &"/nowhere", &"-o", &out]).ends_with(1).says(&["Backup source [/nowhere] does not exist."]);
    let set = lab.fresh_directory();
    restore(&lab, &[&"-i", &set, &"-o", &out, &"--input-source", &"ftp"]).ends_with(1).says(&[
        "Can't open input source: [Unknown output target plugin [ftp], available plugins: directory, null, zip]",
    ]);
}
