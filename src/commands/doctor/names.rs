//! Names as a shell takes them, and short ones for people.

use std::path::Path;

use uuid::Uuid;

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
    fn words_are_quoted_for_the_shell() {
        for (word, quoted) in
            [("web-1", "web-1"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''"), ("$(x)", "'$(x)'")]
        {
            assert_eq!(shell(word), quoted);
        }
    }
}
