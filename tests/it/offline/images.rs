//! Images that are in use, broken, or more than one.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{backs_up, bitmaps, leaves_nothing, references, write};
use crate::support::{Case, Lab, MIB, TestDomain, run};

/// A program that has an image open; ended when dropped.
struct Holder(Child);

impl Holder {
    #[track_caller]
    fn of(lab: &Lab, image: &Path, options: &[&str]) -> Holder {
        let directory = lab.fresh_directory();
        let pid = directory.join("pid");
        let mut command = Command::new("qemu-nbd");
        command.args(options).args(["-t", "-f", "qcow2", "-k"]).arg(directory.join("s")).arg("--pid-file").arg(&pid);
        let holder = Holder(command.arg(image).stdin(Stdio::null()).spawn().unwrap());
        let begin = Instant::now();
        while !pid.exists() {
            assert!(begin.elapsed() < Duration::from_secs(20), "it does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_image_in_use_by_another_program_is_told() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M"]);
    let disks = &["vda", "vdb"];
    case.domain.write("vda", 0x11, 0, MIB);
    case.domain.stop();
    backs_up(&case, &[], disks);
    let before = bitmaps(&case, "vda");
    let copy = Case { lab: &lab, domain: TestDomain::known(&lab, "d"), set: lab.fresh_directory().join("copy") };

    // Somebody reads the second image: no bitmap can be added. The first one's goes again.
    let reader = Holder::of(&lab, &case.domain.image("vdb"), &["-r"]);
    let words = ["vdb", "d-vdb.qcow2", "Failed to get \"write\" lock", "fuser"];
    case.backup(&["-l", "inc"]).ends_with(1).says(&words);
    assert_eq!(bitmaps(&case, "vda"), before);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0"]);
    leaves_nothing_but(&case);
    // A new chain that can't begin takes nothing from this one.
    let new = lab.fresh_directory().join("new");
    case.backup_to(&new, &["-l", "full"]).ends_with(1).says(&words);
    assert_eq!(bitmaps(&case, "vda"), before);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0"]);
    // To read it beside them is no harm.
    copy.backup(&["-l", "copy"]).succeeds();
    drop(reader);

    // Somebody writes to it.
    std::fs::remove_dir_all(&copy.set).unwrap();
    let writer = Holder::of(&lab, &case.domain.image("vdb"), &[]);
    copy.backup(&["-l", "copy"]).ends_with(1).says(&["vdb", "lock", "fuser"]);
    drop(writer);
    backs_up(&copy, &["-l", "copy"], disks);
}

/// As [`leaves_nothing`], while a server of the test is there.
fn leaves_nothing_but(case: &Case<'_>) {
    case.no_traces();
    assert_eq!(super::servers(case).len(), 1);
}

#[test]
fn a_broken_bitmap_makes_its_disk_full() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M"]);
    let disks = &["vda", "vdb"];
    case.domain.write("vda", 0x11, 0, MIB);
    case.backs_up(&[], disks);
    case.domain.stop();
    // As a writer that was killed leaves them.
    let script = "qemu-io -c 'write -P 0x21 2M 512' -c 'sigraise 9' \"$0\"; true";
    run("bash", &[&"-c", &script, &case.domain.image("vdb")]).succeeds();
    write(&case, "vda", "write -P 0x22 2M 64k");
    let full = backs_up(&case, &["-l", "inc"], disks);
    full.says(&["vdb: full instead of an increment, because its bitmap virtnbdbackup.0 is missing or broken"])
        .says(&["vda: inc since virtnbdbackup.0"]);
    write(&case, "vdb", "write -P 0x31 3M 64k");
    backs_up(&case, &["--strict", "-l", "inc"], disks).says(&["vdb: inc since virtnbdbackup.1"]);

