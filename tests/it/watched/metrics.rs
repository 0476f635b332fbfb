//! `backup --metrics`.

use std::path::Path;

use super::mode;
use crate::support::{Case, Lab, MIB, run, spawn_with, virtkeep};

/// The value of `virtkeep_backup_NAME` of a domain.
#[track_caller]
pub fn value(path: &Path, name: &str, domain: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let begin = format!("virtkeep_backup_{name}{{domain=\"{domain}\",");
    let line = text.lines().find(|line| line.starts_with(&begin))?;
    Some(line.rsplit(' ').next()?.to_owned())
}

/// Prometheus' own tool finds nothing wrong.
#[track_caller]
pub fn is_sound(path: &Path) {
    run("sh", &[&"-c", &"promtool check metrics <\"$1\" 2>&1", &"sh", &path]).succeeds();
}

#[test]
fn a_failed_run_leaves_the_last_success_as_it_was() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let directory = lab.fresh_directory();
    let path = directory.join("virtkeep.prom");
    let options = ["--metrics", path.to_str().unwrap()];
    let of = |name: &str| value(&path, name, "d");
    // Nothing is known of a success.
    spawn_with(&case, &options, "extents-known=error").wait().ends_with(1);
    is_sound(&path);
    assert_eq!(mode(&path), 0o644);
    assert_eq!(of("last_run_exit_code").as_deref(), Some("1"));
    assert_eq!(of("last_success_timestamp_seconds"), None);

    case.backup(&options).succeeds();
    case.backup(&options).succeeds();
    is_sound(&path);
    let success = of("last_success_timestamp_seconds");
    assert!(success.is_some() && of("last_run_duration_seconds").is_some());
    assert_eq!(of("last_run_exit_code").as_deref(), Some("0"));
    assert!(of("last_run_timestamp_seconds") >= success);
    assert_eq!(of("chain_length").as_deref(), Some("2"));
    let text = std::fs::read_to_string(&path).unwrap();
    let set = case.set.display();
    for line in [
        format!("virtkeep_backup_disk_bytes{{domain=\"d\",output=\"{set}\",disk=\"vda\",kind=\"virtual\"}} 4194304\n"),
        format!("virtkeep_backup_disk_bytes{{domain=\"d\",output=\"{set}\",disk=\"vda\",kind=\"data\"}} 0\n"),
        format!("virtkeep_backup_disk_data_stored_ratio{{domain=\"d\",output=\"{set}\",disk=\"vda\"}} 0\n"),
    ] {
        assert!(text.contains(&line), "{line} is missing: {text}");
    }

    // From the old file, and where that is gone from the set.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    for is_there in [true, false] {
        if !is_there {
            std::fs::remove_file(&path).unwrap();
        }
        spawn_with(&case, &options, "extents-known=error").wait().ends_with(1);
        is_sound(&path);
        assert_eq!(of("last_run_exit_code").as_deref(), Some("1"));
        assert_eq!(of("last_success_timestamp_seconds"), success, "{is_there}");
        assert!(of("last_run_timestamp_seconds") > success);
        assert_eq!(of("chain_length").as_deref(), Some("2"));
    }

    // Beside the figures of `status` nothing is there twice.
    let status = directory.join("status.prom");
    virtkeep(&[&"status", &"-i", &case.set, &"--metrics", &status]).succeeds();
    let both = directory.join("both");
    let text = [&path, &status].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    std::fs::write(&both, text).unwrap();
    is_sound(&both);
    // A file that is no such thing is replaced.
    std::fs::write(&path, [0xff, b'\n', b'x', b'{', b'}']).unwrap();
    case.backup(&options).succeeds();
    is_sound(&path);
    assert_eq!(of("chain_length").as_deref(), Some("3"));
}
