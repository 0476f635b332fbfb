//! What virtnbdbackup wrote, restored by virtkeep.

use super::{MIB, Point, Shared, checkpoint, copy_without_times};
use crate::support::{Lab, compare, virtkeep};

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
    check_cached(&shared);
    shared.check_points(&points);
    let copied = lab.fresh_directory().join("kept elsewhere");
    copy_without_times(&shared.set, &copied);
    shared.check_own(&copied, points.last().unwrap());
    shared.check_own(&copied, &points[3]);
}

/// The second time the streams are not read as a whole, and the verdict is the same.
fn check_cached(shared: &Shared<'_>) {
    let cache = shared.lab.fresh_directory();
    let deep = || virtkeep(&[&"verify", &"-n", &"--deep", &"-i", &shared.set, &"--cache-dir", &cache]).succeeds();
    let (first, second) = (deep(), deep());
    assert_eq!(first.stderr.matches("once, which have no index").count(), 10, "{}", first.stderr);
    assert!(!second.stderr.contains("no index"), "{}", second.stderr);
    // As in `check_unproven`: this version may write no sums.
    let verdict = |run: &crate::support::Run| run.stdout.split(" in ").next().unwrap().to_owned();
    assert!(verdict(&first).starts_with("OK"), "{}{}", first.stdout, first.stderr);
    assert!(verdict(&first).contains(": 5 restore points with 265.0 MiB of 10 images"), "{}", first.stdout);
    assert_eq!(verdict(&first), verdict(&second));
    // The bitmaps are as good as those of virtkeep's own runs.
    let (uri, scratch) = (shared.lab.uri(), shared.lab.scratch());
    let live: [&dyn AsRef<std::ffi::OsStr>; 8] =
        [&"verify", &"-n", &"--against-live", &"-i", &shared.set, &"--cache-dir", &cache, &"-U"];
    let live: Vec<_> = live.into_iter().chain([&uri as &dyn AsRef<_>, &"--scratchdir", &scratch]).collect();
    let live = virtkeep(&live).succeeds();
    assert!(live.stdout.starts_with("OK: identical"), "{}{}", live.stdout, live.stderr);
    let map =
        [&"map" as &dyn AsRef<std::ffi::OsStr>, &"-n", &"-i", &shared.set, &"--cache-dir", &cache, &"-e", &"true"];
    let mapped = virtkeep(&map).succeeds();
    assert!(!mapped.stderr.contains("no index"), "{}", mapped.stderr);
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
