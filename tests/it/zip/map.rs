//! Zip files as a disk, and as a machine that runs.

use std::ffi::OsStr;

use super::Piped;
use crate::support::{Lab, MIB, run, virtkeep};

#[test]
fn zip_files_are_mapped_and_booted() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:8M"]);
    let mut references = Vec::new();
    for (name, level, pattern) in [("full.zip", "full", 0x11), ("inc.zip", "inc", 0x22)] {
        piped.case.domain.write("vda", pattern, u64::from(pattern) * 4096, MIB);
        references.push(piped.case.domain.snapshot_reference("vda"));
        piped.backs_up(name, &["-l", level, "-z"]);
    }
    let files = format!("{},{}", piped.path("full.zip").display(), piped.path("inc.zip").display());
    let map = |options: &[&str]| {
        let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"map", &"-n", &"-i", &files];
        all.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
        virtkeep(&all)
    };
    for (point, reference) in ["virtnbdbackup.0", "virtnbdbackup.1"].iter().zip(&references) {
        let compare = format!("qemu-img compare -f raw -F raw \"$uri\" '{}'", reference.display());
        map(&["-u", point, "-e", &compare]).succeeds();
        // Clients that know nothing of QEMU.
        let copy = lab.fresh_directory().join("copy");
        map(&["-u", point, "-e", &format!("nbdcopy \"$uri\" '{}'", copy.display())]).succeeds();
        run("cmp", &[&copy, reference]).succeeds();
    }
    let read = "fio --name=z --ioengine=nbd --rw=randread --bs=4k --iodepth=16 --io_size=4M --size=8M --uri=\"$uri\"";
    let told = map(&["-e", read]).succeeds();
    assert!(told.stdout.contains("err= 0"), "{}", told.stdout);
    let told = map(&["-U", &lab.uri(), "--boot", "-e", "virsh domstate \"$domain\""]).succeeds();
    assert_eq!(told.stdout.trim(), "running");
}
