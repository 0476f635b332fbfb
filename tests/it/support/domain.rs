//! A domain without a guest inside: the test writes to its disks as a guest would.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Lab, Run};

/// What a guest does to a disk; offsets and lengths are multiples of 512.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Fill a range with one byte.
    Write {
        /// The byte.
        pattern: u8,
        /// Where.
        offset: u64,
        /// How much.
        length: u64,
    },
    /// Write zeroes by the command for it; with `unmap` the disk may give back the space.
    Zero {
        /// Where.
        offset: u64,
        /// How much.
        length: u64,
        /// Whether space may be given back.
        unmap: bool,
    },
    /// Discard. What a guest reads afterwards is the disk's choice: only a reference tells.
    Discard {
        /// Where.
        offset: u64,
        /// How much.
        length: u64,
    },
}

impl Operation {
    fn command(self) -> String {
        match self {
            Operation::Write { pattern, offset, length } => format!("write -P {pattern} {offset} {length}"),
            Operation::Zero { offset, length, unmap: false } => format!("write -z {offset} {length}"),
            Operation::Zero { offset, length, unmap: true } => format!("write -zu {offset} {length}"),
            Operation::Discard { offset, length } => format!("discard {offset} {length}"),
        }
    }
}

/// A domain of a [`Lab`].
#[derive(Debug)]
pub struct TestDomain<'lab> {
    lab: &'lab Lab,
    name: String,
}

impl<'lab> TestDomain<'lab> {
    pub(super) fn new(lab: &'lab Lab, name: &str) -> TestDomain<'lab> {
        TestDomain { lab, name: name.to_owned() }
    }

    /// One that is there already.
    pub fn known(lab: &'lab Lab, name: &str) -> TestDomain<'lab> {
        TestDomain::new(lab, name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does `operations` on one disk, in order. A backup job in progress sees them as the guest's.
    #[track_caller]
    pub fn apply(&self, disk: &str, operations: &[Operation]) {
        self.try_apply(disk, operations).succeeds();
    }

    /// As [`TestDomain::apply`]; the caller judges.
    #[track_caller]
    pub fn try_apply(&self, disk: &str, operations: &[Operation]) -> Run {
        let commands: Vec<String> = operations.iter().map(|operation| operation.command()).collect();
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&self.name, &disk];
        arguments.extend(commands.iter().map(|command| command as &dyn AsRef<std::ffi::OsStr>));
        self.lab.command("hmp", &arguments)
    }

    /// Fills a range with `pattern`.
    #[track_caller]
    pub fn write(&self, disk: &str, pattern: u8, offset: u64, length: u64) {
        self.apply(disk, &[Operation::Write { pattern, offset, length }]);
    }

    /// Writes zeroes by the command for it.
    #[track_caller]
    pub fn write_zeroes(&self, disk: &str, offset: u64, length: u64, unmap: bool) {
        self.apply(disk, &[Operation::Zero { offset, length, unmap }]);
    }

    /// Discards a range.
    #[track_caller]
    pub fn discard(&self, disk: &str, offset: u64, length: u64) {
        self.apply(disk, &[Operation::Discard { offset, length }]);
    }

    /// What the guest sees now, as a raw file that goes with the lab: read from the running QEMU
    /// through an export of its own. Not while a backup job runs, QEMU has one NBD server.
    #[track_caller]
    pub fn snapshot_reference(&self, disk: &str) -> PathBuf {
        self.snapshot_references(&[disk]).remove(0)
    }

    /// As [`TestDomain::snapshot_reference`] of several disks, in their order.
    #[track_caller]
    pub fn snapshot_references(&self, disks: &[&str]) -> Vec<PathBuf> {
        let directory = self.lab.fresh_directory();
        let paths: Vec<PathBuf> = disks.iter().map(|disk| directory.join(format!("{disk}.raw"))).collect();
        let pairs: Vec<String> =
            disks.iter().zip(&paths).map(|(disk, path)| format!("{disk}={}", path.display())).collect();
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&self.name];
        arguments.extend(pairs.iter().map(|pair| pair as &dyn AsRef<std::ffi::OsStr>));
        self.lab.command("reference", &arguments).succeeds();
        paths
    }

    /// The disk's image.
    #[track_caller]
    pub fn image(&self, disk: &str) -> PathBuf {
        self.lab.command("image", &[&self.name, &disk]).succeeds().stdout.trim_end().into()
    }

    /// Starts it, paused.
    #[track_caller]
    pub fn start(&self) {
        self.lab.command("start", &[&self.name]).succeeds();
    }

    /// Ends it; its dirty bitmaps are kept, as by a guest's own shutdown.
    #[track_caller]
    pub fn stop(&self) {
        self.lab.command("stop", &[&self.name]).succeeds();
    }

    /// Kills its QEMU, as a crash would: the bitmaps in its images stay marked as in use.
    #[track_caller]
    pub fn kill(&self) {
        self.lab.command("qemu-kill", &[&self.name]).succeeds();
        let begin = Instant::now();
        while self.lab.virsh(&[&"domstate", &self.name]).trim() != "shut off" {
            assert!(begin.elapsed() < Duration::from_secs(20), "libvirt does not see that QEMU is gone");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it and removes its definition and its images.
    #[track_caller]
    pub fn remove(self) {
        self.lab.command("remove", &[&self.name]).succeeds();
    }

    /// Runs a shell command inside a guest and returns what it printed.
    #[track_caller]
    pub fn execute(&self, command: &str) -> String {
        self.lab.command("exec", &[&self.name, &command]).succeeds().stdout
    }
}
