//! Every command line in README and docs is one that the program takes, and those that can be run here are run.

use std::path::Path;
use std::process::{Command, Stdio};

use clap::CommandFactory;
use clap::error::ErrorKind;
use virtkeep::cli::Cli;
use virtkeep::cli::dropin::Tool;

use super::shell::{Line, commands, documents, lines};
use crate::support::{CACHE, CONFIG, Case, Lab, program};

/// Parses all of virtkeep's commands in a text, and returns how many there were.
#[track_caller]
fn parse(place: &str, text: &str, may_lack: bool) -> usize {
    let mut count = 0;
    for mut words in commands(text) {
        while words.first().is_some_and(|word| word == "exec" || word == "sudo" || word.contains('=')) {
            words.remove(0);
        }
        let Some(name) = words.first().and_then(|word| Path::new(word).file_name()?.to_str().map(str::to_owned)) else {
            continue;
        };
        if name == "sh" && words.get(1).is_some_and(|word| word == "-c") {
            count += parse(place, &words[2], may_lack);
        }
        // What is left open in a sentence; the value of an option stays.
        let may_lack = may_lack || words.iter().any(|word| word == "…");
        let is_value = |index: usize, words: &[String]| index > 0 && words[index - 1].starts_with('-');
        while let Some(open) = (0..words.len()).find(|&index| words[index] == "…" && !is_value(index, &words)) {
            words.remove(open);
        }
        if words.len() < 2 {
            continue;
        }
        let definition = match Tool::ALL.into_iter().find(|tool| tool.name() == name) {
            Some(tool) => tool.command(),
            None if name == "virtkeep" => Cli::command(),
            None => continue,
        };
        // `virtkeep COMMAND`, or the program's name alone.
        if may_lack && words[1].chars().all(|letter| letter.is_ascii_uppercase()) {
            continue;
        }
        count += 1;
        match definition.try_get_matches_from(&words) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {}
            // Where backups go may stand in the configuration.
            Err(error) if error.kind() == ErrorKind::MissingRequiredArgument && words[1] == "backup" => {}
            // NAME or SECONDS instead of one.
            Err(error)
                if may_lack
                    && matches!(
                        error.kind(),
                        ErrorKind::MissingRequiredArgument | ErrorKind::ValueValidation | ErrorKind::InvalidValue
                    ) => {}
            Err(error) => panic!("{place}: {text}\n{error}"),
        }
    }
    count
}

#[test]
fn every_command_line_is_one_that_the_program_takes() {
    let mut count = 0;
    for file in documents(Path::new(env!("CARGO_MANIFEST_DIR"))) {
        for Line { file, text, inline } in lines(&file) {
            // What a unit does not say is in the configuration that packages install.
            let may_lack = inline || file.extension().is_some_and(|end| end == "service");
            count += parse(&file.display().to_string(), &text, may_lack);
        }
    }
    assert!(count > 100, "only {count} were found");
    // The examples of the commands themselves.
    let mut examples = 0;
    for command in Cli::command().get_subcommands() {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let begin = text.split_once("Examples:\n").map_or("", |(_, rest)| rest);
        let text = begin.split("\n\n").next().unwrap_or_default().replace("\\\n      ", "");
        for line in text.lines().map(str::trim_start).filter(|line| line.starts_with("virtkeep ")) {
            // What is behind two spaces is a remark.
            let line = line.split("  ").next().unwrap_or_default();
            examples += parse(command.get_name(), line, false);
        }
    }
    assert!(examples > 30, "only {examples} examples");
}

