//! Solid-state disks, which are written around the page cache.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::support::{Case, Lab, Loop, MIB, Run, compare, files, listing, program, run, virtkeep};

/// A file system of its own on a device in memory, which the kernel takes for a solid-state disk.
struct SolidState {
    mounted: PathBuf,
    device: Loop,
    _file: tempfile::NamedTempFile,
}

impl SolidState {
    fn of_size(lab: &Lab, size: u64) -> SolidState {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        file.as_file().set_len(size).unwrap();
        let device = Loop::new(file.path());
        run("mkfs.ext4", &[&"-q", &"-m", &"0", &device.0]).succeeds();
        let mounted = lab.fresh_directory();
        run("mount", &[&device.0, &mounted]).succeeds();
        run("chmod", &[&"777", &mounted]).succeeds();
        SolidState { mounted, device, _file: file }
    }

    /// Nothing of it is in the page cache afterwards.
    fn mounted_again(&self) {
        run("umount", &[&self.mounted]).succeeds();
        run("mount", &[&self.device.0, &self.mounted]).succeeds();
    }
}

impl Drop for SolidState {
    fn drop(&mut self) {
        run("umount", &[&"-l", &self.mounted]);
    }
}

/// Runs the program; how many writes of a whole MiB it made without the page cache, by what strace saw.
#[track_caller]
fn direct_writes(lab: &Lab, arguments: &[OsString]) -> (Run, usize) {
    let traces = lab.fresh_directory();
    // A file for each thread: no call comes in two lines.
    let output = traces.join("trace");
    let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"-ff", &"-qq", &"-s", &"0", &"-e", &"signal=none"];
    let program = program();
    all.extend([&"-e" as &dyn AsRef<OsStr>, &"trace=?open,openat,pwrite64", &"-o", &output, &program]);
    all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<OsStr>));
    let run = run("strace", &all);
    let trace: String = files(&traces).iter().map(|file| std::fs::read_to_string(traces.join(file)).unwrap()).collect();
    let direct: Vec<&str> = trace
        .lines()
        .filter(|line| line.contains("O_DIRECT") && line.contains("/proc/self/fd/"))
        .filter_map(|line| line.rsplit_once("= ").map(|(_, descriptor)| descriptor.trim()))
        .collect();
    let writes = trace.lines().filter(|line| {
        let of = line.split_once("pwrite64(").map(|(_, rest)| rest);
        of.is_some_and(|rest| {
            direct.iter().any(|it| rest.starts_with(&format!("{it},"))) && rest.contains(", 1048576,")
        })
    });
    (run, writes.count())
}

fn restore(set: &Path, options: &[&dyn AsRef<OsStr>]) -> Vec<OsString> {
    let first: [&dyn AsRef<OsStr>; 3] = [&"restore", &"-i", &set];
    first.iter().chain(options).map(|option| option.as_ref().to_owned()).collect()
}

#[test]
fn what_is_written_directly_is_the_disk() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:64M", "vdb:64M"]);
    let disks = ["vda", "vdb"];
    // Not at multiples of anything, with holes, and to the disk's end.
    for (disk, seed) in disks.into_iter().zip([1, 101]) {
        for part in 0..20u64 {
            let length = (part * 700_001) % (2 * MIB) / 512 * 512 + 512;
            case.domain.write(disk, seed + part as u8, part * 3 * MIB + 512 * part, length);
        }
        case.domain.write(disk, seed + 20, 64 * MIB - 65_536, 65_536);
    }
    let references = case.domain.snapshot_references(&disks);
    let disk = SolidState::of_size(&lab, 512 << 20);

    for (name, options) in
        [("plain", &[][..]), ("lz4", &["-z"]), ("raw", &["-t", "raw"]), ("cached", &["--page-cache"])]
    {
        let set = disk.mounted.join(name);
        let copy = [&["-l", "copy"], options].concat();
        let (run, writes) = direct_writes(&lab, &case.arguments(&set, &copy));
        run.succeeds();
        match name {
            "cached" => assert_eq!(writes, 0),
            // What compresses so well leaves less than a MiB.
            "lz4" => {}
            _ => assert!(writes >= 10, "{name}: {writes} direct writes"),
        }
        virtkeep(&[&"verify", &"-i", &set]).succeeds();
        for format in ["raw", "qcow2"] {
            let output = disk.mounted.join("restored");
            let mut options: Vec<&dyn AsRef<OsStr>> = vec![&"-o", &output, &"-t", &format];
            if name == "cached" {
                options.push(&"--page-cache");
            }
            let (run, writes) = direct_writes(&lab, &restore(&set, &options));
            run.succeeds();
            assert_eq!(writes > 0, name != "cached", "{name} to {format}: {writes} direct writes");
            disk.mounted_again();
            for (target, reference) in disks.iter().zip(&references) {
                let image = std::fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().path());
                let image = image.into_iter().find(|path| path.to_str().unwrap().contains(target)).unwrap();
                compare(&image, format, reference);
            }
            std::fs::remove_dir_all(&output).unwrap();
        }
        std::fs::remove_dir_all(&set).unwrap();
    }
}

/// Onto a device that is full of something else, at no multiples of pages, with its last page cut.
#[test]
fn devices_are_written_directly() {
    let lab = Lab::up();
    let size = 32 * MIB + 512;
    let case = Case::new(&lab, "d", &[&format!("vda:{size}")]);
    for part in 0..10u64 {
        case.domain.write("vda", 1 + part as u8, part * 3 * MIB + 512 * part, (part + 1) * 150_016);
        case.domain.write_zeroes("vda", part * 3 * MIB + 512 * (part + 3), 1024, false);
    }
    case.domain.write("vda", 99, size - 512, 512);
    let references = case.domain.snapshot_references(&["vda"]);
    case.backup(&["-l", "full"]).succeeds();
    for more in [0, 512, MIB] {
        let file = tempfile::tempdir_in("/dev/shm").unwrap();
        let device = Loop::filled(file.path(), (size + more) as usize, 0xff);
        let place = format!("vda={}", device.path());
        let (run, writes) = direct_writes(&lab, &restore(&case.set, &[&"--force", &"--to-device", &place]));
        run.succeeds();
        assert!(more < MIB || writes > 0, "no direct writes");
        let (written, reference) = (device.content(), std::fs::read(&references[0]).unwrap());
        let (disk, rest) = written.split_at(size as usize);
        assert!(disk == &reference[..size as usize], "the device differs from the disk");
        assert!(rest.iter().all(|byte| *byte == 0xff), "written behind the disk's end");
    }
}

/// Writes that are done later fail later: the run must know.
#[test]
fn a_disk_that_gets_full_fails_the_run() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:48M"]);
    case.domain.write("vda", 0xaa, 0, 40 * MIB);
    case.backs_up(&[], &["vda"]);
    for size in [24, 36, 44] {
        let disk = SolidState::of_size(&lab, size << 20);
        let set = disk.mounted.join("set");
        let failed = case.backup_to(&set, &["-l", "copy"]);
        failed.ends_with(1).says(&["vda", "No space left", "hint: "]);
        assert!(listing(&set).iter().all(|name| !name.contains(".data")), "{:?}", listing(&set));
        case.is_as_before(&["virtnbdbackup.0"]);
        let output = disk.mounted.join("restored");
        let failed = virtkeep(&[&"restore", &"-i", &case.set, &"-o", &output, &"-t", &"raw"]);
        failed.ends_with(1).says(&["vda", "No space left"]);
        assert!(!output.exists() || listing(&output).is_empty(), "{:?}", listing(&output));
    }
}
