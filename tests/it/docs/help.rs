//! What `--help` prints behind the options fits the screen: examples are whole, prose is not broken twice.

use clap::{Command, CommandFactory};
use virtkeep::cli::Cli;
use virtkeep::cli::dropin::Tool;

fn all() -> Vec<Command> {
    let program = Cli::command();
    let mut all: Vec<Command> = program.get_subcommands().cloned().collect();
    all.extend(Tool::ALL.into_iter().map(Tool::command));
    all.push(program);
    all
}

#[test]
fn help_is_whole_at_usual_widths() {
    let mut examples = 0;
    for command in all() {
        let name = command.get_name().to_owned();
        let written = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let written: Vec<&str> = written.trim_end().split("\n\n").filter(|text| !text.is_empty()).collect();
        for width in [80, 100] {
            let help = command.clone().term_width(width).render_long_help().to_string();
            let shown: Vec<&str> = help.trim_end().split("\n\n").collect();
            let shown = &shown[shown.len() - written.len()..];
            for (written, shown) in written.iter().zip(shown) {
                if written.starts_with("Examples:") {
                    examples += written.lines().count();
                    assert_eq!(written, shown, "{name}: an example is broken at {width} columns");
                    continue;
                }
                // What is wrapped by hand is wrapped again, with single words between.
                assert!(!written.contains('\n'), "{name}: wrapped by hand: {written}");
                let mut lines: Vec<&str> = shown.lines().collect();
                lines.pop();
                assert!(lines.iter().all(|line| line.contains(' ')), "{name}: a word alone at {width}: {shown}");
            }
            assert!(
                shown.iter().flat_map(|text| text.lines()).all(|line| line.chars().count() <= width),
                "{name}: {help}"
            );
        }
    }
    assert!(examples > 80, "only {examples} lines of examples");
}
