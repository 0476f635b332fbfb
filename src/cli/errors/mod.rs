//! The page of all errors with a remedy, `docs/errors.md`: what is said, why, and what to do.
//!
//! The table is in the text files beside this one, which a test holds against every hint in the sources:
//!
//! ```text
//! busy                                              kind
//! ! domain {} is being backed up already ({by})     what the message says; none where it is another program's
//! ? Another run holds the domain's lock.            cause
//! > wait for it to end; …                           the hint
//! ```

use std::fmt::Write as _;

use crate::error::{Error, Kind};
use crate::exit::Exit;

/// A hint, and when it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// The kind of error.
    pub kind: Kind,
    /// What is said, with `{…}` for what is different every time.
    pub says: Vec<&'static str>,
    /// Why.
    pub cause: &'static str,
    /// What to do: the text behind `hint:`.
    pub hint: &'static str,
}

const TOPICS: [(&str, &str); 8] = [
    ("Options, configuration, several domains", include_str!("command-line.txt")),
    ("Reaching libvirt and other hosts", include_str!("connection.txt")),
    ("Backing up", include_str!("backup.txt")),
    ("Sets and their files", include_str!("set.txt")),
    ("Restoring", include_str!("restore.txt")),
    ("Maps", include_str!("map.txt")),
    ("Single files", include_str!("files.txt")),
    ("In virtnbdbackup's place", include_str!("drop-in.txt")),
];

/// What a kind means, and what helps where there is no hint.
fn meaning(kind: Kind) -> [&'static str; 2] {
    match kind {
        Kind::Usage => ["The command line, the configuration or their combination makes no sense.", "`--help`"],
        Kind::NotFound => [
            "Something that was named is not there: a domain, a disk, a restore point, a file, a program.",
            "Look at the name; `virtkeep dump` lists restore points, `virsh list --all` domains.",
        ],
        Kind::Unsupported => [
            "This host, domain, disk or file can't do what is asked, or a newer virtkeep wrote it.",
            "Another way, or newer versions of libvirt, QEMU or virtkeep.",
        ],
        Kind::Busy => [
            "Somebody else holds it: a run, a job, a lock, a file that is there already.",
            "Wait (`--wait`), or choose another name or place.",
        ],
        Kind::Io => [
            "The operating system, the network or another program failed.",
            "The cause is at the end of the message: space, permissions, storage, the network.",
        ],
        Kind::Protocol => [
            "libvirt, an NBD server or a tool answered with something that it must not.",
            "Look at the versions of both sides; the log of the other side may say more. Please report it.",
        ],
        Kind::Corrupt => [
            "Stored data is provably not what was written.",
            "`virtkeep verify` lists all damage; restore another point, or take the file from another copy.",
        ],
        Kind::Incomplete => [
            "Stored data is missing, or ends early.",
            "`virtkeep verify` lists what is missing; restore another point, or take the file from another copy.",
        ],
        Kind::Cancelled => ["A signal, or Ctrl-C, ended the work.", "Run it again; what was begun is undone."],
    }
}

/// All remedies, by their topics.
///
/// # Errors
/// The place in the table that makes no sense.
pub fn table() -> Result<Vec<(&'static str, Vec<Remedy>)>, String> {
    TOPICS.iter().map(|(title, text)| Ok((*title, parse(text).map_err(|line| format!("{title}: {line:?}"))?))).collect()
}

fn parse(text: &'static str) -> Result<Vec<Remedy>, &'static str> {
    let mut all: Vec<Remedy> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.word() == line) {
            all.push(Remedy { kind, says: Vec::new(), cause: "", hint: "" });
            continue;
        }
        let last = all.last_mut().ok_or(line)?;
        match line.split_at_checked(2) {
            Some(("! ", says)) => last.says.push(says),
            Some(("? ", cause)) if last.cause.is_empty() => last.cause = cause,
            Some(("> ", hint)) if last.hint.is_empty() => last.hint = hint,
            _ => return Err(line),
        }
    }
    match all.iter().find(|remedy| remedy.cause.is_empty() || remedy.hint.is_empty()) {
        Some(half) => Err(half.kind.word()),
        None => Ok(all),
    }
}

