//! What a shell offers for the words of an option: domains, disks and restore points that are there.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::Command;
use clap_complete::{ArgValueCompleter, CompletionCandidate};

/// Asks for the names that fit an option; the words of the command line so far come with it.
pub type Ask = fn(&[std::ffi::OsString]) -> Vec<String>;

/// Where the names come from.
#[derive(Debug, Clone, Copy)]
pub struct Sources {
    /// Domains that libvirt knows.
    pub domains: Ask,
    /// Restore points of the set of `-i`.
    pub points: Ask,
    /// Disks of the set of `-i`.
    pub disks: Ask,
}

/// `command` with completers for its options.
pub fn completing(command: Command, sources: Sources) -> Command {
    command.mut_subcommands(move |subcommand| {
        // Where a set is read, -d is a disk of it.
        let reads = subcommand.get_arguments().any(|option| option.get_id() == "input");
        subcommand.mut_args(move |option| {
            let ask = match option.get_id().as_str() {
                "domain" | "exclude_domain" => sources.domains,
                "disk" if reads => sources.disks,
                "until" if reads => sources.points,
                _ => return option,
            };
            option.add(ArgValueCompleter::new(move |current: &OsStr| candidates(ask, current)))
        })
    })
}

fn candidates(ask: Ask, current: &OsStr) -> Vec<CompletionCandidate> {
    let words: Vec<_> = std::env::args_os().collect();
    let Some(begin) = current.to_str() else { return Vec::new() };
    ask(&words).into_iter().filter(|name| name.starts_with(begin)).map(CompletionCandidate::new).collect()
}

/// The value of the last of `options` in a command line that is being typed.
pub fn value_of(words: &[std::ffi::OsString], options: &[&str]) -> Option<PathBuf> {
    let mut found = None;
    for (index, word) in words.iter().enumerate() {
        let Some(word) = word.to_str() else { continue };
        for option in options {
            let joined = word.strip_prefix(option).map(|rest| rest.strip_prefix('=').unwrap_or(rest));
            match joined {
                Some("") => found = words.get(index + 1).map(PathBuf::from),
                Some(value) if !option.starts_with("--") || word.contains('=') => found = Some(PathBuf::from(value)),
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_in_what_was_typed() {
        let value = |line: &str| {
            let words: Vec<std::ffi::OsString> = line.split(' ').map(Into::into).collect();
            value_of(&words, &["-i", "--input"]).map(|path| path.to_string_lossy().into_owned())
        };
        assert_eq!(value("virtkeep restore -i /a -o /b").as_deref(), Some("/a"));
        assert_eq!(value("virtkeep restore --input=/a -u").as_deref(), Some("/a"));
        assert_eq!(value("virtkeep restore -i/a -i /c").as_deref(), Some("/c"));
        assert_eq!(value("virtkeep restore --inputs /a"), None);
        assert_eq!(value("virtkeep restore"), None);
        assert_eq!(value("virtkeep restore -i"), None);
    }
}
