//! Random lives of a domain: every restore point gives back exactly what the guest saw then.
//!
//! `VIRTKEEP_TEST_SEQUENCES` asks for more of them, `VIRTKEEP_TEST_SEED` repeats: sequence N of a
//! run has the seed of the run + N, so a failed one is repeated alone by its own seed.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Lab, Operation, Random, TestDomain, compare, virtkeep};

const SEQUENCES: u64 = 30;
/// At a time; much of a sequence is waiting.
const THREADS: usize = 3;
const SECTOR: u64 = 512;
const MIB: u64 = 1024 * 1024;

#[test]
fn every_restore_point_equals_its_reference() {
    let sequences = from_environment("VIRTKEEP_TEST_SEQUENCES").unwrap_or(SEQUENCES);
    let seed = from_environment("VIRTKEEP_TEST_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
    say(&format!("random: {sequences} sequences, VIRTKEEP_TEST_SEED={seed}"));
    let lab = Lab::up();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= sequences {
                        return;
                    }
                    Sequence::new(&lab, seed.wrapping_add(number)).run();
                }
            });
        }
    });
}

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}")))
}

/// To the terminal: what a passing test prints is hidden, and the seed must be seen.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A disk of the domain, with the name of the image that a restore gives.
struct Disk {
    target: &'static str,
    sectors: u64,
    file: String,
}

/// One restore point: where its backup is, and what every disk held.
struct Point {
    set: PathBuf,
    id: String,
    references: HashMap<&'static str, PathBuf>,
}

/// One domain's life; dropped by a panic, it says how to see it again.
struct Sequence<'lab> {
    lab: &'lab Lab,
    seed: u64,
    random: Random,
    disks: Vec<Disk>,
    points: Vec<Point>,
    story: String,
}

impl<'lab> Sequence<'lab> {
    fn new(lab: &'lab Lab, seed: u64) -> Sequence<'lab> {
        let (random, disks, points) = (Random::new(seed), Vec::new(), Vec::new());
        Sequence { lab, seed, random, disks, points, story: String::new() }
    }

    fn run(mut self) {
        let domain = self.define();
        let set = self.lab.fresh_directory().join("set");
        self.change(&domain);
        self.back_up(&domain, &set, "full");
        for _ in 0..2 + self.random.below(3) {
            if self.random.one_in(8) {
                self.tell("stop and start");
                domain.stop();
                domain.start();
            }
            self.change(&domain);
            if self.random.one_in(6) {
                let other = self.lab.fresh_directory().join("copy");
                self.back_up(&domain, &other, "copy");
            } else {
                let level = *self.random.pick(&["inc", "inc", "diff", "auto"]);
                self.back_up(&domain, &set, level);
            }
        }
        // A dead QEMU may be reaped late; the sets don't need it.
        std::thread::scope(|scope| {
            scope.spawn(|| domain.remove());
            self.check_sets();
            for point in std::mem::take(&mut self.points) {
                self.check(&point);
            }
        });
    }

    fn tell(&mut self, line: &str) {
        let _ = writeln!(self.story, "{line}");
    }

    /// Sizes are no multiple of a cluster, of 64 KiB or of 1 MiB: the last piece is always short.
    fn define(&mut self) -> TestDomain<'lab> {
        let name = format!("r{}", self.seed);
        let count = 1 + self.random.below(3) as usize;
        let mut specs = Vec::new();
        for target in ["vda", "sda", "vdb"].into_iter().take(count) {
            let sectors = (1 + self.random.below(24)) * MIB / SECTOR + 1 + self.random.below(127);
            let option = *self.random.pick(&["", ":cluster_size=4096", ":cluster_size=2M", ":extended_l2=on"]);
            specs.push(format!("{target}:{}{option}", sectors * SECTOR));
            self.disks.push(Disk { target, sectors, file: format!("{name}-{target}.qcow2") });
        }
        self.tell(&format!("disks {specs:?}"));
        let specs: Vec<&str> = specs.iter().map(String::as_str).collect();
        self.lab.domain(&name, &specs)
    }

    /// Some operations on some disks; now and then none at all.
    fn change(&mut self, domain: &TestDomain) {
        for index in 0..self.disks.len() {
            if self.random.one_in(5) {
                continue;
            }
            let (target, sectors) = (self.disks[index].target, self.disks[index].sectors);
            let operations: Vec<Operation> =
                (0..1 + self.random.below(8)).map(|_| operation(&mut self.random, sectors)).collect();
            self.tell(&format!("{target}: {operations:?}"));
            domain.apply(target, &operations);
        }
    }

