//! Restores side by side with what is there: files, running domains, other disks, the other tool's
//! sets.

mod failed;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use virtkeep::stream::frame::{Header, Kind};

use crate::support::{Case, Lab, Run, TestDomain, compare, program, run, virtkeep};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Two disks, one with a size of odd sectors, and their full backup.
fn make(lab: &Lab) -> (TestDomain<'_>, PathBuf) {
    let domain = lab.domain("d", &["vda:17826304", "vdb:2M"]);
    domain.write("vda", 0xaa, 0, 5 * MIB);
    domain.write("vda", 0xab, 17 * MIB, 512);
    domain.write("vdb", 0xba, 512 * KIB, MIB);
    let set = lab.fresh_directory().join("set");
    lab.back_up(domain.name(), &set, &["-l", "full"]).succeeds();
    (domain, set)
}

#[track_caller]
fn restore(set: &Path, out: &Path, options: &[&str]) -> Run {
    let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"restore", &"-n", &"-i", &set, &"-o", &out];
    arguments.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
    virtkeep(&arguments)
}

/// The sorted names in a directory.
fn listing(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn disks_of_any_size_are_compressed() {
    let lab = Lab::up();
    let (domain, set) = make(&lab);
    let out = lab.fresh_directory();
    // What a killed restore may have left.
    fs::write(out.join("plain.d-vda.qcow2.partial"), "old").unwrap();
    restore(&set, &out, &["--compress"]).succeeds();
    assert_eq!(listing(&out), ["d-vda.qcow2", "d-vdb.qcow2", "vmconfig.xml"]);
    for disk in ["vda", "vdb"] {
        let image = out.join(format!("d-{disk}.qcow2"));
        compare(&image, "qcow2", &domain.snapshot_reference(disk));
        let size = image.metadata().unwrap().len();
        assert!(size < MIB, "{disk} takes {size} bytes");
    }
}

/// As images are that libvirt makes: the guest's secrets are in them.
#[test]
fn images_are_for_their_owner_alone() {
    let lab = Lab::up();
    let (_domain, set) = make(&lab);
    for options in [&[][..], &["-t", "raw"], &["--compress"], &["--preallocate"]] {
        let out = lab.fresh_directory();
        restore(&set, &out, options).succeeds();
        for file in listing(&out) {
            let mode = out.join(&file).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{options:?}: {file}");
        }
    }
}

/// On a rescue system there is only what was brought along.
#[test]
fn images_are_restored_without_qemu_s_tools() {
    let lab = Lab::up();
    let (domain, set) = make(&lab);
    let out = lab.fresh_directory();
    run("env", &[&"PATH=/nowhere", &program(), &"restore", &"-n", &"-i", &set, &"-o", &out]).succeeds();
    for disk in ["vda", "vdb"] {
        compare(&out.join(format!("d-{disk}.qcow2")), "qcow2", &domain.snapshot_reference(disk));
    }
}

#[test]
fn one_raw_disk_goes_into_a_file() {
    let lab = Lab::up();
    let (domain, set) = make(&lab);
    let out = lab.fresh_directory();
    let file = out.join("new disk.img");
    restore(&set, &file, &["--format=raw"]).ends_with(2).says(&["new disk.img", "hint: ", "-d"]);
    for option in ["-c", "-D"] {
        restore(&set, &file, &["--format=raw", "-d", "vda", option]).ends_with(2).says(&["hint: ", "-o"]);
    }
    restore(&set, &file, &["--format=raw", "-d", "vda", "-N", "other"]).ends_with(2).says(&["hint: ", "-o"]);
    assert_eq!(listing(&out), [""; 0], "a refused restore left something");
    restore(&set, &file, &["--format=raw", "-d", "vda"]).succeeds();
    assert_eq!(listing(&out), ["new disk.img"]);
    compare(&file, "raw", &domain.snapshot_reference("vda"));

    // Any name will do where the file exists; only by force.
    let file = out.join("kept");
    fs::write(&file, vec![0xff; 20 << 20]).unwrap();
    restore(&set, &file, &["--format=raw", "-d", "vdb"]).ends_with(1).says(&["exists", "hint: ", "--force"]);
    assert!(fs::read(&file).unwrap().iter().all(|byte| *byte == 0xff), "a refused restore wrote");
    restore(&set, &file, &["--format=raw", "-d", "vdb", "--force"]).succeeds();
    compare(&file, "raw", &domain.snapshot_reference("vdb"));
    assert_eq!(listing(&out), ["kept", "new disk.img"]);
}

#[test]
fn images_in_use_are_not_overwritten() {
    let lab = Lab::up();
    let (domain, set) = make(&lab);
    domain.write("vdb", 0x77, 0, MIB);
    let (reference, image) = (domain.snapshot_reference("vdb"), domain.image("vdb"));
    let images = image.parent().unwrap();
    let before = listing(images);
    for options in [&["--force"][..], &["--force", "-d", "vdb"]] {
        restore(&set, images, options).ends_with(1).says(&["in use", "hint: "]);
    }
    restore(&set, &image, &["--format=raw", "--force", "-d", "vdb"]).ends_with(1).says(&["in use"]);
    assert_eq!(listing(images), before, "a refused restore left something");
    domain.stop();
    compare(&image, "qcow2", &reference);
    restore(&set, images, &["--force"]).succeeds();
}

#[test]
fn existing_domains_are_redefined_by_force_and_never_while_they_run() {
    let lab = Lab::up();
    let (domain, set) = make(&lab);
    let (uri, out) = (lab.uri(), lab.fresh_directory());
    for options in [&["-D", "-U", &uri][..], &["-D", "-U", &uri, "--force"]] {
        restore(&set, &out, options).ends_with(1).says(&["domain d", "is running", "hint: ", "-N"]);
    }
    domain.stop();
    restore(&set, &out, &["-D", "-U", &uri]).ends_with(1).says(&["domain d", "exists", "hint: ", "--force"]);
    restore(&set, &out, &["-D", "-U", &uri, "-N", "d"]).ends_with(1).says(&["domain d", "exists", "--name"]);
    restore(&set, &out, &["-D", "-U", "no:///uri"]).ends_with(1).says(&["no:///uri"]);
    assert_eq!(listing(&out), [""; 0], "a refused restore left something");

    restore(&set, &out, &["-D", "-U", &uri, "--force"]).succeeds();
    let xml = lab.virsh(&[&"dumpxml", &"d"]);
    assert!(xml.contains(out.join("d-vda.qcow2").to_str().unwrap()), "{xml}");

    // Another domain of that name, and that domain under another name.
    lab.virsh(&[&"undefine", &"d", &"--checkpoints-metadata"]);
    let other = lab.fresh_directory().join("other.xml");
    let uuid = xml.split(['>', '<']).skip_while(|word| *word != "uuid").nth(1).unwrap();
    fs::write(&other, xml.replace(uuid, "6f1e8b1e-5f3a-4c7e-9d0a-111111111111")).unwrap();
    lab.virsh(&[&"define", &other]);
    let last = lab.fresh_directory();
    restore(&set, &last, &["-D", "-U", &uri, "--force"]).ends_with(1).says(&["another one", "-N"]);
    lab.virsh(&[&"undefine", &"d"]);
    fs::write(&other, xml.replace("<name>d</name>", "<name>renamed</name>")).unwrap();
    lab.virsh(&[&"define", &other]);
    restore(&set, &last, &["-D", "-U", &uri, "--force"]).ends_with(1).says(&["domain renamed", "-N"]);
    assert_eq!(listing(&last), [""; 0], "a refused restore left something");
}

#[test]
fn a_second_disk_may_follow_the_first() {
    let lab = Lab::up();
    let (domain, set) = make(&lab);
    let out = lab.fresh_directory();
    restore(&set, &out, &["-d", "vda"]).succeeds();
    restore(&set, &out, &["-d", "vdb"]).succeeds();
    for disk in ["vda", "vdb"] {
        compare(&out.join(format!("d-{disk}.qcow2")), "qcow2", &domain.snapshot_reference(disk));
    }
    assert_eq!(listing(&out), ["d-vda.qcow2", "d-vdb.qcow2", "vmconfig.xml"]);
    // The XML of one disk is not that of the other.
    let out = lab.fresh_directory();
    restore(&set, &out, &["-d", "vda", "-c"]).succeeds();
    restore(&set, &out, &["-d", "vdb", "-c"]).ends_with(1).says(&["vmconfig.xml", "hint: ", "--force"]);
    assert_eq!(listing(&out), ["d-vda.qcow2", "vmconfig.xml"]);
}

/// `base_run` of a manifest tells chains apart whose checkpoints have the same names.
#[test]
fn sequences_are_proven_by_the_manifests_beside_them() {
    let lab = Lab::up();
    let (domain, first) = make(&lab);
    domain.write("vda", 0x71, MIB, MIB);
    lab.back_up(domain.name(), &first, &["-l", "inc"]).succeeds();
    let reference = domain.snapshot_reference("vda");
    let second = lab.fresh_directory().join("set");
    lab.back_up(domain.name(), &second, &["-l", "full"]).succeeds();
    let (full, inc) = (first.join("vda.full.data"), first.join("vda.inc.virtnbdbackup.1.data"));
    let sequence = |streams: [&Path; 2]| {
        let list = streams.map(|path| path.to_str().unwrap()).join(",");
        let out = lab.fresh_directory();
        (virtkeep(&[&"restore", &"-n", &"-o", &out, &"-s", &list]), out.join("vda.qcow2"))
    };
    let (run, image) = sequence([&full, &inc]);
    assert!(!run.succeeds().stderr.contains("unproven"));
    compare(&image, "qcow2", &reference);
    let (run, image) = sequence([&second.join("vda.full.data"), &inc]);
    run.ends_with(2).says(&["another stream", "hint: "]);
    assert!(!image.exists());
    // Without its manifest.
    let alone = lab.fresh_directory().join("alone.data");
    fs::copy(&inc, &alone).unwrap();
    let (run, image) = sequence([&full, &alone]);
    run.succeeds().says(&["alone.data", "unproven"]);
    compare(&image, "qcow2", &reference);
}

#[test]
fn the_other_tools_boot_files_and_autostart_come_back() {
    let lab = Lab::up();
    let domain = lab.domain("d", &["vda:2M"]);
    lab.virsh(&[&"autostart", &"d"]);
    let (uri, scratch, set) = (lab.uri(), lab.scratch(), lab.fresh_directory().join("set"));
    let socket = lab.directory().join("run/foreign.sock");
    let arguments: [&dyn AsRef<OsStr>; 13] =
        [&"-U", &uri, &"-n", &"-d", &"d", &"-l", &"full", &"--scratchdir", &scratch, &"-f", &socket, &"-o", &set];
    run("virtnbdbackup", &arguments).succeeds();
    // A kernel as it would have saved it.
    let config = set.join("vmconfig.virtnbdbackup.0.xml");
    let xml = fs::read_to_string(&config).unwrap().replace("</os>", "<kernel>/nowhere/vmlinuz</kernel></os>");
    assert!(xml.contains("vmlinuz"), "{xml}");
    fs::write(&config, xml).unwrap();
    fs::write(set.join("vmlinuz.virtnbdbackup.0"), "kernel").unwrap();
    domain.stop();
    lab.virsh(&[&"undefine", &"d", &"--checkpoints-metadata"]);

    let out = lab.fresh_directory();
    restore(&set, &out, &["-D", "-U", &uri]).succeeds();
    assert_eq!(fs::read(out.join("vmlinuz")).unwrap(), b"kernel");
    let xml = lab.virsh(&[&"dumpxml", &"d"]);
    assert!(xml.contains(&format!("<kernel>{}</kernel>", out.join("vmlinuz").display())), "{xml}");
    let info = lab.virsh(&[&"dominfo", &"d"]);
    assert!(info.lines().any(|line| line.starts_with("Autostart:") && line.ends_with("enable")), "{info}");
    // The changed kernel of another point is not taken for the same.
    fs::write(set.join("vmlinuz.virtnbdbackup.0"), "other!").unwrap();
    fs::remove_file(out.join("d-vda.qcow2")).unwrap();
    restore(&set, &out, &[]).ends_with(1).says(&["vmlinuz", "other content", "--force"]);
}

/// QEMU compresses a cluster once, as a whole, and an image of version 2 can't give one back: each has to come in one
/// piece.
#[test]
fn clusters_longer_than_a_window_are_compressed() {
    let lab = Lab::up();
    let directory = lab.fresh_directory();
    let image = directory.join("d-vda.qcow2");
    let create = "head -c 7M /dev/urandom >\"$0.raw\" && truncate -s 12M \"$0.raw\" &&
        qemu-img convert -f raw -O qcow2 -o cluster_size=2M,compat=0.10 \"$0.raw\" \"$0\" && rm \"$0.raw\" &&
        chmod 666 \"$0\" && chmod 777 \"${0%/*}\"";
    run("sh", &[&"-c", &create, &image]).succeeds();
    let case = Case::new(&lab, "d", &[&format!("vda:0:path={}", image.display())]);
    for options in [&["-l", "copy"][..], &["-l", "copy", "-z"]] {
        let set = lab.fresh_directory().join("set");
        case.backup_to(&set, options).succeeds();
        let out = lab.fresh_directory().join("out");
        restore(&set, &out, &["--compress"]).succeeds();
        let restored = out.join("d-vda.qcow2");
        run("qemu-img", &[&"compare", &"-U", &image, &restored]).succeeds();
        run("qemu-img", &[&"check", &"-q", &restored]).succeeds();
    }
}

#[test]
fn raw_originals_are_not_compressed() {
    let directory = tempfile::tempdir().unwrap();
    let (set, out) = (directory.path().join("set"), directory.path().join("out"));
    fs::create_dir_all(&set).unwrap();
    fs::create_dir_all(&out).unwrap();
    let mut stream = foreign_head(4096);
    stream.extend_from_slice(&[7; 4096]);
    stream.extend_from_slice(b"\r\n");
    stream.extend_from_slice(&Header::new(Kind::Stop, 0, 0).encode());
    fs::write(set.join("vda.full.data"), &stream).unwrap();
    restore(&set, &out, &["--compress"]).ends_with(2).says(&["disk vda", "raw", "hint: "]);
    assert_eq!(listing(&out), [""; 0], "a refused restore left something");
    restore(&set, &out, &[]).succeeds();
    assert!(fs::read(out.join(&listing(&out)[0])).unwrap() == [7; 4096]);
}

/// The beginning of a full of virtnbdbackup of a raw disk full of data, up to the data.
fn foreign_head(size: u64) -> Vec<u8> {
    let meta = format!(
        r#"{{"virtualSize":{size},"dataSize":{size},"diskName":"vda","diskFormat":"raw","checkpointName":"virtnbdbackup.0"}}"#
    );
    let meta_header = Header::new(Kind::Meta, 0, meta.len() as u64).encode();
    let data_header = Header::new(Kind::Data, 0, size).encode();
    [&meta_header[..], meta.as_bytes(), b"\r\n", &data_header].concat()
}

/// Every stream of a chain is a file.
#[test]
fn the_soft_limit_of_open_files_does_not_matter() {
    let lab = Lab::up();
    let (domain, set) = make(&lab);
    let out = lab.fresh_directory();
    let limited = "ulimit -Sn 7 && exec \"$0\" restore -n --format=raw -i \"$1\" -o \"$2\"";
    run("sh", &[&"-c", &limited, &env!("CARGO_BIN_EXE_virtkeep"), &set, &out]).succeeds();
    compare(&out.join("d-vda.raw"), "raw", &domain.snapshot_reference("vda"));
}

/// Streams without an index are read as a whole before anything is written.
#[test]
fn opening_a_foreign_stream_can_be_interrupted() {
    let directory = tempfile::tempdir().unwrap();
    let (set, out) = (directory.path().join("set"), directory.path().join("out"));
    fs::create_dir(&set).unwrap();
    let size = 1_u64 << 42;
    let stream = foreign_head(size);
    let path = set.join("vda.full.data");
    fs::write(&path, &stream).unwrap();
    // Terabytes of one hole: hours of reading.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(stream.len() as u64 + size + 42).unwrap();
    let stopped = "\"$0\" restore -n -i \"$1\" -o \"$2\" & sleep 1; kill -INT $! 2>&1; wait $!";
    // A shell without job control lets its background processes ignore SIGINT until they say otherwise.
    run("sh", &[&"-c", &stopped, &env!("CARGO_BIN_EXE_virtkeep"), &set, &out]).ends_with(130).says(&["interrupted"]);
    assert!(!out.exists());
}
