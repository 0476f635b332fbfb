//! Runs that fail or die between a raw image and its index.

use crate::support::{Case, Lab, MIB, compare, spawn_with, virtkeep};

#[test]
fn an_image_is_there_with_its_index_or_not_at_all() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M:raw"]);
    case.domain.write("vda", 1, 0, MIB);
    case.domain.write("vdb", 2, MIB, MIB);
    let references = case.domain.snapshot_references(&["vda", "vdb"]);
    let options = ["-l", "full", "-r", "-t", "raw"];
    let restores = || {
        virtkeep(&[&"verify", &"-n", &"-i", &case.set]).succeeds();
        let out = lab.fresh_directory().join("out");
        virtkeep(&[&"restore", &"-n", &"-i", &case.set, &"-o", &out]).succeeds();
        compare(&out.join("d-vda.qcow2"), "qcow2", &references[0]);
        compare(&out.join("d-vdb.raw"), "raw", &references[1]);
    };
    for place in ["index-created", "index-written", "stream-written"] {
        spawn_with(&case, &options, &format!("{place}=error")).wait().ends_with(1).says(&[place, "undoing the run"]);
        case.is_as_before(&[]);
        spawn_with(&case, &options, &format!("{place}=kill")).wait().ends_with(137);
        // Nothing is there for a restore.
        virtkeep(&[&"restore", &"-n", &"-i", &case.set, &"-o", &lab.fresh_directory()]).ends_with(1);
    }
    // The first image has its name, its index has not.
    spawn_with(&case, &options, "half-renamed=kill").wait().ends_with(137);
    assert!(case.set.join("vda.full.data").exists() && case.set.join("vda.full.data.index.partial").exists());
    restores();
    case.backup(&["-r"]).succeeds().says(&["was committed, but not tidied up", "vda: inc since virtnbdbackup.0"]);
    case.no_traces();
    assert!(case.set.join("vda.full.data.index").exists());
}
