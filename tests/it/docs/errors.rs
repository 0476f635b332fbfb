//! The page of errors has every hint of the program, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use virtkeep::cli::errors;

use super::sources::{hints, literals, normal, sources};

/// Where the hint of another process of ours is passed on.
const PASSED_ON: [&str; 1] = ["commands/map/boot/request.rs"];

#[test]
fn the_page_of_errors_is_current_and_has_every_hint() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources(&root.join("src"));
    let table = errors::table().unwrap();
    let remedies = || table.iter().flat_map(|(_, remedies)| remedies);
    let known: BTreeSet<String> = remedies().map(|remedy| normal(remedy.hint)).collect();
    let mut given = BTreeSet::new();
    let mut missing = Vec::new();
    for (file, texts) in hints(&sources) {
        if texts.is_err() && PASSED_ON.iter().any(|passed| file.ends_with(passed)) {
            continue;
        }
        let texts = texts.unwrap_or_else(|argument| panic!("{}: no text is found for {argument}", file.display()));
        for text in texts {
            let text = normal(&text);
            if !known.contains(&text) {
                missing.push(format!("{}: {text}", file.display()));
            }
            given.insert(text);
        }
    }
    assert!(given.len() > 200, "{given:?}");
    assert!(missing.is_empty(), "not in src/cli/errors/*.txt:\n{}", missing.join("\n"));
    let gone: Vec<&String> = known.difference(&given).collect();
    assert!(gone.is_empty(), "no such hint is given any more: {gone:#?}");

    // What the page says that the program says, it says.
    let said: BTreeSet<String> =
        sources.iter().flat_map(|source| literals(&source.text)).map(|text| normal(&text)).collect();
    let wrong: Vec<&str> =
        remedies().flat_map(|remedy| &remedy.says).copied().filter(|says| !said.contains(&normal(says))).collect();
    assert!(wrong.is_empty(), "nothing says so: {wrong:#?}");

    let page = std::fs::read_to_string(root.join("docs/errors.md")).unwrap_or_default();
    assert!(page == errors::page().unwrap(), "docs/errors.md is old: run `virtkeep manual --errors docs/errors.md`");
}