    fn back_up(&mut self, domain: &TestDomain, set: &Path, level: &str) {
        let targets: Vec<&'static str> = self.disks.iter().map(|disk| disk.target).collect();
        let references = targets.iter().copied().zip(domain.snapshot_references(&targets)).collect();
        let known = if set.exists() { restore_points(set) } else { BTreeSet::new() };
        let (uri, scratch) = (self.lab.uri(), self.lab.scratch());
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"backup", &"-n", &"-U", &uri, &"-d"];
        let name = domain.name().to_owned();
        arguments.extend([&name as &dyn AsRef<std::ffi::OsStr>, &"-o", &set, &"-l", &level, &"--scratchdir", &scratch]);
        let compress = format!("--compress={}", self.random.pick(&[1, 2, 3, 9]));
        if self.random.one_in(2) {
            arguments.push(&compress);
        }
        let off = self.random.one_in(3);
        self.tell(&format!("backup {level} {:?} of {} off {off} to {}", arguments.len(), name, set.display()));
        if off {
            domain.stop();
        }
        virtkeep(&arguments).succeeds();
        if off {
            domain.start();
        }
        if self.random.one_in(3) {
            let compared: [&dyn AsRef<std::ffi::OsStr>; 8] =
                [&"verify", &"-n", &"--against-live", &"-i", &set, &"-U", &uri, &"--scratchdir"];
            let compared: Vec<_> = compared.into_iter().chain([&scratch as &dyn AsRef<std::ffi::OsStr>]).collect();
            let said = virtkeep(&compared).succeeds().stdout;
            assert!(said.starts_with("OK: identical"), "{said}");
        }
        let new: Vec<String> = restore_points(set).difference(&known).cloned().collect();
        assert_eq!(new.len(), 1, "one more restore point after a backup: {new:?}");
        self.points.push(Point { set: set.to_owned(), id: new[0].clone(), references });
    }

    fn check_sets(&self) {
        for set in self.points.iter().map(|point| &point.set).collect::<BTreeSet<_>>() {
            virtkeep(&[&"verify", &"-n", &"-i", &set]).succeeds();
            virtkeep(&[&"verify", &"-n", &"--deep", &"-i", &set]).succeeds();
        }
    }

    fn check(&mut self, point: &Point) {
        let out = self.lab.fresh_directory().join("restored");
        let raw = self.random.one_in(3);
        self.tell(&format!("restore {} raw {raw}", point.id));
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> =
            vec![&"restore", &"-n", &"-i", &point.set, &"-o", &out, &"--until", &point.id];
        if raw {
            arguments.push(&"--format=raw");
        }
        virtkeep(&arguments).succeeds();
        for disk in &self.disks {
            let format = if raw { "raw" } else { "qcow2" };
            let image = out.join(&disk.file).with_extension(format);
            compare(&image, format, &point.references[disk.target]);
        }
        std::fs::remove_dir_all(out).unwrap();
    }
}

impl Drop for Sequence<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let again = format!("VIRTKEEP_TEST_SEED={} VIRTKEEP_TEST_SEQUENCES=1", self.seed);
            say(&format!("random: repeat with {again}\n{}", self.story));
        }
    }
}

/// Anything from one sector to a good part of the disk, anywhere, sometimes up to its very end.
fn operation(random: &mut Random, sectors: u64) -> Operation {
    let longest = *random.pick(&[1, 16, 300, 3000, sectors]);
    let length = 1 + random.below(longest.min(sectors));
    let last = sectors - length;
    let start = if random.one_in(6) { last } else { random.below(last + 1) };
    let (offset, length) = (start * SECTOR, length * SECTOR);
    match random.below(6) {
        0 => Operation::Zero { offset, length, unmap: false },
        1 => Operation::Zero { offset, length, unmap: true },
        2 => Operation::Discard { offset, length },
        // A guest writes plain zeroes too.
        3 => Operation::Write { pattern: 0, offset, length },
        _ => Operation::Write { pattern: 1 + random.below(255) as u8, offset, length },
    }
}

/// The ids of a set's restore points, as `dump --json` tells them.
fn restore_points(set: &Path) -> BTreeSet<String> {
    let dump = virtkeep(&[&"dump", &"-i", &set, &"--json"]).succeeds();
    let json: serde_json::Value = serde_json::from_str(&dump.stdout).expect("dump --json prints JSON");
    let points = json.get("restore_points").unwrap_or(&json).as_array().expect("an array of restore points");
    points.iter().map(|point| point["id"].as_str().expect("a restore point has an id").to_owned()).collect()
}
