//! Command lines in documents: which there are, and their words.

use std::path::{Path, PathBuf};

/// A command line in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The document.
    pub file: PathBuf,
    /// What is there, without prompt, time table or key of a unit.
    pub text: String,
    /// It stands in a sentence: a part of it may be left out.
    pub inline: bool,
}

/// The documents that are for people, and the files of packages with command lines.
pub fn documents(root: &Path) -> Vec<PathBuf> {
    let mut all = vec![root.join("README.md"), root.join("packaging/README.md")];
    for (folder, ends) in [("docs", &[".md"][..]), ("packaging/systemd", &[".service"])] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if ends.iter().any(|end| name.ends_with(end)) {
                all.push(path);
            }
        }
    }
    all.sort();
    all
}

/// All command lines of a document.
pub fn lines(file: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(file).unwrap();
    if file.extension().unwrap() != "md" {
        return block_lines(&text).into_iter().map(|text| Line { file: file.into(), text, inline: false }).collect();
    }
    let (mut found, mut block, mut prose) = (Vec::new(), None::<String>, String::new());
    let mut fenced = false;
    let mut blank = true;
    for line in text.lines().chain([""]) {
        let fence = line.trim_start().starts_with("```");
        let indented = !fenced && line.starts_with("    ") && (blank || block.is_some());
        if (fenced && !fence) || indented {
            let block = block.get_or_insert_default();
            block.push_str(if fenced { line } else { &line[4..] });
            block.push('\n');
        } else {
            if let Some(block) = block.take() {
                found.extend(block_lines(&block).into_iter().map(|text| (text, false)));
            }
            if !fence {
                prose.push_str(line);
                prose.push('\n');
            }
        }
        fenced ^= fence;
        blank = line.trim().is_empty();
    }
    for code in prose.split('`').skip(1).step_by(2) {
        let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
        if code.starts_with("virtkeep ") {
            found.push((code, true));
        }
    }
    found.into_iter().map(|(text, inline)| Line { file: file.into(), text, inline }).collect()
}

/// The command lines of a block of code: those with a prompt, where there is one; else all.
fn block_lines(block: &str) -> Vec<String> {
    let has_prompts = block.lines().any(|line| line.starts_with("$ "));
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in block.lines() {
        if open {
            let last = found.last_mut().unwrap();
            if !last.ends_with('\\') {
                last.push('\n');
            } else {
                last.truncate(last.len() - 1);
            }
            last.push_str(if last.ends_with('\n') { line } else { line.trim_start() });
        } else if let Some(start) = command(line, has_prompts) {
            found.push(start);
        } else {
            continue;
        }
        let last = found.last().unwrap();
        let code = last.split(" # ").next().unwrap_or_default();
        open = last.ends_with('\\') || code.matches('\'').count() % 2 == 1;
    }
    found
}

/// The command that a line begins, if it is one.
fn command(line: &str, has_prompts: bool) -> Option<String> {
    let text = match line.strip_prefix("$ ") {
        Some(rest) => rest,
        None if has_prompts => return None,
        None => line.strip_prefix("ExecStart=").unwrap_or(line),
    };
    // A crontab: five fields of time and a user; a percent sign has a backslash.
    let cron: Vec<&str> = text.split_whitespace().take(6).collect();
    let is_time = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit() || first == '*');
    if cron.len() == 6 && cron[..5].iter().all(is_time) {
        let command = text.split_once(" root ")?.1.trim_start();
        return Some(command.replace("\\%", "%"));
    }
    (!text.trim().is_empty() && !text.starts_with(['#', '['])).then(|| text.trim_start().to_owned())
}

/// The simple commands of a line, each as its words; redirections and assignments are left out.
pub fn commands(text: &str) -> Vec<Vec<String>> {
    let (mut all, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut signs = text.chars().peekable();
    let mut redirected = false;
    loop {
        let sign = signs.next();
        match sign {
            Some('\'') => word.get_or_insert_default().extend(signs.by_ref().take_while(|sign| *sign != '\'')),
            Some('"') => {
                let quoted = word.get_or_insert_default();
                while let Some(sign) = signs.next().filter(|sign| *sign != '"') {
                    quoted.push(if sign == '\\' { signs.next().unwrap_or_default() } else { sign });
                }
            }
            Some('\\') => word.get_or_insert_default().extend(signs.next()),
            Some('$') if signs.peek() == Some(&'(') => {
                word.get_or_insert_default().push('$');
                word.get_or_insert_default().extend(signs.by_ref().take_while(|sign| *sign != ')'));
            }
            Some(sign) if !sign.is_whitespace() && !"|;&<>()#".contains(sign) => {
                word.get_or_insert_default().push(sign)
            }
            Some('#') if word.is_some() => word.get_or_insert_default().push('#'),
            _ => {
                // A number before a redirection is no word.
                if matches!(sign, Some('>' | '<')) && word.as_deref().is_some_and(|word| word.len() == 1) {
                    word = None;
                }
                if let Some(word) = word.take() {
                    if !std::mem::take(&mut redirected) {
                        words.push(word);
                    }
                }
                redirected |= matches!(sign, Some('>' | '<'));
                let ends = matches!(sign, None | Some('|' | ';' | '&' | '(' | ')' | '\n' | '#'));
                if ends && !words.is_empty() {
                    all.push(std::mem::take(&mut words));
                }
                match sign {
                    None => return all,
                    Some('#') => while signs.next_if(|sign| *sign != '\n').is_some() {},
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn lines_are_taken_apart() {
    let words = |text: &str| commands(text).iter().map(|words| words.join("|")).collect::<Vec<_>>();
    assert_eq!(words("a 'b c' \"d $e\" f\\ g"), ["a|b c|d $e|f g"]);
    assert_eq!(words("a -o - | ssh h 'cat > x' && b >y 2>&1; c  # d | e"), ["a|-o|-", "ssh|h|cat > x", "b", "c"]);
    assert_eq!(words("a -o /x-$(date +%Y) -z"), ["a|-o|/x-$(date +%Y|-z"]);
    let block = "$ a\noutput\n$ b \\\n    -c\n";
    assert_eq!(block_lines(block), ["a", "b -c"]);
    assert_eq!(
        block_lines("0 2 * * *  root  a +\\%Y\n# no\nb # it's\nc -e '\n  x'\n"),
        ["a +%Y", "b # it's", "c -e '\n  x'"]
    );
}
