//! The crates in the program, by `.deny.toml`: where they come from, and what they may be used for.

use serde_json::Value;

use super::ROOT;
use crate::support::run;

/// The strings of a list in `.deny.toml`.
fn listed(rules: &str, section: &str, key: &str) -> Vec<String> {
    let section = rules.split("\n[").find(|part| part.starts_with(&format!("{section}]"))).unwrap();
    let list = section.split_once(&format!("\n{key} = [")).unwrap().1.split_once(']').unwrap().0;
    let lines = list.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.flat_map(|line| line.split('"').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// Whether a licence expression of SPDX, or an older one with a slash, is satisfied by the allowed ones.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let words = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = words.split_whitespace().rev().collect();
    let is = any(&mut words, allowed);
    assert!(words.is_empty(), "{expression}");
    is
}

fn any(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let mut is = all(words, allowed);
    while words.last() == Some(&"OR") {
        words.pop();
        is |= all(words, allowed);
    }
    is
}

fn all(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let mut is = one(words, allowed);
    while words.last() == Some(&"AND") {
        words.pop();
        is &= one(words, allowed);
    }
    is
}

fn one(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let word = words.pop().unwrap();
    if word == "(" {
        let is = any(words, allowed);
        assert_eq!(words.pop(), Some(")"));
        return is;
    }
    // An exception gives more rights.
    if words.last() == Some(&"WITH") {
        words.truncate(words.len() - 2);
    }
    allowed.iter().any(|name| name == word)
}

#[test]
fn crates_are_free_and_from_the_registry() {
    let rules = std::fs::read_to_string(format!("{ROOT}/.deny.toml")).unwrap();
    let allowed = listed(&rules, "licenses", "allow");
    let banned = listed(&rules, "bans", "deny");
    let registries = listed(&rules, "sources", "allow-registry");
    assert!(allowed.len() > 4 && banned.len() > 1 && registries.len() == 1);
    for (expression, is) in [
        ("MIT", true),
        ("MIT/Proprietary", true),
        ("Proprietary", false),
        ("MIT AND Proprietary", false),
        ("(MIT OR Proprietary) AND Unicode-3.0", true),
        ("Apache-2.0 WITH LLVM-exception OR Proprietary", true),
    ] {
        assert_eq!(is_allowed(expression, &allowed), is, "{expression}");
    }

    let manifest = format!("{ROOT}/Cargo.toml");
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let text = run(cargo, &[&"metadata", &"--format-version", &"1", &"--locked", &"--manifest-path", &manifest]);
    let metadata: Value = serde_json::from_str(&text.succeeds().stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50);
    for package in packages {
        let name = package["name"].as_str().unwrap();
        assert!(!banned.iter().any(|banned| banned == name), "{name} is banned");
        let license = package["license"].as_str().unwrap_or_default();
        assert!(is_allowed(license, &allowed), "{name} is under {license:?}, which .deny.toml does not have");
        if let Some(source) = package["source"].as_str() {
            let from = source.strip_prefix("registry+").unwrap_or(source);
            assert!(registries.iter().any(|registry| registry == from), "{name} comes from {source}");
        }
        for dependency in package["dependencies"].as_array().unwrap().iter().filter(|_| package["source"].is_null()) {
            assert_ne!(dependency["req"], "*", "{name}: any version of {}", dependency["name"]);
        }
    }
}
