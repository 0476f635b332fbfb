//! The corpus of the fuzz targets, and whatever they found, as a normal test.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::{Path, PathBuf};

/// The inputs of a target, sorted.
fn inputs(target: &str) -> Vec<PathBuf> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let mut paths = Vec::new();
    for folder in ["corpus", "findings"] {
        for entry in std::fs::read_dir(fuzz.join(folder).join(target)).into_iter().flatten() {
            paths.push(entry.unwrap().path());
        }
    }
    paths.sort();
    paths
}

/// Every input, and what is left of it when it is cut or a byte is changed.
#[track_caller]
fn stands(target: &str, check: fn(&[u8])) {
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "no corpus for {target}");
    for path in inputs {
        let bytes = std::fs::read(&path).unwrap();
        let check = |bytes: &[u8], what: &str| {
            let result = std::panic::catch_unwind(|| check(bytes));
            assert!(result.is_ok(), "{target}: {}{what}", path.display());
        };
        check(&bytes, "");
        let step = (bytes.len() / 50).max(1);
        for place in (0..bytes.len()).step_by(step) {
            check(&bytes[..place], &format!(", cut at {place}"));
            let mut changed = bytes.clone();
            changed[place] ^= 1 << (place % 8);
            check(&changed, &format!(", byte {place} changed"));
        }
    }
}

#[test]
fn streams_of_the_corpus() {
    stands("stream", checks::stream);
    stands("stream_sealed", checks::stream_sealed);
    stands("raw_index", checks::raw_index);
}

#[test]
fn sets_of_the_corpus() {
    stands("manifest", checks::manifest);
    stands("intent", checks::intent);
    stands("meta", checks::meta);
}

#[test]
fn xml_of_the_corpus() {
    stands("domain_xml", checks::domain_xml);
    stands("checkpoint_xml", checks::checkpoint_xml);
}

#[test]
fn clients_of_the_corpus() {
    stands("nbd_server", checks::nbd_server);
}

/// A target that nobody calls here would not be replayed.
#[test]
fn all_targets_are_replayed() {
    let manifest = include_str!("../fuzz/Cargo.toml");
    let mut targets: Vec<&str> =
        manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")).collect();
    targets.sort_unstable();
    let known = [
        "checkpoint_xml",
        "domain_xml",
        "intent",
        "manifest",
        "meta",
        "nbd_server",
        "raw_index",
        "stream",
        "stream_sealed",
    ];
    assert_eq!(targets, known.map(|name| format!("{name}.rs\"")));
}
