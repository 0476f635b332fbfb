//! Debian's virtnbdbackup and virtkeep on the same sets: each reads what the other wrote, and each
//! continues the other's chains.

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
        arguments.extend([&"-S" as &dyn AsRef<OsStr>, &scratch, &"-f", &socket, &"-o", &self.set]);
        arguments.extend(more.iter().map(|argument| argument as &dyn AsRef<OsStr>));
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
        let out = self.lab.fresh_directory();
        let mut more: Vec<&dyn AsRef<OsStr>> = vec![&"-o", &out];
        if let Some(until) = &until {
            more.extend([&"--until" as &dyn AsRef<OsStr>, until]);
        }
        self.virtnbdrestore(&more).succeeds();
        compare_all(&out, point);
    }

    fn virtnbdrestore(&self, more: &[&dyn AsRef<OsStr>]) -> Run {
        let work = self.lab.fresh_directory();
        let (uri, socket, log) = (self.lab.uri(), work.join("nbd.sock"), work.join("log"));
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"-U", &uri, &"-n", &"-f", &socket, &"-L", &log];
        arguments.extend([&"-i" as &dyn AsRef<OsStr>, &self.set]);
        arguments.extend(more);
        run("virtnbdrestore", &arguments)
    }

    /// Streams of 1.9 have no sums: accepted, and said to be unproven.
    #[track_caller]
    fn check_unproven(&self) {
        virtkeep(&[&"verify", &"-n", &"-i", &self.set]).succeeds().says(&["unproven"]);
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

/// Full, two increments and a diff of virtnbdbackup, and a further increment past the diff.
fn foreign_chain(more: &[&str]) {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    // Longer than the 32 MiB that virtnbdbackup compresses at a time.
    shared.domain.write("vda", 0x33, 4 * MIB, 40 * MIB);
    let mut points = vec![shared.point(checkpoint(0))];
    shared.foreign("full", more);
    for round in 1..=2 {
        shared.change(round);
        points.push(shared.point(checkpoint(round.into())));
        shared.foreign("inc", more);
    }
    shared.change(3);
    let diff = shared.point("");
    shared.foreign("diff", more);
    let diff = Point { id: shared.newest_id(), ..diff };
    assert!(diff.id.starts_with("diff."), "{}", diff.id);
    shared.check_foreign(&diff, None);
    points.push(diff);
    shared.change(4);
    points.push(shared.point(checkpoint(3)));
    shared.foreign("inc", more);

    let levels = ["full", "inc", "inc", "diff", "inc"];
    let names = [Some(0), Some(1), Some(2), None, Some(3)].map(|position| position.map(checkpoint));
    let expected: Vec<(String, Option<String>)> = levels.iter().map(|level| (*level).to_owned()).zip(names).collect();
    assert_eq!(shared.dump(), expected);
    shared.check_unproven();
    shared.check_points(&points);
    let copied = lab.fresh_directory().join("kept elsewhere");
    copy_without_times(&shared.set, &copied);
    shared.check_own(&copied, points.last().unwrap());
    shared.check_own(&copied, &points[3]);
}

#[test]
fn foreign_plain_chain_is_restored() {
    foreign_chain(&[]);
}

#[test]
fn foreign_compressed_chain_is_restored() {
    foreign_chain(&["-z"]);
}

#[test]
fn foreign_high_compression_is_restored() {
    foreign_chain(&["-z", "9"]);
}

#[test]
fn foreign_copy_is_restored() {
    let lab = Lab::up();
    for more in [&[][..], &["-z"]] {
        let shared = Shared::new(&lab);
        shared.domain.write("vda", 0x51, 7 * MIB, 33 * MIB);
        let point = shared.point("copy");
        shared.foreign("copy", more);
        assert_eq!(shared.dump(), [("copy".to_owned(), None)]);
        shared.check_unproven();
        shared.check_points(&[point]);
        // A copy is no base.
        virtkeep(&[&"backup", &"-n", &"-U", &lab.uri(), &"-d", &"d", &"-o", &shared.set, &"-l", &"inc"]).ends_with(1);
        shared.domain.remove();
    }
}

/// Ours, by virtnbdrestore: every point of full, inc, inc.
fn own_chain(more: &[&str]) {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    shared.domain.write("vda", 0x34, 4 * MIB, 40 * MIB);
    let mut points = vec![shared.point(checkpoint(0))];
    shared.own("full", more);
    for round in 1..=2 {
        shared.write(round);
        points.push(shared.point(checkpoint(round.into())));
        shared.own("inc", more);
    }
    for point in &points {
        shared.check_foreign(point, Some(&point.id));
    }
    shared.check_foreign(&points[2], None);
    let dump = shared.virtnbdrestore(&[&"-o", &"dump"]).succeeds();
    for word in ["virtnbdbackup.0", "virtnbdbackup.2", "\"diskName\": \"vdb\""] {
        assert!(dump.stdout.contains(word), "{word}: {}", dump.stdout);
    }
    // It knows no zeroed ranges in increments, but must not stumble over them.
    shared.change(3);
    points.push(shared.point(checkpoint(3)));
    shared.own("inc", more);
    shared.virtnbdrestore(&[&"-o", &lab.fresh_directory()]).succeeds();
    shared.write(4);
    let diff = shared.point("");
    shared.own("diff", more);
    points.push(Point { id: shared.newest_id(), ..diff });
    shared.check_points(&points);
    virtkeep(&[&"verify", &"-n", &"-i", &shared.set]).succeeds();
}

#[test]
fn own_plain_chain_is_restored_by_the_other() {
    own_chain(&[]);
}

#[test]
fn own_compressed_chain_is_restored_by_the_other() {
    own_chain(&["-z"]);
}

#[test]
fn own_high_compression_is_restored_by_the_other() {
    own_chain(&["--compress=9"]);
}

#[test]
fn own_copy_and_diff_are_restored_by_the_other() {
    let lab = Lab::up();
    let mut shared = Shared::new(&lab);
    let copy = shared.point("");
    shared.own("copy", &["-z"]);
    shared.check_foreign(&copy, None);
    shared.set = lab.fresh_directory().join("chain");
    shared.own("full", &[]);
    shared.write(1);
    let diff = shared.point("");
    shared.own("diff", &[]);
    shared.check_foreign(&diff, None);
}

#[test]
fn chain_goes_on_from_foreign_to_own_and_back() {
    continued_chain(&[true, false, true, false, false, true]);
}

#[test]
fn chain_goes_on_from_own_to_foreign_and_back() {
    continued_chain(&[false, true, false, true, true, false]);
}

/// One chain whose runs are made by virtnbdbackup where `foreign` says so; compressed now and then.
fn continued_chain(foreign: &[bool]) {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    let mut points = Vec::new();
    for (round, &by_foreign) in foreign.iter().enumerate() {
        shared.write(round as u8 + 1);
        points.push(shared.point(checkpoint(round as u64)));
        let level = if round == 0 { "full" } else { "inc" };
        let compress: &[&str] = if round % 2 == 1 { &["-z"] } else { &[] };
        if by_foreign {
            shared.foreign(level, compress);
        } else {
            shared.own(level, compress);
        }
        if round == 2 {
            shared.domain.stop();
            shared.domain.start();
        }
    }
    let levels: Vec<String> = shared.dump().into_iter().map(|(level, _)| level).collect();
    assert_eq!(levels, ["full", "inc", "inc", "inc", "inc", "inc"], "no run became a full");
    shared.check_unproven();
    shared.check_points(&points);
    shared.check_foreign(points.last().unwrap(), None);
}

#[test]
fn lost_checkpoints_are_redefined_from_what_the_other_saved() {
    let lab = Lab::up();
    for foreign_first in [true, false] {
        let mut shared = Shared::new(&lab);
        // The new chain's first checkpoint is made while an old chain's are still there.
        shared.own("full", &[]);
        shared.own("inc", &[]);
        shared.set = lab.fresh_directory().join("set");
        let mut points = vec![shared.point(checkpoint(0))];
        if foreign_first {
            shared.foreign("full", &[])
        } else {
            drop(shared.own("full", &[]))
        }
        for round in 1..=3 {
            shared.forget_checkpoints();
            shared.write(round);
            points.push(shared.point(checkpoint(round.into())));
            if (round % 2 == 0) == foreign_first {
                shared.foreign("inc", &[]);
            } else {
                shared.own("inc", &[]);
            }
        }
        let levels: Vec<String> = shared.dump().into_iter().map(|(level, _)| level).collect();
        assert_eq!(levels, ["full", "inc", "inc", "inc"]);
        shared.check_points(&points);
        shared.check_foreign(&points[3], None);
        shared.domain.remove();
    }
}

/// virtnbdbackup's increment of a stopped domain bears its parent's name.
#[test]
fn foreign_backups_of_a_stopped_domain_are_restored() {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    let mut points = vec![shared.point(checkpoint(0))];
    shared.foreign("full", &[]);
    shared.change(1);
    let offline = shared.point("");
    shared.domain.stop();
    shared.foreign("inc", &[]);
    points.push(Point { id: shared.newest_id(), ..offline });
    shared.domain.start();
    shared.change(2);
    points.push(shared.point(checkpoint(1)));
    shared.own("inc", &[]);
    shared.check_points(&points);
    shared.check_unproven();
}

/// It leaves increment 1 as a delta to itself: nothing may be restored from there on.
#[test]
fn foreign_offline_increment_over_an_increment_is_seen() {
    let lab = Lab::up();
    for own_last in [false, true] {
        let shared = Shared::new(&lab);
        let full = shared.point(checkpoint(0));
        shared.foreign("full", &[]);
        shared.write(1);
        if own_last {
            drop(shared.own("inc", &[]))
        } else {
            shared.foreign("inc", &[])
        }
        shared.domain.stop();
        shared.foreign("inc", &[]);
        virtkeep(&[&"verify", &"-n", &"-i", &shared.set]).ends_with(4).says(&["inc.virtnbdbackup.1.data"]);
        let out = lab.fresh_directory().join("out");
        let restore = virtkeep(&[&"restore", &"-n", &"-i", &shared.set, &"-o", &out]);
        assert_ne!(restore.status, 0, "{restore:?}");
        restore.says(&["inc.virtnbdbackup.1.data"]);
        shared.check_points(&[full]);
        shared.domain.remove();
    }
}

/// A disk that was left out is not missing.
#[test]
fn foreign_set_with_disks_left_out_is_whole() {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    let reference = shared.domain.snapshot_reference("vda");
    shared.foreign("full", &["-x", "vdb"]);
    shared.foreign("inc", &["-x", "vdb"]);
    shared.check_unproven();
    let out = lab.fresh_directory().join("out");
    virtkeep(&[&"restore", &"-n", &"-i", &shared.set, &"-o", &out]).succeeds();
    compare(&out.join("d-vda.qcow2"), "qcow2", &reference);
    assert!(!out.join("d-vdb.qcow2").exists());
}

/// Raw disks are verbatim images without a header in its sets.
#[test]
fn foreign_raw_disk_does_not_spoil_the_set() {
    let lab = Lab::up();
    let domain = lab.domain("d", &["vda:48M", "vdb:2M:raw"]);
    let shared = Shared { lab: &lab, domain, set: lab.fresh_directory().join("set") };
    shared.domain.write("vda", 0x61, 0, MIB);
    let reference = shared.domain.snapshot_reference("vda");
    shared.foreign("full", &["--raw"]);
    assert!(shared.set.join("vdb.copy.data").exists());
    shared.foreign("inc", &[]);
    shared.check_unproven();
    let out = lab.fresh_directory().join("out");
    virtkeep(&[&"restore", &"-n", &"-i", &shared.set, &"-o", &out, &"-d", &"vda"]).succeeds();
    compare(&out.join("d-vda.qcow2"), "qcow2", &reference);
}

/// A foreign compressed chain with one thing broken at a time; every one is found and named.
#[test]
fn damaged_foreign_chain_is_refused() {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    shared.foreign("full", &["-z"]);
    for round in 1..=3 {
        shared.change(round);
        shared.foreign("inc", &["-z"]);
    }
    let file = "vda.inc.virtnbdbackup.1.data";
    let whole = fs::read(shared.set.join(file)).unwrap();
    let damages: [(&str, &dyn Fn(&Path)); 7] = [
        ("cut in the middle", &|path| fs::write(path, &whole[..whole.len() / 2]).unwrap()),
        ("cut by a byte", &|path| fs::write(path, &whole[..whole.len() - 1]).unwrap()),
        ("empty", &|path| fs::write(path, b"").unwrap()),
        ("missing", &|path| fs::remove_file(path).unwrap()),
        ("never finished", &|path| fs::rename(path, path.with_extension("data.partial")).unwrap()),
        ("another disk's", &|path| replace(path, "vdb.inc.virtnbdbackup.1.data")),
        ("the next one's", &|path| replace(path, "vda.inc.virtnbdbackup.2.data")),
    ];
    for (name, damage) in damages {
        let set = lab.fresh_directory().join("damaged");
        copy_without_times(&shared.set, &set);
        damage(&set.join(file));
        let verify = virtkeep(&[&"verify", &"-n", &"-i", &set]);
        assert_eq!(verify.status, 4, "{name}: {verify:?}");
        assert!(verify.stderr.contains(file), "{name}: {verify:?}");
        let out = lab.fresh_directory().join("out");
        let restore = virtkeep(&[&"restore", &"-n", &"-i", &set, &"-o", &out]);
        assert_ne!(restore.status, 0, "{name}: {restore:?}");
        assert!(restore.stderr.contains(file), "{name}: {restore:?}");
        assert!(!out.join("d-vda.qcow2").exists(), "{name}");
        // What comes before the damage is whole.
        virtkeep(&[&"restore", &"-n", &"-i", &set, &"-o", &out, &"--force", &"--until", &"virtnbdbackup.0"]).succeeds();
    }
}

fn replace(path: &Path, by: &str) {
    fs::copy(path.with_file_name(by), path).unwrap();
}

/// The newest increment of one disk: the run is not whole, and the other disk must not hide that.
#[test]
fn foreign_run_without_one_of_its_disks_is_not_whole() {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    let full = shared.point(checkpoint(0));
    shared.foreign("full", &[]);
    shared.change(1);
    shared.foreign("inc", &[]);
    let file = shared.set.join("vdb.inc.virtnbdbackup.1.data");
    fs::rename(&file, file.with_extension("data.partial")).unwrap();
    for stage in ["partial", "missing"] {
        virtkeep(&[&"verify", &"-n", &"-i", &shared.set]).ends_with(4).says(&["vdb.inc.virtnbdbackup.1.data"]);
        let out = lab.fresh_directory().join("out");
        let restore = virtkeep(&[&"restore", &"-n", &"-i", &shared.set, &"-o", &out, &"--until", &"virtnbdbackup.1"]);
        assert_ne!(restore.status, 0, "{stage}: {restore:?}");
        assert!(restore.stderr.contains("vdb.inc.virtnbdbackup.1.data"), "{stage}: {restore:?}");
        // The disk that is there can be had.
        virtkeep(&[&"restore", &"-n", &"-i", &shared.set, &"-o", &out, &"-d", &"vda"]).succeeds();
        shared.check_points(std::slice::from_ref(&full));
        let _ = fs::remove_file(file.with_extension("data.partial"));
    }
}

/// LZ4's checksums prove compressed payloads, the structure everything between them.
#[test]
fn every_flipped_bit_of_a_foreign_compressed_payload_is_found() {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    shared.foreign("full", &["-z"]);
    shared.change(1);
    shared.foreign("inc", &["-z"]);
    let path = shared.set.join("vda.inc.virtnbdbackup.1.data");
    let whole = fs::read(&path).unwrap();
    // The meta has no sum: a flipped digit of its date can't be known.
    let start = 40 + whole[40..].windows(2).position(|pair| pair == b"\r\n").unwrap();
    let step = (whole.len() - start).div_ceil(150).max(1) | 1;
    for (count, position) in (start..whole.len()).step_by(step).enumerate() {
        let mut damaged = whole.clone();
        damaged[position] ^= 1 << (count % 8);
        fs::write(&path, damaged).unwrap();
        let verify = virtkeep(&[&"verify", &"-n", &"-i", &shared.set]);
        assert_eq!(verify.status, 4, "byte {position}: {verify:?}");
        assert!(verify.stderr.contains("vda.inc.virtnbdbackup.1.data"), "byte {position}: {verify:?}");
    }
}
