//! Raw disks and devices, on both ends of a backup.

mod backup;
mod by_choice;
mod data_file;
mod device;
mod interop;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::support::{Case, Lab, Loop, MIB, Run, virtkeep};

/// A domain with a qcow2 disk `vda`, a raw file `vdb` and a block device `vdc`.
struct Mixed<'lab> {
    case: Case<'lab>,
    /// Detached when the domain's lab is still up: QEMU keeps it open until then.
    _device: Loop,
}

/// Multiple of neither 512 nor 64 KiB nor 1 MiB; the guest sees it rounded up to sectors.
const ODD: u64 = 3 * MIB + 70_001;

impl<'lab> Mixed<'lab> {
    #[track_caller]
    fn new(lab: &'lab Lab) -> Mixed<'lab> {
        let directory = lab.fresh_directory();
        let file = directory.join("odd.raw");
        std::fs::write(&file, vec![0; ODD as usize]).unwrap();
        crate::support::run("chmod", &[&"777", &directory]).succeeds();
        crate::support::run("chmod", &[&"666", &file]).succeeds();
        let device = Loop::filled(&directory, 5 << 20, 0xd1);
        let disks = [
            "vda:8M".to_owned(),
            format!("vdb:1:raw,path={}", file.display()),
            format!("vdc:1:raw,block,path={}", device.path()),
        ];
        let case = Case::new(lab, "d", &disks.each_ref().map(String::as_str));
        let mixed = Mixed { case, _device: device };
        mixed.case.domain.write("vda", 0xa1, MIB, MIB);
        mixed.case.domain.write("vdb", 0xb1, MIB - 512, 2048);
        // The last sectors: the very last one lies beyond the file's end.
        mixed.case.domain.write("vdb", 0xb2, 3 * MIB + 69_632, 512);
        mixed.case.domain.write("vdc", 0xc1, 4 * MIB, 1536);
        mixed.case.domain.write_zeroes("vdc", 2 * MIB + 512, MIB, false);
        mixed
    }
}

#[track_caller]
fn restore(set: &Path, options: &[&dyn AsRef<OsStr>]) -> Run {
    let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"restore", &"-n", &"-i", &set];
    arguments.extend_from_slice(options);
    virtkeep(&arguments)
}

/// The raw image that the set has of a disk.
fn image_in(set: &Path, target: &str) -> PathBuf {
    set.join(format!("{target}.copy.data"))
}

/// Turns one bit around.
#[track_caller]
fn flip(path: &Path, position: usize) {
    let mut content = std::fs::read(path).unwrap();
    content[position] ^= 0x10;
    std::fs::write(path, content).unwrap();
}
