//! Disks that leave and come back, and disks that were cut.

use std::ffi::OsStr;
use std::path::Path;

use super::chain;
use crate::support::{Case, Lab, MIB};

impl Case<'_> {
    /// Gives the stopped domain a disk.
    fn attach(&self, image: &Path, target: &str) {
        let options = ["--subdriver", "qcow2", "--targetbus", "virtio", "--config"];
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"attach-disk", &"d", &image, &target];
        arguments.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
        self.lab.virsh(&arguments);
    }

    fn detach(&self, target: &str) {
        self.virsh(&["detach-disk", "d", target, "--config"]);
    }

    /// Changes the domain while it is off: no guest lets a disk go that is not running.
    fn while_off(&self, change: impl Fn()) {
        self.domain.stop();
        change();
        self.domain.start();
    }
}

#[test]
fn a_disk_detached_and_attached_again() {
    let lab = Lab::up();
    let disks = ["vda", "vdb"];
    let case = chain(&lab, &["vda:8M", "vdb:8M"], &disks);
    let image = case.domain.image("vdb");
    case.domain.write("vdb", 0xb0, 2 * MIB, 65536);
    case.while_off(|| case.detach("vdb"));
    case.domain.write("vda", 0xb1, 2 * MIB, 65536);
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.1"]);
    // Its bitmaps are in the image.
    case.while_off(|| case.attach(&image, "vdb"));
    case.domain.write("vdb", 0xb2, 3 * MIB, 65536);
    let run = case.backs_up(&["--strict"], &disks);
    run.says(&["vda: inc since virtnbdbackup.2", "vdb: inc since virtnbdbackup.1"]);
    case.domain.write("vdb", 0xb3, 3 * MIB, 4096);
    case.backs_up(&["--strict"], &disks).says(&["vdb: inc since virtnbdbackup.3"]);
    // Under another name it is another disk.
    case.while_off(|| {
        case.detach("vdb");
        case.attach(&image, "vdc");
    });
    case.domain.write("vdc", 0xb4, 4 * MIB, 4096);
    case.backs_up(&[], &["vda", "vdc"])
        .says(&["vda: inc since", "vdc: full instead of an increment, because vdc is new"]);
    case.backs_up(&["--strict"], &["vda", "vdc"]).says(&["vdc: inc since virtnbdbackup.5"]);
}

#[test]
fn a_disk_cut_and_grown_again_while_the_domain_was_off() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0xaa, 0, 8 * MIB);
    case.backs_up(&[], &["vda"]);
    let image = case.domain.image("vda");
    case.while_off(|| {
        case.qemu_img(&[&"resize", &"-q", &"--shrink", &image, &"4M"]);
        case.qemu_img(&[&"resize", &"-q", &image, &"8M"]);
    });
    case.domain.write("vda", 0xbb, 6 * MIB, MIB);
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.0"]);
    // Cut for good, and grown for good.
    for size in ["6M", "9M"] {
        case.while_off(|| case.qemu_img(&[&"resize", &"-q", &"--shrink", &image, &size]));
        case.backs_up(&[], &["vda"]).says(&["vda: full instead of an increment, because its size changed"]);
        case.domain.write("vda", 0xcc, 5 * MIB, 65536);
        case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since"]);
    }
}
