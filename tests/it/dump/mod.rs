//! `virtkeep dump` as pictures: what is drawn is compared with what was written.

mod picture;

use std::ops::Range;
use std::path::Path;
use std::process::Command;

use crate::support::{CACHE, CONFIG, Case, KIB, Lab, MIB, Operation, program, virtkeep};

/// Clusters of the images, and so the least that a bitmap knows.
const CLUSTER: u64 = 64 * KIB;

/// What a run has of the disk.
#[derive(Debug, Clone, Default)]
struct Known {
    /// As the guest wrote it, in whole clusters.
    data: Vec<Range<u64>>,
    zero: Vec<Range<u64>>,
    /// Of the disk at that time.
    size: u64,
}

/// Eighths of data; 0 for zeroes, none for unchanged.
type Look = Option<u64>;

impl Known {
    /// How a cell must look; none where the disk did not reach so far.
    fn look(&self, cell: Range<u64>) -> Option<Look> {
        let cell = cell.start..cell.end.min(self.size);
        if cell.is_empty() {
            return None;
        }
        let within = |ranges: &[Range<u64>]| -> u64 {
            ranges.iter().map(|range| range.end.min(cell.end).saturating_sub(range.start.max(cell.start))).sum()
        };
        let eighths = (within(&self.data) * 8).div_ceil(cell.end - cell.start);
        Some(match (eighths, within(&self.zero)) {
            (0, 0) => None,
            (0, _) => Some(0),
            (eighths, _) => Some(eighths),
        })
    }
}

/// A full, an increment and a differential, and what they hold of disk vda.
fn chain<'lab>(lab: &'lab Lab, name: &str) -> (Case<'lab>, Vec<Known>) {
    let case = Case::new(lab, name, &["vda:24M", "vdb:1M"]);
    let clusters = |list: &[(u64, u64)]| -> Vec<Range<u64>> {
        list.iter()
            .map(|(offset, length)| offset / CLUSTER * CLUSTER..(offset + length).next_multiple_of(CLUSTER))
            .collect()
    };
    let write = |list: &[(u64, u64)]| {
        let writes = list.iter().map(|&(offset, length)| Operation::Write { pattern: 0xa5, offset, length });
        case.domain.apply("vda", &writes.collect::<Vec<_>>());
    };
    let mut known = Vec::new();
    // Data up to whole clusters reads as zero behind what was written: the full leaves out what is zero.
    let first = [(0, 3 * MIB), (10 * MIB, MIB), (20 * MIB, 2 * CLUSTER)];
    write(&first);
    case.backup(&["-l", "full"]).succeeds();
    let all = 0..24 * MIB;
    known.push(Known { data: clusters(&first), zero: vec![all], size: 24 * MIB });
    let second = [(MIB, 512), (5 * MIB, 2 * MIB), (23 * MIB + 512 * KIB, 512 * KIB)];
    write(&second);
    case.domain.write_zeroes("vda", 2 * MIB, MIB, false);
    case.backup(&["-l", "inc"]).succeeds();
    known.push(Known { data: clusters(&second), zero: clusters(&[(2 * MIB, MIB)]), size: 24 * MIB });
    lab.virsh(&[&"blockresize", &case.domain.name(), &"vda", &"32M"]);
    write(&[(30 * MIB, MIB)]);
    case.backup(&["-l", "diff"]).succeeds();
    // A disk that has grown is made full: all that was ever written.
    let all = [
        (0, 2 * MIB),
        (5 * MIB, 2 * MIB),
        (10 * MIB, MIB),
        (20 * MIB, 2 * CLUSTER),
        (23 * MIB + 512 * KIB, 512 * KIB),
        (30 * MIB, MIB),
    ];
    known.push(Known { data: clusters(&all), zero: clusters(&[(0, 32 * MIB)]), size: 32 * MIB });
    (case, known)
}

