//! Bitmaps and checkpoints that do not match: broken by a crash, half defined, orphaned.

use super::chain;
use crate::support::{Case, Lab, MIB, run};

#[test]
fn a_bitmap_broken_by_a_crash_goes_with_the_next_run() {
    let lab = Lab::up();
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    // Stored by a clean stop, and in use when QEMU dies.
    case.domain.stop();
    case.domain.start();
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    case.domain.kill();
    case.domain.start();
    case.domain.write("vda", 0xb1, 3 * MIB, 65536);
    case.backs_up(&[], &["vda"])
        .says(&["vda: full instead of an increment, because its bitmap", "is missing or broken"]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.2"]);
    case.domain.write("vda", 0xb2, 4 * MIB, 65536);
    let run = case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.2"]);
    assert!(!run.stderr.contains("virtnbdbackup.1"), "{}", run.stderr);
    assert_eq!(case.bitmaps("vda"), ["virtnbdbackup.2", "virtnbdbackup.3"]);
}

#[test]
fn a_bitmap_broken_on_one_disk_keeps_the_others_incremental() {
    let lab = Lab::up();
    let disks = ["vda", "vdb"];
    let case = chain(&lab, &["vda:8M", "vdb:8M"], &disks);
    case.domain.stop();
    // As a writer that was killed leaves them.
    case.break_bitmaps("vdb");
    case.domain.start();
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    case.domain.write("vdb", 0xb1, 3 * MIB, 65536);
    let run = case.backs_up(&[], &disks);
    run.says(&["vdb: full instead of an increment, because its bitmap", "vda: inc since virtnbdbackup.1"]);
    case.domain.write("vdb", 0xb2, MIB, 65536);
    case.backs_up(&["--strict"], &disks).says(&["vdb: inc since virtnbdbackup.2"]);
    // What is left broken goes with the checkpoint.
    case.backs_up(&["--strict", "--keep-checkpoints", "2"], &disks).says(&["removed checkpoint virtnbdbackup.1"]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.3", "virtnbdbackup.4"]);
    assert_eq!(case.bitmaps("vdb"), ["virtnbdbackup.3", "virtnbdbackup.4"]);
}

#[test]
fn a_bitmap_that_nobody_knows_gives_its_name_up() {
    let lab = Lab::up();
    let disks = ["vda", "vdb"];
    let case = chain(&lab, &["vda:8M", "vdb:8M"], &disks);
    case.domain.stop();
    // Left by a run that failed, when the host has lost its checkpoints.
    case.qemu_img(&[&"bitmap", &"--add", &case.domain.image("vdb"), &"virtnbdbackup.2"]);
    case.domain.start();
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    case.domain.write("vdb", 0xb1, 3 * MIB, 65536);
    let run = case.backs_up(&["--strict"], &disks);
    run.says(&["removed bitmap virtnbdbackup.2 on vdb,", "vdb: inc since virtnbdbackup.1"]);
    // Broken ones, too.
    case.domain.stop();
    for disk in disks {
        case.qemu_img(&[&"bitmap", &"--add", &case.domain.image(disk), &"virtnbdbackup.3"]);
    }
    case.break_bitmaps("vda");
    case.domain.start();
    case.domain.write("vdb", 0xb2, MIB, 65536);
    case.backs_up(&[], &disks).says(&["removed bitmap virtnbdbackup.3 on vda, vdb,", "vdb: inc since virtnbdbackup.2"]);
}

#[test]
fn a_marker_left_in_the_list_is_forgotten() {
    let lab = Lab::up();
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    case.domain.stop();
    let marker = case.all_bitmaps("vda").into_iter().find(|name| name.starts_with("virtkeep.")).unwrap();
    let xml = format!(
        "<domaincheckpoint><name>{marker}</name><creationTime>1</creationTime>\
         <disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>"
    );
    lab.virsh(&[&"checkpoint-create", &"d", &case.file(&xml), &"--redefine"]);
    case.domain.start();
    case.domain.write("vda", 0xb0, MIB, 65536);
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.1"]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1", "virtnbdbackup.2"]);
    assert_eq!(case.bitmaps("vda"), ["virtnbdbackup.0", "virtnbdbackup.1", "virtnbdbackup.2"]);
}

