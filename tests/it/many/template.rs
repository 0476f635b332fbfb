//! Directories that follow from the time.

use std::ffi::OsStr;
use std::path::Path;

use super::{arguments, data};
use crate::support::{Lab, Run, compare, listing, run, virtkeep};

/// A backup at the time that it is in a zone: two of them lie a day apart.
#[track_caller]
fn backup_in(zone: &str, lab: &Lab, output: &Path, options: &[&str]) -> Run {
    let program = crate::support::program();
    let (zone, arguments) = (format!("TZ={zone}"), arguments(lab, output, options));
    let mut all: Vec<&dyn AsRef<OsStr>> = vec![&zone, &program];
    all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<OsStr>));
    run("env", &all)
}

#[test]
fn a_new_directory_begins_a_new_chain_and_ends_the_old_one() {
    let lab = Lab::up();
    let domain = lab.domain("web", &["vda:4M"]);
    let output = lab.fresh_directory();
    let template = output.join("%d/%F");
    let (today, tomorrow) = ("AAA12", "AAA-12");
    domain.write("vda", 0x11, 0, 1 << 20);
    for level in ["full", "inc"] {
        backup_in(today, &lab, &template, &["-d", "web"]).succeeds().says(&[&format!("{level} backup of web")]);
    }
    let old = listing(&output.join("web"));
    assert_eq!(old.len(), 1, "one day: {old:?}");
    let old = output.join("web").join(&old[0]);
    assert_eq!(data(&old), ["vda.full.data", "vda.inc.virtnbdbackup.1.data"]);

    domain.write("vda", 0x22, 1 << 20, 1 << 20);
    let said = backup_in(tomorrow, &lab, &template, &["--all"]).succeeds();
    said.says(&["executing full backup", "this full backup ends the chain", "web: vda: full"]);
    let days = listing(&output.join("web"));
    assert_eq!(days.len(), 2);
    let new = output.join("web").join(&days[1]);
    assert!(old.join(".virtkeep/ended").exists() && !new.join(".virtkeep/ended").exists());
    domain.write("vda", 0x33, 0, 4096);
    let reference = domain.snapshot_reference("vda");
    backup_in(tomorrow, &lab, &template, &["-d", "web"]).succeeds().says(&["inc backup of web"]);
    assert_eq!(data(&new), ["vda.full.data", "vda.inc.virtnbdbackup.1.data"]);
    // The old one is not continued, and can be restored.
    backup_in(today, &lab, &template, &["-d", "web"]).ends_with(1).says(&["another chain took over"]);
    for set in [&old, &new] {
        virtkeep(&[&"verify", &"-n", &"-i", set]).succeeds();
    }
    let out = lab.fresh_directory();
    virtkeep(&[&"restore", &"-n", &"-i", &new, &"-o", &out]).succeeds();
    compare(&out.join("web-vda.qcow2"), "qcow2", &reference);
}

#[test]
fn names_of_domains_stay_below_the_directory() {
    let lab = Lab::up();
    lab.domain(".x", &["vda:1M"]);
    lab.domain("100%d", &["vda:1M"]);
    let output = lab.fresh_directory();
    backup_in("UTC0", &lab, &output.join("sets"), &["--all"]).succeeds();
    backup_in("UTC0", &lab, &output.join("one/%d"), &["-d", ".x", "-l", "copy"]).succeeds();
    backup_in("UTC0", &lab, &output.join("literal/%%d"), &["-d", ".x", "-l", "copy"]).succeeds();
    assert_eq!(listing(&output), ["literal", "one", "sets"]);
    assert_eq!(listing(&output.join("sets")), ["%2Ex", "100%25d"]);
    assert_eq!(listing(&output.join("one")), ["%2Ex"]);
    assert_eq!(listing(&output.join("literal")), ["%d"]);
}
