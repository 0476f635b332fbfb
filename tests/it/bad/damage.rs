//! Damaged sets: whatever byte is flipped and whatever file is missing, `verify` finds it and
//! `restore` never passes it on.

use std::path::{Path, PathBuf};

use crate::support::{Case, KIB, Lab, MIB, Random, Run, compare, copy_of, files, listing, virtkeep};

/// Places in every file at which a bit is flipped, besides its first and its last byte.
const FLIPS: u64 = 4;

/// A full, an inc and a diff of two disks, one of them compressed, and what the newest point holds.
struct Set {
    set: PathBuf,
    references: Vec<PathBuf>,
}

fn make(lab: &Lab) -> Set {
    let case = Case::new(lab, "d", &["sda:3M", "sdaa:2M"]);
    let disks = &["sda", "sdaa"];
    case.domain.write("sda", 0xaa, 0, MIB);
    case.domain.write("sdaa", 0xba, 64 * KIB, 512 * KIB);
    case.backup(&[]).succeeds();
    case.domain.write("sda", 0xab, 512 * KIB, 256 * KIB);
    case.domain.write_zeroes("sdaa", 128 * KIB, 64 * KIB, true);
    case.backup(&["-z", "-l", "inc"]).succeeds();
    case.domain.write("sda", 0xac, 2 * MIB, 64 * KIB);
    case.backup(&["-l", "diff"]).succeeds();
    let references = case.domain.snapshot_references(disks);
    case.restores(&[], disks, &references);
    Set { set: case.set.clone(), references }
}

fn verify(set: &Path) -> Run {
    virtkeep(&[&"verify", &"-n", &"-i", &set])
}

/// Fails the test unless the damage in `file` is found, by its name.
#[track_caller]
fn is_found(set: &Path, file: &Path, what: &str) {
    let run = verify(set);
    let said = format!("{what} in {}: {}\n{}", file.display(), run.stdout, run.stderr);
    assert_eq!(run.status, 4, "{said}");
    assert!(run.stderr.contains(file.file_name().unwrap().to_str().unwrap()), "the file is not named: {said}");
    assert!(run.stdout.contains("DAMAGED"), "{said}");
}

#[test]
fn every_damage_is_found() {
    let lab = Lab::up();
    let good = make(&lab);
    let all = files(&good.set);
    assert!(all.len() > 20, "{all:?}");
    let mut random = Random::new(std::process::id().into());
    let set = lab.fresh_directory();
    copy_of(&good.set, &set);
    for file in &all {
        let path = set.join(file);
        let content = std::fs::read(&path).unwrap();
        // A log of a run is sealed as well.
        assert!(!content.is_empty(), "{}", file.display());
        let length = content.len() as u64;
        let random_places = (0..FLIPS).map(|_| random.below(length)).collect::<Vec<_>>();
        for place in random_places.into_iter().chain([0, length - 1]) {
            let mut damaged = content.clone();
            let bit = random.below(8);
            damaged[place as usize] ^= 1 << bit;
            std::fs::write(&path, damaged).unwrap();
            is_found(&set, file, &format!("flipped bit {bit} at {place}"));
        }
        for length in [0, 1, random.below(length), length - 1] {
            std::fs::write(&path, &content[..length as usize]).unwrap();
            is_found(&set, file, &format!("cut at {length}"));
        }
        std::fs::write(&path, [&content[..], b"x"].concat()).unwrap();
        is_found(&set, file, "a byte too many");
        std::fs::remove_file(&path).unwrap();
        is_found(&set, file, "absence");
        std::fs::write(&path, &content).unwrap();
    }
    verify(&set).succeeds();
}

#[test]
fn swapped_files_are_found() {
    let lab = Lab::up();
    let good = make(&lab);
    let set = lab.fresh_directory();
    let streams: Vec<PathBuf> =
        files(&good.set).into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "data")).collect();
    assert_eq!(streams.len(), 6, "{streams:?}");
    for (index, one) in streams.iter().enumerate() {
        for other in &streams[..index] {
            copy_of(&good.set, &set);
            std::fs::copy(good.set.join(one), set.join(other)).unwrap();
            std::fs::copy(good.set.join(other), set.join(one)).unwrap();
            is_found(&set, one, "a swap");
            is_found(&set, other, "a swap");
            is_refused(&lab, &set, &[]);
        }
    }
}

/// Fails the test unless restoring ends with status 4 and nothing that looks finished.
#[track_caller]
fn is_refused(lab: &Lab, set: &Path, options: &[&str]) {
    let out = lab.fresh_directory();
    let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"restore", &"-n", &"-D", &"-U", &"test:///default"];
    arguments.extend([&"-i" as &dyn AsRef<std::ffi::OsStr>, &set, &"-o", &out]);
    arguments.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
    let run = virtkeep(&arguments).ends_with(4);
    let left = listing(&out);
    assert!(left.iter().all(|name| name.ends_with(".partial")), "{left:?} after {}", run.stderr);
    std::fs::remove_dir_all(out).unwrap();
}

