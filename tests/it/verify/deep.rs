//! `--deep` says of every restore point what a restore of it would say.

use std::path::{Path, PathBuf};

use serde_json::Value;
use virtkeep::set::manifest::Manifest;
use virtkeep::stream::reader::StreamReader;

use crate::support::{Case, KIB, Lab, MIB, Random, Run, compare, copy_of, files, virtkeep};

/// Restore points of two disks, and what each disk held.
struct Set {
    set: PathBuf,
    points: Vec<Vec<PathBuf>>,
}

const DISKS: [&str; 2] = ["sda", "vda"];

/// A full, two incs, the second compressed, and a diff; blocks are overwritten, in part and as a whole, and zeroed;
/// a disk shrinks and grows.
fn make(lab: &Lab) -> Set {
    let case = Case::new(lab, "d", &["vda:6M", "sda:3M"]);
    let mut points = Vec::new();
    let mut back_up = |options: &[&str]| {
        points.push(case.domain.snapshot_references(&DISKS));
        case.backup(options).succeeds();
    };
    case.domain.write("vda", 0xaa, 0, 4 * MIB);
    case.domain.write("sda", 0xba, 64 * KIB, 2 * MIB);
    back_up(&[]);
    case.domain.write("vda", 0xab, MIB, MIB);
    case.domain.write("vda", 0xac, 2 * MIB + 4 * KIB, 64 * KIB);
    back_up(&[]);
    case.domain.write_zeroes("vda", 2 * MIB, MIB, true);
    for size in ["1M", "3M"] {
        case.lab.virsh(&[&"blockresize", &"d", &"sda", &size]);
    }
    case.domain.write("sda", 0xbb, 2 * MIB, 192 * KIB);
    back_up(&["-z"]);
    case.lab.virsh(&[&"blockresize", &"d", &"vda", &"7M"]);
    case.domain.write("vda", 0xad, 5 * MIB + 512 * KIB, 128 * KIB);
    back_up(&["-l", "diff"]);
    Set { set: case.set.clone(), points }
}

fn deep(set: &Path, options: &[&str]) -> Run {
    let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"verify", &"-n", &"--deep", &"-i", &set];
    arguments.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
    virtkeep(&arguments)
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr))
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Whether a restore of `point` gives what the disks held; anything but that or status 4 fails the test.
fn is_restored(lab: &Lab, set: &Path, point: &str, references: &[PathBuf]) -> bool {
    let out = lab.fresh_directory();
    let restored = virtkeep(&[&"restore", &"-n", &"-i", &set, &"-o", &out, &"-u", &point]);
    if restored.status == 0 {
        for (disk, reference) in DISKS.iter().zip(references) {
            compare(&out.join(format!("d-{disk}.qcow2")), "qcow2", reference);
        }
    } else {
        assert_eq!(restored.status, 4, "{}", restored.stderr);
    }
    std::fs::remove_dir_all(out).unwrap();
    restored.status == 0
}

fn flip(path: &Path, position: u64) {
    let mut content = std::fs::read(path).unwrap();
    content[position as usize] ^= 1;
    std::fs::write(path, content).unwrap();
}

/// Where byte `offset` of the disk stands in a stream.
fn position(stream: &Path, offset: u64) -> u64 {
    let reader = StreamReader::open(stream).unwrap();
    let piece = reader.frames().iter().find(|piece| piece.range().contains(&offset)).unwrap();
    piece.position + (offset - piece.offset)
}

