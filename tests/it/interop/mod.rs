//! Debian's virtnbdbackup and virtkeep on the same sets: each reads what the other wrote, and each
//! continues the other's chains.

mod chain;
mod damage;
mod foreign;
mod own;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Lab, Run, TestDomain, compare, run, virtkeep};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// The second disk's size is a multiple of a sector, but not of 4 KiB.
const DISKS: [&str; 2] = ["vda:48M", "vdb:5243392"];
const TARGETS: [&str; 2] = ["vda", "vdb"];

/// A domain with a backup set that both tools write to.
struct Shared<'lab> {
    lab: &'lab Lab,
    domain: TestDomain<'lab>,
    set: PathBuf,
}

/// What the disks held at a restore point, in the order of [`TARGETS`].
struct Point {
    id: String,
    references: Vec<PathBuf>,
}

impl<'lab> Shared<'lab> {
    fn new(lab: &'lab Lab) -> Self {
        let shared = Self { lab, domain: lab.domain("d", &DISKS), set: lab.fresh_directory().join("set") };
        shared.domain.write("vda", 0x11, 0, 3 * MIB);
        shared.domain.write("vda", 0x12, 30 * MIB + 512, MIB);
        shared.domain.write("vdb", 0x13, 5 * MIB - 512, KIB);
        shared
    }

    /// Everything a guest does to a disk, at places of its own for every `round`.
    fn change(&self, round: u8) {
        let place = u64::from(round) * 2 * MIB;
        self.write(round);
        self.domain.write_zeroes("vda", MIB + u64::from(round) * 128 * KIB, 64 * KIB, false);
        self.domain.write_zeroes("vda", 30 * MIB + u64::from(round) * 192 * KIB, 100 * KIB, true);
        self.domain.discard("vda", place + 64 * KIB, 128 * KIB);
        self.domain.write("vdb", 0, 5 * MIB - 512, 512);
    }

    /// What virtnbdbackup's increments can represent in every version: bytes, none of them zero.
    fn write(&self, round: u8) {
        let place = u64::from(round) * 2 * MIB;
        self.domain.write("vda", 0x20 + round, place, MIB + 1536);
        self.domain.write("vdb", 0x40 + round, u64::from(round) * 512 * KIB + 512, 70 * KIB);
    }

    fn point(&self, id: impl Into<String>) -> Point {
        Point { id: id.into(), references: self.domain.snapshot_references(&TARGETS) }
    }

    /// A backup by virtnbdbackup.
    #[track_caller]
    fn foreign(&self, level: &str, more: &[&str]) {
        self.try_foreign(level, more).succeeds();
    }