#[test]
fn damage_that_is_used_is_never_restored() {
    let lab = Lab::up();
    let good = make(&lab);
    let set = lab.fresh_directory();
    let mut random = Random::new(std::process::id().into());
    for file in files(&good.set) {
        let name = file.to_str().unwrap().to_owned();
        if !name.ends_with(".data") {
            continue;
        }
        let content = std::fs::read(good.set.join(&file)).unwrap();
        for _ in 0..8 {
            copy_of(&good.set, &set);
            let place = random.below(content.len() as u64) as usize;
            let mut damaged = content.clone();
            damaged[place] ^= 1 << random.below(8);
            std::fs::write(set.join(&file), damaged).unwrap();
            is_right_or_refused(&lab, &good, &set, &format!("{name}: bit at {place}"));
        }
    }
    // The whole of these streams is in use: a flip in any data byte is enough.
    for (disk, name) in [("sda", "sda.full.data"), ("sda", "sda.inc.virtnbdbackup.1.data")] {
        copy_of(&good.set, &set);
        let path = set.join(name);
        let mut content = std::fs::read(&path).unwrap();
        let place = content.len() / 4;
        content[place] ^= 1;
        std::fs::write(&path, content).unwrap();
        is_refused(&lab, &set, &["-d", disk]);
        let out = lab.fresh_directory();
        let run = virtkeep(&[&"restore", &"-n", &"-i", &set, &"-o", &out, &"-d", &disk]).ends_with(4);
        run.says(&[disk, name]);
    }
}

/// Restores; what comes out is the reference or an error, nothing between.
#[track_caller]
fn is_right_or_refused(lab: &Lab, good: &Set, set: &Path, what: &str) {
    let out = lab.fresh_directory();
    let run = virtkeep(&[&"restore", &"-n", &"-i", &set, &"-o", &out]);
    if run.status == 0 {
        for (disk, reference) in ["sda", "sdaa"].iter().zip(&good.references) {
            compare(&out.join(format!("d-{disk}.qcow2")), "qcow2", reference);
        }
    } else {
        assert_eq!(run.status, 4, "{what}: {}", run.stderr);
        let left = listing(&out);
        assert!(left.iter().all(|name| name.ends_with(".partial")), "{what}: {left:?}: {}", run.stderr);
    }
    std::fs::remove_dir_all(out).unwrap();
}

#[test]
fn damage_never_makes_an_older_point_the_newest() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:2M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let reference = case.domain.snapshot_reference("vda");
    case.backup(&[]).succeeds();
    case.domain.write("vda", 0xab, 0, MIB);
    case.backup(&[]).succeeds();
    let manifest = files(&case.set).into_iter().find(|file| {
        let text = std::fs::read_to_string(case.set.join(file)).unwrap_or_default();
        file.to_string_lossy().starts_with("manifest.") && text.contains("\"checkpoint\":\"virtnbdbackup.1\"")
    });
    let manifest = case.set.join(manifest.unwrap());
    let text = std::fs::read(&manifest).unwrap();
    for damage in [None, Some(&text[1..])] {
        match damage {
            None => std::fs::remove_file(&manifest).unwrap(),
            Some(damage) => std::fs::write(&manifest, damage).unwrap(),
        }
        is_refused(&lab, &case.set, &[]);
        is_refused(&lab, &case.set, &["-u", "2999-12-31"]);
        let out = lab.fresh_directory();
        let run = virtkeep(&[&"restore", &"-n", &"-i", &case.set, &"-o", &out]).ends_with(4);
        run.says(&[manifest.file_name().unwrap().to_str().unwrap(), "hint: ", "--until"]);
        // A point that is named is that point.
        virtkeep(&[&"restore", &"-n", &"-i", &case.set, &"-o", &out, &"-u", &"virtnbdbackup.0"]).succeeds();
        compare(&out.join("d-vda.qcow2"), "qcow2", &reference);
        case.backup(&[]).ends_with(4).says(&["damaged", "hint: ", "verify"]);
        case.no_traces();
    }
}

#[test]
fn gaps_in_a_chain_are_found() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let mut references = Vec::new();
    for round in 0..4 {
        case.domain.write("vda", 0xa0 + round, u64::from(round) * MIB, 256 * KIB);
        references.push(case.domain.snapshot_reference("vda"));
        case.backup(&[]).succeeds();
    }
    let set = lab.fresh_directory();
    copy_of(&case.set, &set);
    std::fs::remove_file(set.join("vda.inc.virtnbdbackup.2.data")).unwrap();
    is_found(&set, Path::new("vda.inc.virtnbdbackup.2.data"), "absence");
    is_refused(&lab, &set, &[]);
    is_refused(&lab, &set, &["-u", "virtnbdbackup.2"]);
    // What lies before the gap is whole.
    let out = lab.fresh_directory();
    virtkeep(&[&"restore", &"-n", &"-i", &set, &"-o", &out, &"-u", &"virtnbdbackup.1"]).succeeds();
    compare(&out.join("d-vda.qcow2"), "qcow2", &references[1]);
    // Nothing is built on a broken chain.
    let refused = case.backup_to(&set, &["-l", "inc"]);
    refused.ends_with(4).says(&["vda.inc.virtnbdbackup.2.data", "missing", "hint: ", "verify", "-l full"]);

    // The run is gone with its manifest: its successor must not be taken for its child's.
    copy_of(&case.set, &set);
    for file in files(&set) {
        let text = std::fs::read(set.join(&file)).unwrap();
        let name = file.to_str().unwrap();
        let manifest_of_2 = name.starts_with("manifest.")
            && String::from_utf8_lossy(&text).contains("\"checkpoint\":\"virtnbdbackup.2\"");
        if manifest_of_2 || name == "vda.inc.virtnbdbackup.2.data" {
            std::fs::remove_file(set.join(&file)).unwrap();
        }
    }
    is_found(&set, &set.clone(), "a run without its parent");
    is_refused(&lab, &set, &[]);
    let dump = virtkeep(&[&"dump", &"-i", &set]);
    assert!(dump.stdout.contains("BROKEN CHAIN"), "{}", dump.stdout);
}
