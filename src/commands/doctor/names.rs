//! Names: of runs in files on the domain's host, and of things as a shell takes them.

use std::path::Path;

use uuid::Uuid;

/// What stands in the names of the files on the domain's host that are a run's.
const FILE_PREFIX: &str = "virtkeep.";

/// The runs in a text with names such as `virtkeep.RUN.vda.scratch`.
pub fn runs_in(text: &str) -> Vec<Uuid> {
    let mut runs: Vec<Uuid> = text.split(FILE_PREFIX).skip(1).filter_map(leading_run).collect();
    runs.dedup();
    runs
}

fn leading_run(text: &str) -> Option<Uuid> {
    let digits = text.get(..uuid::fmt::Hyphenated::LENGTH)?;
    Uuid::parse_str(digits).ok()
}

/// The run in the name of a scratch file or socket, and the rest of the name.
pub fn run_of_file(name: &str) -> Option<(Uuid, &str)> {
    let rest = name.strip_prefix(FILE_PREFIX)?;
    let run = leading_run(rest)?;
    let rest = rest.get(uuid::fmt::Hyphenated::LENGTH..)?.strip_prefix('.')?;
    (rest == "sock" || rest.ends_with(".scratch")).then_some((run, rest))
}

/// A word as a shell takes it.
pub fn shell(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A path as a shell takes it.
pub fn shell_path(path: &Path) -> String {
    shell(&path.to_string_lossy())
}

/// The first group of a run's UUID, which is enough to name it.
pub fn short(run: Uuid) -> String {
    run.to_string().chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_in_names() {
        let run = Uuid::from_u128(0x1234);
        let xml = format!("<server socket='/a/virtkeep.{run}.sock'/><scratch file='/a/virtkeep.{run}.vda.scratch'/>");
        assert_eq!(runs_in(&xml), [run]);
        assert!(runs_in("<scratch file='/virtkeep.x/virtkeep.\u{e4}'/>").is_empty());
        assert_eq!(run_of_file(&format!("virtkeep.{run}.vda.scratch")), Some((run, "vda.scratch")));
        assert_eq!(run_of_file(&format!("virtkeep.{run}.sock")), Some((run, "sock")));
        for name in ["virtkeep.sock", "virtkeep.x.sock", &format!("virtkeep.{run}"), &format!("virtkeep.{run}.txt"), ""]
        {
            assert_eq!(run_of_file(name), None, "{name}");
        }
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        for (word, quoted) in
            [("web-1", "web-1"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''"), ("$(x)", "'$(x)'")]
        {
            assert_eq!(shell(word), quoted);
        }
    }
}