    fn try_foreign(&self, level: &str, more: &[&str]) -> Run {
        let (uri, scratch) = (self.lab.uri(), self.lab.scratch());
        let socket = self.lab.directory().join("run/foreign.sock");
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"-U", &uri, &"-n", &"-d", &"d", &"-l", &level];
        arguments.extend([&"--scratchdir" as &dyn AsRef<OsStr>, &scratch, &"-f", &socket, &"-o", &self.set]);
        arguments.extend(more.iter().map(|argument| argument as &dyn AsRef<OsStr>));
        // Without it later versions leave out what became zero, and nobody could restore that.
        if foreign_help().contains("--no-sparse-detection") {
            arguments.push(&"--no-sparse-detection");
        }
        run("virtnbdbackup", &arguments)
    }

    /// A backup by virtkeep; what it said.
    #[track_caller]
    fn own(&self, level: &str, more: &[&str]) -> Run {
        let (uri, scratch) = (self.lab.uri(), self.lab.scratch());
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"backup", &"-U", &uri, &"-n", &"-d", &"d", &"-l", &level];
        arguments.extend([&"--scratchdir" as &dyn AsRef<OsStr>, &scratch, &"-o", &self.set]);
        arguments.extend(more.iter().map(|argument| argument as &dyn AsRef<OsStr>));
        virtkeep(&arguments).succeeds()
    }

    /// libvirt forgets the checkpoints, as on a host that the domain moved to; bitmaps stay.
    fn forget_checkpoints(&self) {
        let names = self.lab.virsh(&[&"checkpoint-list", &"d", &"--name", &"--topological"]);
        for name in names.split_whitespace().rev() {
            self.lab.virsh(&[&"checkpoint-delete", &"d", &name, &"--metadata"]);
        }
    }

    /// That virtkeep restores every point.
    #[track_caller]
    fn check_points(&self, points: &[Point]) {
        for point in points {
            self.check_own(&self.set, point);
        }
    }

    #[track_caller]
    fn check_own(&self, set: &Path, point: &Point) {
        let out = self.lab.fresh_directory().join("own");
        virtkeep(&[&"restore", &"-n", &"-i", &set, &"-o", &out, &"--until", &point.id]).succeeds();
        compare_all(&out, point);
    }

    /// That virtnbdrestore restores a point; `until` as it takes it, the newest without.
    #[track_caller]
    fn check_foreign(&self, point: &Point, until: Option<&str>) {
        compare_all(&self.restore_by_foreign(until), point);
    }

    /// Where virtnbdrestore put the images. A disk at a time: 1.9 gives all of them one socket, which
    /// the qemu-nbd of a disk that is done may take away from the next one's.
    #[track_caller]
    fn restore_by_foreign(&self, until: Option<&str>) -> PathBuf {
        let out = self.lab.fresh_directory();
        for target in TARGETS {
            let mut more: Vec<&dyn AsRef<OsStr>> = vec![&"-o", &out, &"-d", &target];
            if let Some(until) = &until {
                more.extend([&"--until" as &dyn AsRef<OsStr>, until]);
            }
            self.virtnbdrestore(&more).succeeds();
        }
        out
    }

    fn virtnbdrestore(&self, more: &[&dyn AsRef<OsStr>]) -> Run {
        let work = self.lab.fresh_directory();
        let (uri, socket, log) = (self.lab.uri(), work.join("nbd.sock"), work.join("log"));
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"-U", &uri, &"-n", &"-f", &socket, &"-L", &log];
        arguments.extend([&"-i" as &dyn AsRef<OsStr>, &self.set]);
        arguments.extend(more);
        run("virtnbdrestore", &arguments)
    }

    /// Streams of Debian 12's 1.9.15 have no sums: accepted, and said to be unproven. Later ones have.
    #[track_caller]
    fn check_unproven(&self) {
        let run = virtkeep(&[&"verify", &"-n", &"-i", &self.set]).succeeds();
        if !foreign_help().contains("--no-sparse-detection") {
            run.says(&["unproven"]);
        }
    }

    /// The set's levels and checkpoints, in order.
    fn dump(&self) -> Vec<(String, Option<String>)> {
        restore_points(&self.set)
            .iter()
            .map(|point| (point["level"].as_str().unwrap().to_owned(), point["checkpoint"].as_str().map(str::to_owned)))
            .collect()
    }

    fn newest_id(&self) -> String {
        restore_points(&self.set).last().unwrap()["id"].as_str().unwrap().to_owned()
    }
}

fn restore_points(set: &Path) -> Vec<serde_json::Value> {
    let dump = virtkeep(&[&"dump", &"-i", &set, &"--json"]).succeeds();
    let json: serde_json::Value = serde_json::from_str(&dump.stdout).unwrap();
    json["restore_points"].as_array().unwrap().clone()
}

#[track_caller]
fn compare_all(out: &Path, point: &Point) {
    for (target, reference) in TARGETS.iter().zip(&point.references) {
        compare(&out.join(format!("d-{target}.qcow2")), "qcow2", reference);
    }
}

fn checkpoint(position: u64) -> String {
    format!("virtnbdbackup.{position}")
}

/// A copy of a set whose files have new times, in another order than they were written.
fn copy_without_times(set: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut names: Vec<PathBuf> = fs::read_dir(set).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names.iter().rev() {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_without_times(path, &target);
        } else {
            fs::copy(path, target).unwrap();
        }
    }
}

/// What the installed virtnbdbackup says of its options: they tell its generation.
/// Whether virtnbdbackup asks libvirt to prove the bitmap of each checkpoint that it tells it of again: 1.9
/// does not, 2.28 does, and fails where one has gone.
fn foreign_validates() -> bool {
    !run("virtnbdbackup", &[&"-V"]).succeeds().stdout.starts_with("1.")
}

fn foreign_help() -> String {
    run("virtnbdbackup", &[&"--help"]).succeeds().stdout
}
