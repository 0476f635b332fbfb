//! The manual pages, from the definition of the command line.

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::{Cli, dropin};
use crate::error::{Error, Result};

/// A page of section 1 for the program, one for each command that people use, and those of the drop-in commands:
/// file name and text.
///
/// # Errors
/// [`Kind::Io`](crate::error::Kind::Io), for which there is no reason: the text goes to memory.
pub fn pages() -> Result<Vec<(String, String)>> {
    let mut program = Cli::command();
    program.build();
    let mut pages = vec![page(&program, "virtkeep")?];
    for command in program.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        pages.push(page(command, &format!("virtkeep-{}", command.get_name()))?);
    }
    for tool in dropin::Tool::ALL {
        pages.push(page(&tool.command(), tool.name())?);
    }
    Ok(pages)
}

/// Examples come first: they are what the page is opened for.
fn page(command: &Command, name: &str) -> Result<(String, String)> {
    let command = command.clone().display_name(name);
    let extra = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (examples, notes) = split(&extra);
    // All options in brackets, as the crate writes it, tell nobody anything.
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim().to_owned();
    let man = Man::new(command).manual("virtkeep").date("");
    let mut text = Vec::new();
    let out = &mut text;
    let failed = |error| Error::io("write a manual page", error);
    man.render_title(out).map_err(failed)?;
    man.render_name_section(out).map_err(failed)?;
    verbatim("SYNOPSIS", &usage).to_writer(out).map_err(failed)?;
    if !examples.is_empty() {
        verbatim("EXAMPLES", &examples).to_writer(out).map_err(failed)?;
    }
    man.render_description_section(out).map_err(failed)?;
    man.render_options_section(out).map_err(failed)?;
    if name == "virtkeep" {
        man.render_subcommands_section(out).map_err(failed)?;
    }
    if !notes.is_empty() {
        let mut section = Roff::new();
        section.control("SH", ["NOTES"]);
        for paragraph in notes.split("\n\n") {
            section.control("PP", []);
            section.text([roman(paragraph)]);
        }
        section.to_writer(out).map_err(failed)?;
    }
    let mut see_also = Roff::new();
    see_also.control("SH", ["SEE ALSO"]);
    let others = if name == "virtkeep" { "virsh(1), qemu-img(1), nbdcopy(1)" } else { "virtkeep(1)" };
    see_also.text([roman(others)]);
    see_also.to_writer(out).map_err(failed)?;
    let text = String::from_utf8(text).map_err(|_| Error::usage("a manual page is not UTF-8"))?;
    Ok((format!("{name}.1"), text))
}

/// The examples of a text behind the options, and the rest of it.
fn split(text: &str) -> (String, String) {
    let Some(rest) = text.trim().strip_prefix("Examples:\n") else { return (String::new(), text.trim().to_owned()) };
    let (examples, notes) = rest.split_once("\n\n").unwrap_or((rest, ""));
    (examples.to_owned(), notes.trim().to_owned())
}

fn verbatim(title: &str, text: &str) -> Roff {
    let mut section = Roff::new();
    section.control("SH", [title]);
    section.control("nf", []);
    for line in text.lines() {
        section.text([roman(line)]);
    }
    section.control("fi", []);
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_come_first_and_notes_last() {
        let (examples, notes) = split("Examples:\n  one\n  two\n\nMore\nof it.\n\nAnd more.");
        assert_eq!((examples.as_str(), notes.as_str()), ("  one\n  two", "More\nof it.\n\nAnd more."));
        assert_eq!(split("Exit status: 0"), (String::new(), "Exit status: 0".to_owned()));
        let pages = pages().unwrap();
        let backup = &pages.iter().find(|(name, _)| name == "virtkeep-backup.1").unwrap().1;
        let place = |words: &str| backup.find(words).unwrap_or_else(|| panic!("no {words}"));
        assert!(place(".SH EXAMPLES") < place(".SH DESCRIPTION") && place(".SH OPTIONS") < place(".SH NOTES"));
    }
}