/// What is not run here, by a part of the line, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("tests/", "tests of the program itself"),
    ("cargo ", "builds it"),
    ("ln -s", "changes this machine"),
    ("qemu+ssh://", "another host: tests/it/remote"),
    ("ssh host", "another host"),
    ("/dev/vg0", "a device: tests/it/raw/device.rs"),
    ("--boot", "a guest that boots: tests/it/map/boot.rs"),
    ("virtkeep unmap", "a map that runs: tests/it/map/boot.rs"),
    ("--fuse", "goes on until it is interrupted: tests/it/map/tools.rs"),
    ("--writable ", "goes on until it is interrupted: tests/it/map/writable.rs"),
    ("virtkeep map -i /backup/web -d vda    ", "goes on until it is interrupted: tests/it/map"),
    ("virtkeep ls", "an operating system on the disks: tests/it/files"),
    ("virtkeep cp", "an operating system on the disks: tests/it/files"),
    ("--all", "all of a host's domains: tests/it/many"),
    ("/backup/web-$(date", "ends the chain that the lines below go on with"),
];

/// The pages whose lines belong together, in their order.
const RUN: [&str; 2] = ["README.md", "docs/first-backup.md"];

#[test]
fn the_commands_of_the_readme_run() {
    let lab = Lab::up();
    let case = Case::new(&lab, "web", &["vda:4M", "vdb:1M"]);
    case.domain.write("vda", 0x11, 0, 1 << 20);
    let root = lab.fresh_directory();
    let bin = root.join("bin");
    std::fs::create_dir_all(root.join("work")).unwrap();
    std::fs::create_dir_all(&bin).unwrap();
    for name in ["virtkeep", "virtnbdbackup"] {
        std::os::unix::fs::symlink(program(), bin.join(name)).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut run = Vec::new();
    let mut unused: Vec<&str> = NOT_RUN.iter().map(|(part, _)| *part).collect();
    for page in RUN {
        for line in lines(&Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).into_iter().filter(|line| !line.inline) {
            let parts: Vec<&str> =
                NOT_RUN.iter().map(|(part, _)| *part).filter(|part| line.text.contains(part)).collect();
            unused.retain(|part| !parts.contains(part));
            if !parts.is_empty() || !commands(&line.text).iter().any(|words| words[0].starts_with("virt")) {
                continue;
            }
            let text = here(&line.text, &root, &case);
            // The drop-in commands know no variable for it.
            let text = text.replace("virtnbdbackup -d", "virtnbdbackup -U \"$VIRTKEEP_URI\" -d");
            let output = Command::new("bash")
                .args(["-o", "pipefail", "-c", &text])
                .current_dir(root.join("work"))
                .env("PATH", &path)
                .env("VIRTKEEP_URI", lab.uri())
                .env("VIRTKEEP_BACKUP_SCRATCHDIR", lab.scratch())
                .env("VIRTKEEP_VERIFY_SCRATCHDIR", lab.scratch())
                .env(CACHE.0, CACHE.1)
                .env(CONFIG.0, CONFIG.1)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(output.status.success(), "{page}: {text}: {output:?}");
            run.push(text);
            // Examples are each for themselves: none restores beside another's images.
            for place in ["restore", "var/lib/libvirt/images"] {
                let _ = std::fs::remove_dir_all(root.join(place));
            }
        }
    }
    assert!(run.len() > 15, "{run:#?}");
    assert!(unused.is_empty(), "no line has {unused:?} any more");
    case.domain.remove();
}

/// The line with this machine's directories, times and runs in place of the examples'.
fn here(text: &str, root: &Path, case: &Case<'_>) -> String {
    let mut text = text.to_owned();
    for place in ["/backup", "/restore", "/var/lib/libvirt/images", "/var/lib/virtkeep"] {
        let (from, to) = (format!(" {place}"), format!(" {}{place}", root.display()));
        text = text.replace(&from, &to);
    }
    let today = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
    let text = text.replace("2026-11-20", &today);
    if !text.contains("30d39ca9") {
        return text;
    }
    let set = root.join("backup").join(case.domain.name());
    let json = crate::support::virtkeep(&[&"dump", &"-i", &set, &"--json"]).succeeds().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    text.replace("30d39ca9", &json["restore_points"][0]["id"].as_str().unwrap()[..8])
}