    // All of them, as a host's crash does: the checkpoints that nothing can build on go.
    case.domain.start();
    case.domain.write("vda", 0x41, 0, 65536);
    case.domain.kill();
    let full = backs_up(&case, &["-l", "inc"], disks);
    full.says(&["vda: full instead", "vdb: full instead", "removed checkpoint virtnbdbackup.2"]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.3"]);
    assert_eq!(bitmaps(&case, "vda"), ["marker", "virtnbdbackup.3"]);
    case.domain.start();
    case.domain.write("vda", 0x51, 0, 65536);
    case.backs_up(&["--strict", "-l", "inc"], disks).says(&["vda: inc since virtnbdbackup.3"]);
}

#[test]
fn overlays_are_read_with_what_is_below_them() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0x11, 0, MIB);
    case.backs_up(&[], &["vda"]);
    let base = case.domain.image("vda");
    lab.virsh(&[&"snapshot-create-as", &"d", &"s", &"--disk-only", &"--no-metadata"]);
    case.domain.write("vda", 0x21, 2 * MIB, 65536);
    case.domain.stop();
    let overlay = case.domain.image("vda");
    assert_ne!(base, overlay);
    backs_up_overlay(&case, "full instead of an increment, because its image was");
    write(&case, "vda", "write -P 0x31 3M 64k");
    backs_up_overlay(&case, "vda: inc since virtnbdbackup.1");
    case.domain.start();
    case.domain.write("vda", 0x41, MIB, 65536);
    let reference = case.domain.snapshot_references(&["vda"]);
    case.backup(&["-l", "inc"]).succeeds().says(&["vda: inc since virtnbdbackup.2"]);
    case.restores(&[], &["vda"], &reference);
    case.domain.stop();

    // The last checkpoint's bitmap in both images, as after a snapshot: nobody merges them.
    run("qemu-img", &[&"bitmap", &"--add", &base, &"virtnbdbackup.3"]).succeeds();
    backs_up_overlay(&case, "bitmap virtnbdbackup.3 is spread over the images of a snapshot");

    // An image below whose format would be guessed.
    run("qemu-img", &[&"rebase", &"-u", &"-b", &base, &"-F", &"", &"-f", &"qcow2", &overlay]);
    let unnamed = case.domain.image("vda").with_file_name("unnamed.qcow2");
    make_without_format(&unnamed, &base);
    let xml =
        lab.virsh(&[&"dumpxml", &"--inactive", &"d"]).replace(&*overlay.to_string_lossy(), &unnamed.to_string_lossy());
    let file = lab.fresh_directory().join("d.xml");
    std::fs::write(&file, xml).unwrap();
    lab.virsh(&[&"define", &file]);
    case.backup(&["-l", "inc"]).ends_with(1).says(&["format of its backing file", "qemu-img rebase -u"]);
    leaves_nothing(&case);
}

#[track_caller]
fn backs_up_overlay(case: &Case<'_>, word: &str) {
    let reference = references(case, &["vda"]);
    case.backup(&["-l", "inc"]).succeeds().says(&[word]);
    case.restores(&[], &["vda"], &reference);
    leaves_nothing(case);
}

/// An overlay as old tools made it, without its backing file's format.
fn make_without_format(overlay: &Path, base: &Path) {
    run("qemu-img", &[&"create", &"-q", &"-f", &"qcow2", &"-b", &base, &"-F", &"qcow2", &overlay]).succeeds();
    let mut bytes = std::fs::read(overlay).unwrap();
    // The header extension with the format's name is made one of no known kind.
    let kind = 0xe279_2aca_u32.to_be_bytes();
    let place = bytes.windows(4).position(|window| window == kind).unwrap();
    bytes[place..place + 4].copy_from_slice(&0x6e6f_6e65_u32.to_be_bytes());
    std::fs::write(overlay, bytes).unwrap();
}

#[test]
fn a_definition_that_names_other_images_below_is_refused() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.stop();
    let image = case.domain.image("vda");
    let other = image.with_file_name("other.qcow2");
    run("qemu-img", &[&"create", &"-q", &"-f", &"qcow2", &other, &"4M"]).succeeds();
    let overlay = image.with_file_name("over.qcow2");
    run("qemu-img", &[&"create", &"-q", &"-f", &"qcow2", &"-b", &image, &"-F", &"qcow2", &overlay]).succeeds();
    let define = |below: &Path| {
        let xml = lab.virsh(&[&"dumpxml", &"--inactive", &"d"]);
        let (head, rest) = xml.split_once("<source file='").unwrap();
        let (_, rest) = rest.split_once("/>").unwrap();
        let rest = match rest.split_once("</backingStore>") {
            Some((_, rest)) => rest,
            None => rest,
        };
        let store = format!(
            "<source file='{}'/><backingStore type='file'><format type='qcow2'/><source file='{}'/></backingStore>",
            overlay.display(),
            below.display()
        );
        let file = lab.fresh_directory().join("d.xml");
        std::fs::write(&file, format!("{head}{store}{rest}")).unwrap();
        lab.virsh(&[&"define", &file]);
    };
    define(&other);
    case.backup(&[]).ends_with(1).says(&["vda", "<backingStore>", "other.qcow2", "-S"]);
    leaves_nothing(&case);
    define(&image);
    case.backup(&[]).succeeds();
}

#[test]
fn an_encrypted_image_needs_libvirt() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.stop();
    let image = case.domain.image("vda");
    let secret = "secret,id=s,data=abc";
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    // It measures how fast it computes, and gives up where that takes less than the clock of processor time can tell.
    let create =
        || run("qemu-img", &[&"create", &"-q", &"-f", &"qcow2", &"--object", &secret, &"-o", &options, &image, &"4M"]);
    (0..20).map(|_| create()).find(|run| !run.stderr.contains("accurate CPU usage")).expect("a result").succeeds();
    case.backup(&[]).ends_with(1).says(&["vda", "encrypted", "-S"]);
    leaves_nothing(&case);
    assert_eq!(case.checkpoints(), [""; 0]);
}
