//! What is wrong with a command line, with what the parser can't know: remedies, and what people need not hear of.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

use super::config::read::{command_of, program};
use crate::exit::Exit;

/// The error as it is printed for `words`, the program's name first.
pub fn explain(mut error: Error, words: &[OsString]) -> Error {
    let mut program = program();
    let command = command_of(words);
    let command = command.and_then(|name| program.find_subcommand(&name).map(|command| command.get_name().to_owned()));
    match error.kind() {
        ErrorKind::InvalidSubcommand => hide(&mut error, &program),
        ErrorKind::UnknownArgument if command.as_deref() == Some("backup") => {
            if let Some(level) = level_apart(words) {
                let tip = StyledStr::from(format!("the level stands behind an equals sign: '-z={level}'"));
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
            }
        }
        ErrorKind::MissingRequiredArgument if command.as_deref() == Some("backup") => name_all(&mut error),
        _ => {}
    }
    let is_typed =
        |word: &OsString| word.to_str().is_some_and(|word| word.starts_with("--uri") || word.starts_with("-U"));
    if let Some(command) = command.filter(|_| std::env::var_os("VIRTKEEP_URI").is_some() && !words.iter().any(is_typed))
    {
        plain_usage(&mut error, &mut program, &command);
    }
    error
}

/// The exit status: 2 is an alarm for monitoring systems, so their plugin ends with 3.
pub fn status(error: &Error, words: &[OsString]) -> i32 {
    if error.use_stderr() && is_plugin(words) { Exit::UNKNOWN.code() } else { error.exit_code() }
}

/// Whether the command is one that monitoring systems call.
pub fn is_plugin(words: &[OsString]) -> bool {
    command_of(words).as_deref() == Some("status")
}

/// Commands for virtkeep's own use are no suggestions.
fn hide(error: &mut Error, program: &Command) {
    let is_hidden = |name: &String| program.find_subcommand(name).is_some_and(Command::is_hide_set);
    let shown = match error.remove(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(names)) => names.into_iter().filter(|name| !is_hidden(name)).collect(),
        Some(ContextValue::String(name)) if !is_hidden(&name) => vec![name],
        _ => Vec::new(),
    };
    if !shown.is_empty() {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(shown));
    } else if matches!(error.get(ContextKind::Suggested), Some(ContextValue::StyledStrs(tips)) if tips.is_empty()) {
        // It would be an empty line.
        error.remove(ContextKind::Suggested);
    }
}

/// The level of `-z 3` or `-z9`, which other programs take.
fn level_apart(words: &[OsString]) -> Option<u8> {
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let level = |text: &str| text.parse().ok().filter(|level| (1..=16).contains(level));
    words.iter().enumerate().find_map(|(index, word)| match *word {
        "-z" | "--compress" => level(words.get(index + 1)?),
        word => level(word.strip_prefix("-z")?),
    })
}

/// Where no domain is named, all are the other way.
fn name_all(error: &mut Error) {
    let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else { return };
    let name = |missing: &String| match missing.strip_prefix("--domain ") {
        Some(value) => format!("--domain {value}, or --all"),
        None => missing.clone(),
    };
    let missing = missing.iter().map(name).collect();
    error.insert(ContextKind::InvalidArg, ContextValue::Strings(missing));
}

/// What the environment says is in the parser's usage as if it were required.
fn plain_usage(error: &mut Error, program: &mut Command, name: &str) {
    if error.get(ContextKind::Usage).is_none() {
        return;
    }
    if let Some(command) = program.find_subcommand_mut(name) {
        error.insert(ContextKind::Usage, ContextValue::StyledStr(command.render_usage()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> String {
        let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
        let error = program().try_get_matches_from(&words).unwrap_err();
        explain(error, &words).render().to_string()
    }

    #[test]
    fn remedies_are_named() {
        for line in
            ["virtkeep backup -d a -o b -z 3", "virtkeep backup -d a -o b --compress 3", "virtkeep backup -z3 -d a"]
        {
            let said = said(line);
            assert!(said.contains("tip: ") && said.contains("'-z=3'"), "{line}: {said}");
        }
        assert!(!said("virtkeep backup -d a -o b -z 99").contains("-z="));
        let said = said("virtkeep backup -o b");
        assert!(said.contains("--domain <NAME>, or --all\n"), "{said}");
    }

    #[test]
    fn what_is_hidden_is_not_suggested() {
        for name in ["mounted", "guarde", "manuals", "backup-on"] {
            let said = said(&format!("virtkeep {name}"));
            for hidden in ["'bound'", "'guard'", "'manual'", "'backup-one'", "'boot-guard'"] {
                assert!(!said.contains(hidden), "{said}");
            }
        }
        assert!(said("virtkeep verfy").contains("'verify'"));
    }

    #[test]
    fn a_plugin_that_is_called_wrongly_knows_nothing() {
        let status_of = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
            status(&program().try_get_matches_from(&words).unwrap_err(), &words)
        };
        assert_eq!(status_of("virtkeep status -i /a --no-such"), 3);
        assert_eq!(status_of("virtkeep status"), 3);
        assert_eq!(status_of("virtkeep status --help"), 0);
        assert_eq!(status_of("virtkeep dump --no-such"), 2);
    }
}
