//! The documents are a book: every page has its place in it, and every link leads somewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::shell::documents;

/// The targets of links in Markdown, without those in code.
fn links(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    let outside: String = prose.split('`').step_by(2).collect::<Vec<_>>().join("");
    let parts = outside.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    parts.map(|(target, _)| target.to_owned()).collect()
}

/// The anchor of a heading, as mdBook and GitHub make it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = letters.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for file in documents(Path::new(env!("CARGO_MANIFEST_DIR"))) {
        let text = std::fs::read_to_string(&file).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (path, place) = link.split_once('#').map_or((link.as_str(), None), |(path, place)| (path, Some(place)));
            let target = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link} is not there", file.display());
            if let Some(place) = place {
                let there = anchors(&std::fs::read_to_string(&target).unwrap());
                assert!(there.contains(place), "{}: {link}: the page has {there:?}", file.display());
            }
            count += 1;
        }
    }
    assert!(count > 50, "only {count} links were found");
}

#[test]
fn every_page_is_in_the_book_once() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed: Vec<PathBuf> = links(&summary).into_iter().map(PathBuf::from).collect();
    let once: BTreeSet<&PathBuf> = listed.iter().collect();
    assert_eq!(once.len(), listed.len(), "a page is there twice");
    for entry in std::fs::read_dir(&docs).unwrap() {
        let name = PathBuf::from(entry.unwrap().file_name());
        let is_page = name.extension().is_some_and(|end| end == "md") && name != Path::new("SUMMARY.md");
        assert!(!is_page || once.contains(&name), "{} is not in docs/SUMMARY.md", name.display());
    }
    // Each begins with its title, which the book needs.
    for page in &listed {
        let text = std::fs::read_to_string(docs.join(page)).unwrap();
        assert!(text.starts_with("# "), "{}: no title", page.display());
        assert!(
            text.matches("\n# ").count() == 0 || text.contains("```") || text.contains("    # "),
            "{}",
            page.display()
        );
    }
}

/// What is shown of the program is what the program shows: a page that shows a map has been made by it.
#[test]
fn links_and_anchors_are_found() {
    assert_eq!(links("[a](b.md) `[x](y)` [c](d.md#e-f)\n    [no](no.md)\n"), ["b.md", "d.md#e-f"]);
    assert_eq!(anchor("## What it needs, and \"why\""), "what-it-needs-and-why");
}
