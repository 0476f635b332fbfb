//! Every option that virtnbdbackup's programs list in their help is one of ours.

use std::ffi::OsStr;

use super::{fixture, link};
use crate::support::{program, run};

/// An option as the help lists it.
#[derive(Debug)]
struct Listed {
    /// All of its names, short and long.
    names: Vec<String>,
    /// What it takes: the name, or the choices in braces.
    value: Option<String>,
    /// It may be left out.
    optional: bool,
}

/// The options in a help text of Python's argparse: `  -d DOMAIN, --domain DOMAIN`.
fn options(help: &str) -> Vec<Listed> {
    let lines = help.lines().filter(|line| line.starts_with("  -"));
    lines
        .map(|line| {
            // The description follows after two spaces or more.
            let line = line.trim_start();
            let definition = line.split("  ").next().unwrap();
            let mut listed = Listed { names: Vec::new(), value: None, optional: false };
            for part in definition.split(", ") {
                let mut words = part.split(' ');
                listed.names.push(words.next().unwrap().to_owned());
                if let Some(value) = words.next() {
                    listed.optional = value.starts_with('[');
                    listed.value = Some(value.trim_matches(['[', ']']).to_owned());
                }
            }
            listed
        })
        .collect()
}

/// Something that an option of this kind takes.
fn value_for(value: &str) -> &str {
    match value {
        choices if choices.starts_with('{') => choices.trim_matches(['{', '}']).split(',').next().unwrap(),
        // Numbers among them.
        "COMPRESS" | "WORKER" | "THRESHOLD" | "SSH_PORT" | "NBD_PORT" | "BUFFSIZE" | "THREADS" | "LISTEN_PORT" => "7",
        _ => "text",
    }
}

#[track_caller]
fn knows_all(tool: &str, help: &str, least: usize) {
    let directory = tempfile::tempdir().unwrap();
    let program = link(directory.path(), tool);
    let listed = options(help);
    assert!(listed.len() >= least, "{tool}: only {} options found: {listed:?}", listed.len());
    for option in &listed {
        for name in &option.names {
            let mut words = vec![name.as_str()];
            words.extend(option.value.as_deref().map(value_for));
            accepts(&program, &words);
            if option.optional {
                accepts(&program, &words[..1]);
            }
            if let (true, Some(value)) = (name.starts_with("--"), &option.value) {
                accepts(&program, &[&format!("{name}={}", value_for(value))]);
            }
        }
    }
}

/// What comes before --help is parsed first.
#[track_caller]
fn accepts(program: &std::path::Path, words: &[&str]) {
    let mut all: Vec<&dyn AsRef<OsStr>> = words.iter().map(|word| word as _).collect();
    all.push(&"--help");
    run(program, &all).succeeds();
}

#[test]
fn every_option_of_virtnbdbackup_is_known() {
    knows_all("virtnbdbackup", &fixture("virtnbdbackup.help"), 40);
}

#[test]
fn every_option_of_virtnbdrestore_is_known() {
    knows_all("virtnbdrestore", &fixture("virtnbdrestore.help"), 30);
}

#[test]
fn every_option_of_virtnbdmap_is_known() {
    knows_all("virtnbdmap", &fixture("virtnbdmap.help"), 14);
}

#[test]
fn options_that_it_does_not_have_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let program = link(directory.path(), "virtnbdbackup");
    for words in [&["--bogus", "--help"][..], &["-G", "--help"], &["-d", "vm"], &["--require-freeze", "--help"]] {
        let words: Vec<&dyn AsRef<OsStr>> = words.iter().map(|word| word as _).collect();
        run(&program, &words).ends_with(2);
    }
}

#[test]
fn the_version_is_that_of_virtnbdbackup() {
    let directory = tempfile::tempdir().unwrap();
    for tool in ["virtnbdbackup", "virtnbdrestore", "virtnbdmap"] {
        let said = run(link(directory.path(), tool), &[&"-V"]).succeeds().stdout;
        assert!(said.starts_with("2.53 (virtkeep "), "{said}");
    }
}

/// The name alone decides: packages may make hard links, too.
#[test]
fn a_hard_link_does_as_well() {
    let program = program();
    let beside = std::path::Path::new(&program).parent().unwrap();
    let directory = tempfile::tempdir_in(beside).unwrap();
    let link = directory.path().join("virtnbdrestore");
    std::fs::hard_link(&program, &link).unwrap();
    let help = run(&link, &[&"--help"]).succeeds().stdout;
    assert!(help.contains("--remove-skipped-disks"), "{help}");
}