/// `dump` with these columns, in a terminal or not as ours is: not.
fn dump(columns: &str, set: &Path, options: &[&str]) -> String {
    let output = Command::new(program())
        .args(["dump", "-i"])
        .arg(set)
        .args(options)
        .env("COLUMNS", columns)
        .env(CACHE.0, CACHE.1)
        .env(CONFIG.0, CONFIG.1)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn look(sign: char) -> Option<Look> {
    match sign {
        '░' => Some(Some(0)),
        '·' => Some(None),
        ' ' => None,
        sign => Some(Some("▁▂▃▄▅▆▇█".chars().position(|known| known == sign).unwrap() as u64 + 1)),
    }
}

#[test]
fn a_map_shows_what_each_run_changed() {
    let lab = Lab::up();
    let (case, known) = chain(&lab, "web");
    for columns in [20, 37, 80, 200] {
        let text = dump(&columns.to_string(), &case.set, &["--map", "--bytes", "-d", "vda"]);
        assert!(!text.contains('\x1b'), "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= columns, "{columns}: {line}");
        }
        let head = text.split_once("├").unwrap().0.replace('\n', " ");
        assert!(head.starts_with("vda  33554432 B, a column is "), "{text}");
        let cell = head.split("a column is ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap();
        let ids: Vec<String> = ids(&case.set);
        for (id, known) in ids.iter().zip(&known) {
            let row = text.lines().find(|line| line.starts_with(&id[..8])).unwrap_or_else(|| panic!("{id}: {text}"));
            // Behind the names, whose width is that of the ruler's margin.
            let ruler = text.lines().find(|line| line.trim_start().starts_with('├')).unwrap();
            let margin = ruler.chars().take_while(|sign| *sign == ' ').count();
            let drawn: Vec<char> = row.chars().skip(margin).collect();
            for column in 0..(32 * MIB).div_ceil(cell) {
                let range = column * cell..((column + 1) * cell).min(32 * MIB);
                let sign = drawn.get(column as usize).copied().unwrap_or(' ');
                assert_eq!(look(sign), known.look(range), "{columns} columns, run {id}, column {column}:\n{text}");
            }
        }
    }
    // All of it in a pipe, and in a zip file; the disk that nobody wrote to is there, too.
    let text = virtkeep(&[&"dump", &"-i", &case.set, &"--map"]).succeeds().stdout;
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("vdb  1.0 MiB") && text.contains("blank: the disk was smaller"), "{text}");
    virtkeep(&[&"dump", &"-i", &case.set, &"--map", &"-d", &"vdz"]).ends_with(1).says(&["vdz", "there are vda, vdb"]);
    picture::shows(&case, &known);
    tree(&case);
    documented(&case);

    // A stream that is damaged costs its own row.
    let file = std::fs::read_dir(&case.set).unwrap().map(|entry| entry.unwrap().path());
    let diff = file
        .into_iter()
        .find(|path| path.to_string_lossy().contains("vda.diff") && path.extension().unwrap() == "data");
    std::fs::write(diff.unwrap(), "no stream").unwrap();
    let damaged = virtkeep(&[&"dump", &"-i", &case.set, &"--map"]).ends_with(4).says(&["vda"]);
    assert!(damaged.stdout.contains("(DAMAGED)") && damaged.stdout.contains('█'), "{}", damaged.stdout);
}

/// docs/dump.md shows what the program shows: names and times of the example's runs in place of ours. With
/// VIRTKEEP_WRITE_DOCS the picture is written anew.
fn documented(case: &Case<'_>) {
    let as_documented = |text: &str| {
        let mut text = text.replace(case.set.to_str().unwrap(), "/backup/web");
        let days =
            [("30d39ca9", "2026-11-20 02:00"), ("0e68275e", "2026-11-21 02:00"), ("77aa0b1c", "2026-11-21 14:00")];
        for (id, (name, time)) in ids(&case.set).iter().zip(days) {
            text = text.replace(&id[..8], name);
            let lines: Vec<String> =
                text.lines().map(|line| if line.contains(name) { at(line, time) } else { line.into() }).collect();
            text = lines.join("\n") + "\n";
        }
        text
    };
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
    let page = std::fs::read_to_string(format!("{root}/dump.md")).unwrap();
    for options in [&["--map", "-d", "vda"][..], &["--tree"]] {
        let text = as_documented(&dump("80", &case.set, options));
        assert!(page.contains(&text), "docs/dump.md does not have this:\n{text}");
    }
    let picture = as_documented(&dump("80", &case.set, &["--svg", "-", "-d", "vda"]));
    let file = format!("{root}/dump.svg");
    if std::env::var_os("VIRTKEEP_WRITE_DOCS").is_some() {
        std::fs::write(&file, &picture).unwrap();
    }
    let known = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(known == picture, "{file} is old: run this test with VIRTKEEP_WRITE_DOCS=1");
}

/// The line with another time in it.
fn at(line: &str, time: &str) -> String {
    let is_time = |text: &str| {
        text.chars()
            .zip(time.chars())
            .all(|(one, other)| one == other || (one.is_ascii_digit() && other.is_ascii_digit()))
    };
    let found = line
        .char_indices()
        .map(|(place, _)| place)
        .find(|&place| line.get(place..place + time.len()).is_some_and(is_time));
    found.map_or(line.to_owned(), |place| format!("{}{time}{}", &line[..place], &line[place + time.len()..]))
}

/// A set of virtnbdbackup in zip files; what was written stands in the fixture's make.sh.
#[test]
fn sets_of_virtnbdbackup_are_drawn() {
    let zips = ["full", "inc1", "inc2"].map(|name| format!("tests/fixtures/zip-2.53/{name}.zip")).join(",");
    let disk = |target: &str, size: u64, runs: [&[(u64, u64)]; 3]| {
        let text = dump("66", Path::new(&zips), &["--map", "--bytes", "-d", target]);
        let cell = text.split("a column is ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap();
        for (number, written) in runs.into_iter().enumerate() {
            let data = written.iter().map(|(offset, length)| *offset..offset + length).collect();
            let whole = 0..size;
            let zero = if number == 0 { vec![whole] } else { vec![] };
            let known = Known { data, zero, size };
            let row = text.lines().find(|line| line.starts_with(&format!("virtnbdbackup.{number} "))).unwrap();
            let drawn: Vec<Option<Look>> = row.chars().skip("virtnbdbackup.0 full ".len()).map(look).collect();
            let expected = (0..size.div_ceil(cell)).map(|n| known.look(n * cell..((n + 1) * cell).min(size)));
            assert_eq!(drawn, expected.collect::<Vec<_>>(), "{target}, run {number}:\n{text}");
        }
    };
    disk("vda", 1 << 20, [&[(0, 8192), (524_288, 4096)], &[(4096, 8192)], &[(1_044_480, 4096)]]);
    disk("vdb", 262_656, [&[(4096, 4096)], &[], &[(262_144, 512)]]);
    let text = dump("80", Path::new(&zips), &["--tree"]);
    assert!(
        text.starts_with("zipped: ") && text.contains("\n┌ virtnbdbackup.0 ") && text.contains("\n└ virtnbdbackup.2 "),
        "{text}"
    );
}

/// The runs' ids, as JSON tells them.
fn ids(set: &Path) -> Vec<String> {
    let json = virtkeep(&[&"dump", &"-i", &set, &"--json"]).succeeds().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    json["restore_points"].as_array().unwrap().iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect()
}

fn tree(case: &Case<'_>) {
    for columns in [24, 60, 100] {
        let text = dump(&columns.to_string(), &case.set, &["--tree"]);
        assert!(text.lines().all(|line| line.chars().count() <= columns), "{columns}: {text}");
        assert!(text.starts_with(case.domain.name()), "{text}");
        let heads: Vec<String> = text.lines().skip(1).map(|line| line.chars().take(4).collect()).collect();
        let ids = ids(&case.set);
        // The differential stands beside the increment that it builds on.
        for (head, sign) in heads.iter().zip(["┌ ", "└ ", "  └ "]) {
            assert!(head.starts_with(sign), "{text}");
        }
        for (line, id) in text.lines().skip(1).zip(&ids) {
            assert!(line.contains(&id[..8]), "{text}");
        }
    }
    // The longest bar is the largest file's, and fills its place.
    let text = dump("100", &case.set, &["--tree"]);
    let bars: Vec<usize> = text.lines().skip(1).map(|line| line.matches('█').count()).collect();
    assert!(bars[2] > bars[0] && bars[0] > bars[1], "{text}");
    let full = text.lines().nth(3).unwrap();
    assert_eq!(full.chars().count(), 100, "{text}");
}