/// A run that fails takes its marker back.
#[test]
fn a_failed_full_leaves_no_marker() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.backup(&["-f", "/nowhere/socket"]).ends_with(1);
    case.is_as_before(&[]);
    case.backs_up(&[], &["vda"]);
    assert_eq!(case.bitmaps("vda"), ["virtnbdbackup.0"]);
}

impl Case<'_> {
    /// The names of the bitmaps in a stopped domain's image.
    pub(super) fn all_bitmaps(&self, disk: &str) -> Vec<String> {
        self.bitmaps_that(disk, |_| true)
    }

    /// Those of them that QEMU stored when it ended.
    pub(super) fn whole_bitmaps(&self, disk: &str) -> Vec<String> {
        self.bitmaps_that(disk, |flags| !flags.contains(&"in-use".into()))
    }

    fn bitmaps_that(&self, disk: &str, suit: impl Fn(&[serde_json::Value]) -> bool) -> Vec<String> {
        let info = run("qemu-img", &[&"info", &"--output=json", &self.domain.image(disk)]).succeeds();
        let info: serde_json::Value = serde_json::from_str(&info.stdout).unwrap();
        // Without any the list is not there.
        let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array().into_iter().flatten();
        let suiting = bitmaps.filter(|bitmap| suit(bitmap["flags"].as_array().unwrap()));
        let mut names: Vec<String> = suiting.map(|bitmap| bitmap["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    /// Those of checkpoints; beside them there is one marker. The domain is stopped for it.
    fn bitmaps(&self, disk: &str) -> Vec<String> {
        self.domain.stop();
        let (markers, names): (Vec<_>, Vec<_>) =
            self.all_bitmaps(disk).into_iter().partition(|name| name.starts_with("virtkeep."));
        assert_eq!(markers.len(), 1, "{markers:?}");
        self.domain.start();
        names
    }

    /// Leaves the bitmaps in a stopped domain's image marked as in use.
    fn break_bitmaps(&self, disk: &str) {
        let script = "qemu-io -c 'write 0 512' -c 'sigraise 9' \"$0\"; true";
        run("bash", &[&"-c", &script, &self.domain.image(disk)]).succeeds();
        let info = run("qemu-img", &[&"info", &self.domain.image(disk)]).succeeds();
        assert!(info.stdout.contains("in-use"), "{}", info.stdout);
    }
}

#[test]
fn a_checkpoint_left_with_one_disk_is_completed() {
    let lab = Lab::up();
    let disks = ["vda", "vdb"];
    let case = chain(&lab, &["vda:8M", "vdb:8M"], &disks);
    // What a crash leaves in the middle of checking bitmaps disk by disk.
    for name in ["virtnbdbackup.0", "virtnbdbackup.1"] {
        let xml = case.virsh(&["checkpoint-dumpxml", "d", name, "--no-domain"]);
        let bitmap = format!("<disk name='vda' checkpoint='bitmap' bitmap='{name}'/>");
        let alone = xml.replace(&bitmap, "<disk name='vda' checkpoint='no'/>");
        assert_ne!(xml, alone);
        lab.virsh(&[&"checkpoint-create", &"d", &case.file(&alone), &"--redefine"]);
    }
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    case.domain.write("vdb", 0xb1, 3 * MIB, 65536);
    let run = case.backs_up(&["--strict"], &disks);
    run.says(&["checkpoint virtnbdbackup.1 is told again of vda", "vda: inc since virtnbdbackup.1", "vdb: inc since"]);
    let run = case.backs_up(&["--strict"], &disks).says(&["vda: inc since virtnbdbackup.2"]);
    assert!(!run.stderr.contains("told again"), "{}", run.stderr);
    let xml = case.virsh(&["checkpoint-dumpxml", "d", "virtnbdbackup.1", "--no-domain"]);
    assert!(xml.contains("'vda' checkpoint='bitmap'") && xml.contains("'vdb' checkpoint='bitmap'"), "{xml}");
}
