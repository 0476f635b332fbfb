//! What nobody else may see: permissions, passwords.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{Case, Lab, run, spawn_with};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The permissions of everything in a set: of files, of directories.
fn modes(set: &Path) -> (Vec<u32>, Vec<u32>) {
    let (mut files, mut directories) = (Vec::new(), vec![mode(set)]);
    for folder in [set.to_owned(), set.join(".virtkeep"), set.join("checkpoints")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(mode(&path))
            } else if !path.ends_with("lock") {
                files.push(mode(&path))
            }
        }
    }
    for modes in [&mut files, &mut directories] {
        modes.sort_unstable();
        modes.dedup();
    }
    (files, directories)
}

#[test]
fn permissions_are_private_or_as_asked() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:1M"]);
    case.backup(&["-z"]).succeeds();
    case.backup(&[]).succeeds();
    assert_eq!(modes(&case.set), (vec![0o600], vec![0o700]));
    let other = case.set.with_file_name("other");
    case.backup_to(&other, &["-l", "full", "--mode", "0640"]).succeeds();
    case.backup_to(&other, &["-l", "inc", "--mode", "640"]).succeeds();
    assert_eq!(modes(&other), (vec![0o640], vec![0o750]));
    for bad in ["0755", "0400", "abc", "0"] {
        case.backup_to(&other, &["--mode", bad]).ends_with(2).says(&["--mode", "0640"]);
    }
}

fn command_line(process: &str) -> String {
    String::from_utf8(std::fs::read(format!("/proc/{process}/cmdline")).unwrap()).unwrap()
}

#[test]
fn passwords_are_not_in_the_list_of_processes() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:1M"]);
    for given in [&["--password", "s3cr3t-pass"][..], &["--password=s3cr3t-pass"]] {
        let mut backup = spawn_with(&case, &[given, &["-S"]].concat(), "stream-created=stop");
        backup.stops();
        let own = backup.id().to_string();
        let children = run("pgrep", &[&"-P", &own]).stdout;
        let lines: Vec<String> = [&*own].into_iter().chain(children.split_whitespace()).map(command_line).collect();
        assert!(lines[0].contains("--password-file"), "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains("s3cr3t")), "{lines:?}");
        backup.signal("CONT");
        backup.wait().succeeds();
    }
}