/// The page as Markdown.
///
/// # Errors
/// As for [`table`].
pub fn page() -> Result<String, String> {
    let mut page = String::from(HEAD);
    for kind in Kind::ALL {
        // A signal has a status of its own.
        let status = match kind {
            Kind::Cancelled => "128+N".to_owned(),
            kind => Exit::of(&Error::new(kind, "").into()).code().to_string(),
        };
        let [cause, remedy] = meaning(kind);
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| `{}` | {status} | {cause} | {remedy} |", kind.word());
    }
    for (title, remedies) in table()? {
        let _ = write!(page, "\n## {title}\n\n| says | kind | cause | remedy |\n|---|---|---|---|\n");
        for Remedy { kind, says, cause, hint } in remedies {
            let says: Vec<String> = says.into_iter().map(|says| code(&gaps(says))).collect();
            let (cause, hint) = (plain(cause), plain(&gaps(hint)));
            let _ = writeln!(page, "| {} | `{}` | {cause} | {hint} |", says.join("<br>"), kind.word());
        }
    }
    Ok(page)
}

const HEAD: &str = "\
# Errors and what to do

<!-- Written by `virtkeep manual --errors docs/errors.md`; a test fails where it is old. -->

A failed command says `error: WHAT: CAUSE: …`, most specific last, and where a remedy is known, a line `hint: …` below
it. This page has every hint, with its cause; `…` stands for names and numbers. The words under *kind* are those of
[reports](monitoring.md#the-report); the exit status comes from the kind ([all of them](exit-codes.md)). The names of
disk and file, and the offset, come before what is said.

| kind | exit status | cause | what helps in general |
|---|---|---|---|
";

/// A text of the program's, with its gaps as people read them.
fn gaps(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        let Some((_, after)) = behind.split_once('}') else { break };
        shown.push_str(before);
        shown.push('…');
        rest = after;
    }
    shown + rest
}

fn code(text: &str) -> String {
    let fence = if text.contains('`') { "``" } else { "`" };
    format!("{fence}{}{fence}", text.replace('|', "\\|"))
}

/// Markdown of a text in which only backquotes have a meaning.
fn plain(text: &str) -> String {
    let mut shown = String::new();
    for (number, part) in text.split('`').enumerate() {
        match number % 2 {
            0 => {
                for character in part.chars() {
                    match character {
                        '<' => shown.push_str("&lt;"),
                        '>' => shown.push_str("&gt;"),
                        '*' | '_' | '[' | ']' | '\\' | '|' => shown.extend(['\\', character]),
                        other => shown.push(other),
                    }
                }
            }
            _ => shown.push_str(&code(part)),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        let table = table().unwrap();
        assert!(table.iter().all(|(_, remedies)| !remedies.is_empty()));
        let mut hints: Vec<&str> = table.iter().flat_map(|(_, remedies)| remedies).map(|remedy| remedy.hint).collect();
        let count = hints.len();
        hints.sort_unstable();
        hints.dedup();
        assert_eq!(hints.len(), count, "a hint is there twice");
        for (bad, line) in
            [("> x", "> x"), ("busy\n! a\n? b", "busy"), ("busy\n? a\n? b\n> c", "? b"), ("nothing", "nothing")]
        {
            assert_eq!(parse(bad).unwrap_err(), line, "{bad:?}");
        }
    }

    #[test]
    fn texts_are_markdown() {
        assert_eq!(gaps("a {} b {c:?}, {d"), "a … b …, {d");
        assert_eq!(plain("delete <job a='*'/> of `x|y` | *z*"), "delete &lt;job a='\\*'/&gt; of `x\\|y` \\| \\*z\\*");
    }
}
