//! Options from the configuration file and the environment.

mod domains;
mod merge;
mod wrong;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::support::{Run, program, run};

/// A configuration of `text`.
fn file(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("virtkeep.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Runs the program with this configuration and these variables.
#[track_caller]
fn configured(config: &Path, variables: &[(&str, &str)], arguments: &[&dyn AsRef<OsStr>]) -> Run {
    let words: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let config = format!("VIRTKEEP_CONFIG={}", config.display());
    let program = program();
    let mut all: Vec<&dyn AsRef<OsStr>> = vec![&config];
    all.extend(words.iter().map(|word| word as &dyn AsRef<OsStr>));
    all.push(&program);
    all.extend(arguments);
    run("env", &all)
}