#[test]
fn every_point_is_as_a_restore_finds_it() {
    let lab = Lab::up();
    let good = make(&lab);
    let whole = deep(&good.set, &["--json"]).succeeds();
    let found = json(&whole);
    let ids = texts(&found["restore_points"]);
    assert_eq!((ids.len(), texts(&found["whole"])), (4, ids.clone()));
    assert_eq!(found["verdict"], "ok");
    let streams: Vec<PathBuf> =
        files(&good.set).into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "data")).collect();
    let data: u64 =
        streams.iter().map(|file| StreamReader::open(good.set.join(file).as_path()).unwrap().meta().data_size).sum();
    assert_eq!(found["content"]["read_bytes"].as_u64(), Some(data), "each byte once: {found}");
    assert_eq!(found["content"]["bytes"].as_u64(), Some((6 + 6 + 6 + 7 + 4 * 3) * MIB), "{found}");
    let said = deep(&good.set, &[]).succeeds().stdout;
    assert!(said.contains("OK: all content is proven: 4 restore points with 37.0 MiB of 8 images"), "{said}");

    // A block of the full that the second point overwrites: the first point alone is damaged.
    let set = lab.fresh_directory();
    let damage = |file: &str, place: &dyn Fn(&Path) -> u64| {
        copy_of(&good.set, &set);
        let path = set.join(file);
        let place = place(&path);
        flip(&path, place);
        deep(&set, &["--json"]).ends_with(4)
    };
    let run = damage("vda.full.data", &|path| position(path, MIB + 17));
    let run = run.says(&["vda.full.data", "disk vda", "guest range: bytes 1048576 to 2097152", &ids[0]]);
    let found = json(&run);
    assert_eq!(texts(&found["whole"]), ids[1..]);
    assert_eq!(found["damage"][0]["guest_range"], serde_json::json!([MIB, 2 * MIB]));
    assert_eq!(texts(&found["damage"][0]["restore_points"]), ids[..1]);
    deep(&set, &["-u", &ids[1]]).succeeds();
    deep(&set, &["--disk", "sda"]).succeeds();
    deep(&set, &["-u", &ids[0], "--disk", "vda"]).ends_with(4);
    deep(&set, &["--disk", "vdx"]).ends_with(1).says(&["vdx", "hint: there are sda, vda"]);
    // One that all points show which are built on it: the last is a full of its own.
    let found = json(&damage("vda.full.data", &|path| position(path, 3 * MIB)));
    assert_eq!(texts(&found["whole"]), ids[3..]);
    // One that the increment brought.
    let found = json(&damage("vda.inc.virtnbdbackup.1.data", &|path| position(path, MIB)));
    assert_eq!(texts(&found["whole"]), [ids[0].clone(), ids[3].clone()]);

    // Any place: the same verdict as that of a restore, point by point.
    let mut random = Random::new(std::process::id().into());
    for file in &streams {
        copy_of(&good.set, &set);
        let path = set.join(file);
        let place = random.below(path.metadata().unwrap().len());
        flip(&path, place);
        let found = deep(&set, &["--json"]);
        let whole = texts(&json(&found)["whole"]);
        for (id, references) in ids.iter().zip(&good.points) {
            let restored = is_restored(&lab, &set, id, references);
            let said = format!("bit at {place} of {}: {}{}", file.display(), found.stdout, found.stderr);
            assert_eq!(whole.contains(id), restored, "point {id}: {said}");
        }
        assert_eq!(found.status == 0, whole.len() == ids.len());
    }
    // A missing file, and one that was cut.
    for cut in [true, false] {
        copy_of(&good.set, &set);
        let path = set.join("vda.inc.virtnbdbackup.1.data");
        match cut {
            true => std::fs::File::options().write(true).open(&path).unwrap().set_len(5000).unwrap(),
            false => std::fs::remove_file(&path).unwrap(),
        }
        let run = deep(&set, &["--json"]).ends_with(4).says(&["vda.inc.virtnbdbackup.1.data"]);
        assert_eq!(texts(&json(&run)["whole"]), [ids[0].clone(), ids[3].clone()]);
    }
}

/// An index that was made anew with a wrong entry is whole in itself: what it leads to tells.
#[test]
fn a_wrong_index_is_found_by_the_content() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, 3 * MIB);
    case.backup(&[]).succeeds();
    let path = case.set.join("vda.full.data");
    let mut stream = std::fs::read(&path).unwrap();
    let end = stream.len() - 42;
    let length = usize::from_str_radix(std::str::from_utf8(&stream[end + 24..end + 40]).unwrap(), 16).unwrap();
    let index = end - length..end;
    // The last digest: that of the guest's third MiB.
    stream[index.end - 33] ^= 1;
    let seal = blake3::hash(&stream[index.start..index.end - 32]);
    stream[index.end - 32..index.end].copy_from_slice(seal.as_bytes());
    std::fs::write(&path, stream).unwrap();
    let manifest = files(&case.set).into_iter().find(|file| file.to_string_lossy().starts_with("manifest.")).unwrap();
    let manifest = case.set.join(manifest);
    let mut record = Manifest::read(manifest.as_path()).unwrap();
    record.disks[0].index_digest = seal.to_hex().to_string();
    std::fs::write(&manifest, record.encode().unwrap()).unwrap();
    let words = ["disk vda", "vda.full.data", "does not match its digest", "bytes 2097152 to 3145728"];
    let run = deep(&case.set, &[]).ends_with(4).says(&words);
    assert_eq!(run.stderr.matches("damage: ").count(), 1, "{}", run.stderr);
}
