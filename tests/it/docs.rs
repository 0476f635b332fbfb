//! What the documents say of the tests is true, and the manual is of this program.

mod book;
mod commands;
mod errors;
mod help;
mod shell;
mod sources;

use crate::support::{Case, Lab};

/// All `word::word` in backquotes.
fn names(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|word| word.contains("::") && !word.contains(['*', ' ', '/', '<'])).collect()
}

#[test]
fn every_state_names_a_test_that_is_there() {
    let root = env!("CARGO_MANIFEST_DIR");
    let text = std::fs::read_to_string(format!("{root}/docs/states.md")).unwrap();
    let names = names(&text);
    assert!(names.len() > 50, "{names:?}");
    for name in names {
        let path: Vec<&str> = name.split("::").collect();
        let base = format!("{root}/tests/it/{}", path.join("/"));
        let is_module =
            [format!("{base}.rs"), format!("{base}/mod.rs")].iter().any(|file| std::fs::exists(file).unwrap());
        let (function, module) = path.split_last().unwrap();
        let file = format!("{root}/tests/it/{}.rs", module.join("/"));
        let is_function = std::fs::read_to_string(file).is_ok_and(|code| code.contains(&format!("fn {function}(")));
        assert!(is_module || is_function, "docs/states.md: there is no test {name}");
    }
    for row in
        text.lines().filter(|line| line.starts_with("| ") && !line.contains("---") && !line.starts_with("| state"))
    {
        let cell = row.trim_end_matches('|').rsplit('|').next().unwrap().trim();
        assert!(cell.contains('`') || cell == "the same", "docs/states.md: no test is named: {row}");
    }
}

/// The pages that packages install are those of the definition: `virtkeep manual packaging/man` writes them anew.
#[test]
fn the_manual_pages_are_current_and_sound() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/man");
    let pages = virtkeep::cli::manual::pages().unwrap();
    let committed = std::fs::read_dir(directory).unwrap().count();
    assert_eq!(committed, pages.len(), "{directory}");
    for (name, text) in pages {
        let file = format!("{directory}/{name}");
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(found == text, "{file} is old: run `virtkeep manual packaging/man`");
        let rendered = std::process::Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", &file])
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&rendered.stderr);
        assert!(rendered.status.success() && said.is_empty(), "{name}: {said}");
    }
}

/// What a shell runs for completion: the domains of a libvirtd, the points and disks of a set.
#[test]
fn names_are_completed() {
    let lab = Lab::up();
    let case = Case::new(&lab, "completed", &["vda:4M"]);
    case.backup(&["-l", "full"]).succeeds();
    let complete = |words: &[&str]| {
        let set = case.set.display().to_string();
        let words: Vec<String> = words.iter().map(|word| word.replace("@set", &set)).collect();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_virtkeep"))
            .env("COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string())
            .env("_CLAP_IFS", "\n")
            .arg("--")
            .args(&words)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let uri = lab.uri();
    assert!(complete(&["virtkeep", "backup", "-U", &uri, "-d", ""]).lines().any(|name| name == "completed"));
    assert!(complete(&["virtkeep", "restore", "-i", "@set", "-u", "virt"]).contains("virtnbdbackup.0"));
    assert_eq!(complete(&["virtkeep", "map", "-i", "@set", "-d", "vd"]).trim(), "vda");
    // Nothing to ask is no error.
    assert_eq!(complete(&["virtkeep", "map", "-i", "/nowhere", "-d", "vd"]).trim(), "");
}
