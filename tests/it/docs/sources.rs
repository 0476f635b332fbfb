//! What the sources say to users: string literals, and which of them are hints.
//!
//! A hint is what `.hint(…)` is given: a text, `format!` of one, a constant, or a variable, parameter or function
//! whose texts are looked for. What can't be found this way is an error, so that none is missed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A source file without its tests.
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

/// All sources of the program.
pub fn sources(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "tests" {
                open.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
                let text: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
                found.push(Source { text: text.join("\n"), path });
            }
        }
    }
    found
}

/// The end of the expression that begins at `start`: where brackets are closed once more than opened, or at a `;`
/// between them.
fn end_of(text: &str, start: usize) -> usize {
    end_at(text, start, true)
}

/// The end of the block that begins before `start`.
fn end_of_block(text: &str, start: usize) -> usize {
    end_at(text, start, false)
}

fn end_at(text: &str, start: usize, at_semicolon: bool) -> usize {
    let (mut depth, mut in_string, mut escaped) = (0i32, false, false);
    for (index, byte) in text.bytes().enumerate().skip(start) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'(' | b'{' | b'[' => depth += 1,
            b')' | b'}' | b']' if depth == 0 => return index,
            b')' | b'}' | b']' => depth -= 1,
            b';' if depth == 0 && at_semicolon => return index,
            _ => {}
        }
    }
    text.len()
}

/// The literals of a part of a source, as they are at run time, without those that are only compared or put between.
pub fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut position = 0;
    while let Some(start) = code[position..].find('"').map(|at| position + at) {
        let before = code[..start].trim_end();
        let mut text = String::new();
        let mut rest = code[start + 1..].char_indices().peekable();
        let mut end = code.len();
        while let Some((at, character)) = rest.next() {
            match character {
                '"' => {
                    end = start + 1 + at + 1;
                    break;
                }
                '\\' => match rest.next().map(|(_, next)| next) {
                    Some('\n') => while rest.next_if(|(_, next)| next.is_whitespace()).is_some() {},
                    Some('n') => text.push('\n'),
                    Some(next) => text.push(next),
                    None => {}
                },
                other => text.push(other),
            }
        }
        let is_word = ["contains(", "has(", "join(", "starts_with(", "ends_with(", "find(", "strip_prefix("]
            .iter()
            .any(|call| before.ends_with(call));
        if !is_word {
            found.push(text);
        }
        position = end;
    }
    found
}

/// Those of several words.
fn sentences(code: &str) -> Vec<String> {
    literals(code).into_iter().filter(|text| text.contains(' ')).collect()
}

/// A text with its gaps made equal: `{}`.
pub fn normal(text: &str) -> String {
    let mut out = String::new();
    let mut depth = 0;
    for character in text.chars() {
        match character {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    out.push_str("{}");
                }
            }
            other if depth == 0 => out.push(other),
            _ => {}
        }
    }
    out
}

/// Every hint in the sources, with its file; the argument itself where no text was found for it.
pub fn hints(sources: &[Source]) -> Vec<(PathBuf, Result<Vec<String>, String>)> {
    let mut found = Vec::new();
    for source in sources {
        for (at, call) in source.text.match_indices(".hint(") {
            let start = at + call.len();
            let argument = source.text[start..end_of(&source.text, start)].trim();
            let texts = texts(sources, source, argument);
            let texts = if texts.is_empty() { Err(argument.to_owned()) } else { Ok(texts) };
            found.push((source.path.clone(), texts));
        }
    }
    found
}

/// The body of the function that is defined at `at`.
fn body(text: &str, at: usize) -> &str {
    let start = at + text[at..].find('{').unwrap() + 1;
    &text[start..end_of_block(text, start)]
}

fn texts(sources: &[Source], source: &Source, argument: &str) -> Vec<String> {
    let direct = sentences(argument);
    if !direct.is_empty() {
        return direct;
    }
    let name = argument.split(['(', '.']).next().unwrap_or_default();
    let mut found = BTreeSet::new();
    if name.chars().all(|character| character.is_ascii_uppercase() || character == '_') {
        let constant = |source: &Source| {
            let at = source.text.find(&format!("const {name}: &str"))?;
            Some(sentences(&source.text[at..end_of(&source.text, at)]))
        };
        // Of the same file, where it has one.
        return constant(source).or_else(|| sources.iter().find_map(constant)).unwrap_or_default();
    }
    // What a variable is, whichever of that name.
    for pattern in [format!("let {name} ="), format!(", {name}) = "), format!("Some({name}) ="), format!("fn {name}(")]
    {
        for (at, _) in source.text.match_indices(&pattern) {
            let code = match pattern.starts_with("fn") {
                true => body(&source.text, at),
                false => &source.text[at + pattern.len()..end_of(&source.text, at + pattern.len())],
            };
            let code = if pattern.starts_with("Some") { code.split(" {").next().unwrap_or_default() } else { code };
            let callee = code.trim().split('(').next().unwrap_or_default().rsplit("::").next().unwrap_or_default();
            let callee = format!("fn {}(", callee.trim());
            found.extend(sentences(code));
            if sentences(code).is_empty() && callee != "fn (" {
                let places = sources.iter().filter_map(|source| Some(body(&source.text, source.text.find(&callee)?)));
                found.extend(places.flat_map(sentences));
            }
        }
    }
    if found.is_empty() && argument.contains('(') {
        for source in sources {
            if let Some(at) = source.text.find(&format!("fn {name}(")) {
                found.extend(sentences(body(&source.text, at)));
            }
        }
    }
    // What is given to the function or closure that has it as its last parameter.
    let parameter = format!("{name}: &str");
    for (at, _) in source.text.match_indices(&parameter) {
        let head = &source.text[..at];
        let line = head.rfind("fn ").max(head.rfind("let ")).unwrap_or(0);
        let called = head[line..].split_whitespace().nth(1).unwrap_or_default().split('(').next().unwrap_or_default();
        for (call, text) in source.text.match_indices(&format!("{called}(")) {
            let start = call + text.len();
            let code = &source.text[start..end_of(&source.text, start)];
            if !code.contains(&parameter) && code.trim_end().trim_end_matches(',').ends_with('"') {
                found.extend(sentences(code).pop());
            }
        }
    }
    found.into_iter().collect()
}
