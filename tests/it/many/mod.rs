//! Several domains in one run.

mod bars;
mod choice;
mod failure;
mod template;

use std::ffi::OsStr;
use std::path::Path;

use crate::support::{Lab, Run, listing, virtkeep};

/// The arguments of a backup, for any domains.
fn arguments(lab: &Lab, output: &Path, options: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = ["backup", "-n", "-U", &lab.uri(), "--scratchdir"].map(str::to_owned).into();
    all.extend([lab.scratch(), "-o".into(), output.to_owned()].map(|path| path.to_str().unwrap().to_owned()));
    all.extend(options.iter().map(|option| (*option).to_owned()));
    all
}

#[track_caller]
fn backup(lab: &Lab, output: &Path, options: &[&str]) -> Run {
    let arguments = arguments(lab, output, options);
    let arguments: Vec<&dyn AsRef<OsStr>> = arguments.iter().map(|argument| argument as _).collect();
    virtkeep(&arguments)
}

/// The names of the data files in a set.
fn data(set: &Path) -> Vec<String> {
    listing(set).into_iter().filter(|name| name.contains(".data") && !name.ends_with(".chksum")).collect()
}

/// The line of the summary about `domain`, its words.
#[track_caller]
fn row(run: &Run, domain: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let table = run.stderr.lines().map(words).skip_while(|words| words.get(1).is_none_or(|word| word != "DOMAIN"));
    let row = table.into_iter().find(|words| words.get(1).is_some_and(|word| word == domain));
    row.unwrap_or_else(|| panic!("no row of {domain}: {}", run.stderr)).split_off(1)
}
