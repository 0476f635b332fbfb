//! Progress on a terminal that is narrow, and where there is none.

use std::process::{Command, Stdio};

use crate::support::{CACHE, CONFIG, Case, Lab, program, random_disk};

/// What a terminal shows, without its control sequences: every line that was drawn.
fn drawn(output: &str) -> Vec<String> {
    let mut text = String::new();
    let mut signs = output.chars().peekable();
    while let Some(sign) = signs.next() {
        match sign {
            '\x1b' if signs.next_if_eq(&'[').is_some() => {
                let end = signs.by_ref().find(|sign| sign.is_ascii_alphabetic());
                text.push(if end == Some('m') { '\0' } else { '\n' });
            }
            '\r' => text.push('\n'),
            other => text.push(other),
        }
    }
    text.replace('\0', "").lines().map(str::to_owned).filter(|line| !line.trim().is_empty()).collect()
}

#[test]
fn bars_are_never_wider_than_the_terminal() {
    let lab = Lab::up();
    // Several times what its threads read at once, so that a bar is seen between begin and end.
    let disk = random_disk(&lab, 32);
    let case = Case::new(&lab, "d", &[&disk]);
    for columns in [22, 80] {
        let script = format!(
            "stty cols {columns} rows 20; exec '{}' backup -d d -o '{}' -U '{}' --scratchdir '{}' -l copy --disk-rate-limit 24M",
            program().to_str().unwrap(),
            lab.fresh_directory().display(),
            lab.uri(),
            lab.scratch().display()
        );
        let run = Command::new("script")
            .args(["-qefc", &script, "/dev/null"])
            .env(CACHE.0, CACHE.1)
            .env(CONFIG.0, CONFIG.1)
            .env("TERM", "xterm")
            .env_remove("COLUMNS")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(run.status.success(), "{run:?}");
        let lines = drawn(&String::from_utf8_lossy(&run.stdout));
        let bars: Vec<&String> = lines.iter().filter(|line| line.starts_with("vda ") && line.contains('%')).collect();
        assert!(!bars.is_empty(), "{lines:#?}");
        // The last line is filled up with blanks.
        assert!(lines.iter().all(|line| line.chars().count() <= columns || !line.contains('%')), "{lines:#?}");
        assert!(bars.iter().all(|line| line.trim_end().chars().count() < columns), "{bars:#?}");
        assert_eq!(bars.iter().any(|line| line.contains("/32.0 MiB")), columns == 80, "{bars:#?}");
        assert!(bars.iter().any(|line| line.contains('█')), "{bars:#?}");
    }
    // In a pipe there is none of it.
    let run = case.backup_to(&lab.fresh_directory(), &["-l", "copy"]).succeeds();
    assert!(!run.stderr.contains('\r') && !run.stderr.contains('\x1b') && !run.stderr.contains('█'), "{}", run.stderr);
}
