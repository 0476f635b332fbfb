//! `virtkeep doctor`: every kind of finding made for real; looking changes nothing, mending touches only
//! what is the set's own, and what is mended is in order afterwards.

use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::Value;

use super::interrupt::{random_disk, spawn};
use super::loss::kill_qemu;
use super::{Case, MIB, listing};
use crate::support::{Lab, Run, run, virtkeep};

impl Case<'_> {
    #[track_caller]
    fn doctor_of(&self, set: &Path, options: &[&str]) -> Run {
        let (uri, scratch, name) = (self.lab.uri(), self.lab.scratch(), self.domain.name());
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> =
            vec![&"doctor", &"-d", &name, &"-o", &set, &"-U", &uri, &"--scratchdir", &scratch];
        arguments.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
        virtkeep(&arguments)
    }

    /// Looks, and fails the test if that changes anything.
    #[track_caller]
    fn looks(&self, status: i32) -> Report {
        let before = self.everything();
        let table = self.doctor_of(&self.set, &[]).ends_with(status);
        let json = self.doctor_of(&self.set, &["--json"]).ends_with(status);
        assert_eq!(self.everything(), before, "looking changed something");
        Report { table: table.stdout, findings: findings(&json) }
    }

    /// Mends all there is, and fails the test unless all is in order then.
    #[track_caller]
    fn mends(&self, words: &[&str]) {
        let run = self.doctor_of(&self.set, &["--repair"]).succeeds().says(words);
        assert!(run.stdout.contains("mended") && !run.stdout.contains('!'), "{}{}", run.stdout, run.stderr);
        let after = self.looks(0);
        assert!(!after.table.contains('!'), "{}", after.table);
    }

    /// Fails the test unless mending leaves all as it is and says so.
    #[track_caller]
    fn mends_nothing(&self) {
        let before = self.everything();
        let run = self.doctor_of(&self.set, &["--repair"]).ends_with(3);
        assert!(run.stdout.contains("left: ") && !run.stdout.contains("mended"), "{}{}", run.stdout, run.stderr);
        assert_eq!(self.everything(), before, "mending touched what is not the set's");
    }

    /// All that a doctor could change: job, checkpoints, QEMU's bitmaps, files and their content.
    fn everything(&self) -> Vec<String> {
        let name = self.domain.name();
        let virsh = |arguments: &[&dyn AsRef<std::ffi::OsStr>]| self.lab.command("virsh", arguments).stdout;
        let mut all = vec![virsh(&[&"domstate", &name, &"--reason"]), virsh(&[&"backup-dumpxml", &name])];
        for checkpoint in self.checkpoints() {
            all.push(virsh(&[&"checkpoint-dumpxml", &name, &checkpoint]));
        }
        let nodes = virsh(&[&"qemu-monitor-command", &name, &r#"{"execute":"query-named-block-nodes"}"#]);
        let nodes: Value = serde_json::from_str(&nodes).unwrap_or_default();
        for node in nodes["return"].as_array().into_iter().flatten() {
            all.push(format!("{} {}", node["node-name"], node["dirty-bitmaps"]));
        }
        let images = self.lab.directory().join("disks");
        for directory in
            [&self.set, &self.set.join(".virtkeep"), &self.set.join("checkpoints"), &images, &self.lab.scratch()]
        {
            for file in listing(directory) {
                let path = directory.join(&file);
                let sum = if path.is_file() { run("sha256sum", &[&path]).stdout } else { String::new() };
                all.push(format!("{} {sum}", path.display()));
            }
        }
        // The note of who held the lock says who was last.
        all.retain(|line| !line.contains("/.virtkeep/lock "));
        all
    }
}

/// What a doctor found.
struct Report {
    table: String,
    findings: Vec<Value>,
}

#[track_caller]
fn findings(run: &Run) -> Vec<Value> {
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    document["findings"].as_array().unwrap().clone()
}

impl Report {
    /// The finding on `what`; all of `words` are in it.
    #[track_caller]
    fn has(&self, what: &str, words: &[&str]) -> &Value {
        let found = self.findings.iter().find(|finding| finding["what"].as_str().unwrap().contains(what));
        let found = found.unwrap_or_else(|| panic!("nothing on {what}:\n{}", self.table));
        for word in words {
            assert!(found.to_string().contains(word), "'{word}' is not in {found}");
        }
        found
    }

    /// Does what is advised on `what`, in a shell.
    #[track_caller]
    fn follow(&self, what: &str) {
        let advice = self.has(what, &[])["advice"].as_str().unwrap();
        let command = advice.split_once(": ").unwrap().1;
        run("sh", &[&"-c", &command]).succeeds();
    }

    #[track_caller]
    fn has_not(&self, what: &str) {
        let found = self.findings.iter().find(|finding| finding["what"].as_str().unwrap().contains(what));
        assert!(found.is_none(), "{found:?}");
    }
}

#[test]
fn a_killed_run_is_shown_and_undone() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48)]);
    case.backs_up(&[], &["vda"]);
    case.looks(0).has("checkpoint virtnbdbackup.0", &["good: vda", "this set, run"]);
    case.domain.write("vda", 0xaa, 0, 32 * MIB);
    let reference = case.domain.snapshot_reference("vda");
    let mut killed = spawn(&case, &["--compress=16", "-l", "inc"]);
    killed.copies(&case);
    // It would be over before all has been looked at.
    killed.signal("STOP");
    let beside = case.doctor_of(&case.set, &["--json"]).succeeds();
    let beside = Report { table: String::new(), findings: findings(&beside) };
    beside.has("backup job", &["good", "running", "this set"]);
    beside.has("lock of the set", &["process"]);
    beside.has(".vda.scratch", &["in use"]);
    beside.has("checkpoint virtnbdbackup.1", &["goes on"]);
    case.doctor_of(&case.set, &["--repair"]).ends_with(1).says(&["another run", "hint: "]);
    killed.signal("KILL");
    killed.wait().ends_with(137);

    let report = case.looks(3);
    report.has("run ", &["look", "DID NOT FINISH", "undoes it"]);
    report.has("backup job", &["look", "DEAD", "aborts it"]);
    report.has("checkpoint virtnbdbackup.1", &["look", "left behind", "unfinished run"]);
    report.has(".vda.scratch", &["look", "dead job"]);
    report.has("checkpoint virtnbdbackup.0", &["good"]);
    case.mends(&["did not finish: undoing it", "aborted the backup job", "removed checkpoint virtnbdbackup.1"]);
    case.is_as_before(&["virtnbdbackup.0"]);
    case.backup(&["-l", "inc"]).succeeds().says(&["vda: inc since virtnbdbackup.0"]);
    case.restores(&[], &["vda"], &[reference]);
}

#[test]
fn a_killed_run_whose_checkpoint_is_lost_leaves_a_bitmap() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &[&random_disk(&lab, 48), "vdb:4M"]);
    case.backup(&[]).succeeds();
    let lose = || {
        case.domain.write("vda", 0xaa, 0, 32 * MIB);
        let mut killed = spawn(&case, &["--compress=16", "-l", "inc"]);
        killed.copies(&case);
        killed.signal("KILL");
        killed.wait().ends_with(137);
        lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.1", &"--metadata"]);
    };
    lose();

    // A domain that is off can't be mended, and is told so.
    case.domain.stop();
    let off = case.looks(3);
    off.has("bitmap virtnbdbackup.1", &["look", "left behind", "vda (good), vdb (good)", "start the domain"]);
    off.has("run ", &["DID NOT FINISH", "start the domain"]);
    case.doctor_of(&case.set, &["--repair"]).ends_with(3);
    case.domain.start();
    case.looks(3).has("bitmap virtnbdbackup.1", &["look", "left behind", "removes it"]);
    case.mends(&["removed bitmap virtnbdbackup.1", "vda, vdb", "did not finish: undoing it"]);
    case.is_as_before(&["virtnbdbackup.0"]);
    case.domain.write("vdb", 0xbb, 0, MIB);
    let reference = case.domain.snapshot_reference("vdb");

    // The next backup does it by itself.
    lose();
    let next = case.backup(&["-l", "inc"]).succeeds();
    next.says(&["removed bitmap virtnbdbackup.1", "vdb: inc since virtnbdbackup.0"]);
    case.restores(&[], &["vdb"], &[reference]);
    case.looks(0);
}

#[test]
fn lost_checkpoints_are_told_again() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M"]);
    case.backup(&[]).succeeds();
    case.backup(&[]).succeeds();
    lab.virsh(&[
        &"snapshot-create-as",
        &"d",
        &"s",
        &"--disk-only",
        &"--no-metadata",
        &"--diskspec",
        &"vdb,snapshot=no",
    ]);
    case.looks(0).has("checkpoint virtnbdbackup.1", &["good: vda, vdb"]);
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.1", &"--metadata"]);
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.0", &"--metadata"]);
    for name in ["bitmap virtnbdbackup.0", "bitmap virtnbdbackup.1"] {
        case.looks(3)
            .has(name, &["look", "lost its checkpoint", "vda (good), vdb (good)", "tells libvirt of it again"]);
    }
    case.mends(&["Redefine missing checkpoint virtnbdbackup.0", "Redefine missing checkpoint virtnbdbackup.1"]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1"]);

    // Without the saved XML nobody can say on which disks it was.
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.1", &"--metadata"]);
    std::fs::remove_file(case.set.join("checkpoints/virtnbdbackup.1.xml")).unwrap();
    let report = case.looks(3);
    report.has("bitmap virtnbdbackup.1", &["look", "can't be told again", "block-dirty-bitmap-remove"]);
    case.mends_nothing();
    report.follow("bitmap virtnbdbackup.1");
    // QEMU has the image below the overlay open for reading.
    let below = case.looks(0);
    below.has("bitmap virtnbdbackup.1", &["note", "vda (only below an overlay)", "once the domain is off"]);
    case.domain.stop();
    below.follow("bitmap virtnbdbackup.1");
    case.looks(0).has_not("bitmap virtnbdbackup.1");
    case.domain.start();
    case.backup(&["-l", "inc"]).succeeds().says(&["vdb: inc since virtnbdbackup.0"]);
}

#[test]
fn checkpoints_without_good_bitmaps_are_removed() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M"]);
    let disks = &["vda", "vdb"];
    case.domain.write("vda", 0xaa, 0, MIB);
    case.backs_up(&[], disks);
    case.domain.stop();
    let remove = |disk: &str| {
        run("qemu-img", &[&"bitmap", &"--remove", &case.domain.image(disk), &"virtnbdbackup.0"]).succeeds();
    };
    remove("vdb");
    case.looks(0).has("checkpoint virtnbdbackup.0", &["note", "good: vda; missing: vdb"]);
    case.domain.start();
    // It still serves the other disk.
    case.looks(0).has("checkpoint virtnbdbackup.0", &["note", "good: vda; missing: vdb"]);
    case.domain.stop();
    remove("vda");
    case.looks(3).has("checkpoint virtnbdbackup.0", &["look", "USELESS", "missing: vda; missing: vdb"]);
    case.mends(&["removed checkpoint virtnbdbackup.0"]);
    assert_eq!(case.checkpoints(), [""; 0]);
    case.looks(0).has("next backup", &["virtnbdbackup.0 is gone"]);
    case.domain.start();
    case.backs_up(&[], disks).says(&["vda: full instead of an increment"]);

    // Stored once, then open when QEMU dies: broken for ever.
    case.domain.stop();
    case.domain.start();
    case.backs_up(&[], disks);
    kill_qemu(&lab, "d");
    case.looks(3).has("checkpoint virtnbdbackup.1", &["look", "broken: vda", "start the domain"]);
    case.looks(3).has("checkpoint virtnbdbackup.2", &["look", "USELESS", "missing: vda; missing: vdb"]);
    // What has a bitmap left keeps its checkpoint, which says whose it is.
    let half = case.doctor_of(&case.set, &["--repair"]).ends_with(3).says(&["removed checkpoint virtnbdbackup.2"]);
    assert!(half.stdout.contains("start the domain"), "{}", half.stdout);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.1"]);
    case.domain.start();
    case.looks(3).has("checkpoint virtnbdbackup.1", &["look", "USELESS", "broken: vda; broken: vdb"]);
    case.mends(&["removed checkpoint virtnbdbackup.1"]);
    assert_eq!(case.checkpoints(), [""; 0]);
    case.looks(0).has("bitmaps without a checkpoint", &["none"]);
    case.domain.write("vdb", 0xbb, 0, MIB);
    case.backs_up(&[], disks).says(&["vdb: full instead of an increment"]);
}

#[test]
fn what_is_not_the_sets_own_stays() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    case.backup(&[]).succeeds();
    lab.virsh(&[&"checkpoint-create-as", &"d", &"their-own"]);
    case.domain.stop();
    run("qemu-img", &[&"bitmap", &"--add", &case.domain.image("vda"), &"for'gotten"]).succeeds();
    case.looks(3).follow("bitmap for'gotten");
    case.looks(3).has_not("bitmap for'gotten");
    run("qemu-img", &[&"bitmap", &"--add", &case.domain.image("vda"), &"for'gotten"]).succeeds();
    case.domain.start();
    let stray = |rest: &str| lab.scratch().join(format!("virtkeep.11111111-2222-3333-4444-555555555555.{rest}"));
    std::fs::write(stray("vda.scratch"), b"x").unwrap();
    let socket = UnixListener::bind(stray("sock")).unwrap();
    std::fs::write(lab.scratch().join("virtkeep.txt"), b"x").unwrap();
    std::fs::write(case.set.join("vda.inc.virtnbdbackup.7.data.partial"), b"x").unwrap();
    begin_their_job(&lab);

    let report = case.looks(3);
    report.has("checkpoint their-own", &["look", "another tool", "checkpoint-delete d their-own"]);
    report.has("bitmap for'gotten", &["look", "not known", "vda (good)"]);
    report.has("vda.scratch", &["look", "unknown run", "rm "]);
    report.has("555555555555.sock", &["good", "in use"]);
    report.has_not("virtkeep.txt");
    report.has("virtnbdbackup.7.data.partial", &["look", "another tool", "rm "]);
    report.has("backup job", &["look", "another tool", "domjobabort"]);
    report.has("checkpoint virtnbdbackup.0", &["good"]);
    case.mends_nothing();

    drop(socket);
    let report = case.looks(3);
    report.has("555555555555.sock", &["look", "unknown run", "rm "]);
    case.mends_nothing();
    for what in
        ["vda.scratch", "555555555555.sock", ".partial", "backup job", "checkpoint their-own", "bitmap for'gotten"]
    {
        report.follow(what);
    }
    std::fs::remove_file(lab.scratch().join("virtkeep.txt")).unwrap();
    case.looks(0);
    case.backs_up(&["-l", "inc"], &["vda"]);
}

/// A job such as other tools begin.
fn begin_their_job(lab: &Lab) {
    let xml = lab.fresh_directory().join("job.xml");
    let (socket, scratch) = (lab.scratch().join("their.sock"), lab.scratch().join("their.scratch"));
    let text = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks><disk name='vda' backup='yes' \
         type='file'><driver type='qcow2'/><scratch file='{}'/></disk></disks></domainbackup>",
        socket.display(),
        scratch.display()
    );
    std::fs::write(&xml, text).unwrap();
    lab.virsh(&[&"backup-begin", &"d", &xml]);
}

#[test]
fn other_sets_and_other_domains() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let other = Case::new(&lab, "other", &["vda:4M"]);
    case.backup(&[]).succeeds();
    let before = case.everything();
    let wrong = other.doctor_of(&case.set, &["--repair"]).ends_with(3).says(&["nothing is mended"]);
    assert!(wrong.stdout.contains("another domain: d ("), "{}", wrong.stdout);
    assert_eq!(case.everything(), before);

    let second = case.set.with_file_name("second");
    case.backup_to(&second, &[]).succeeds();
    let report = case.looks(0);
    report.has("chain of the set", &["note", "ended", second.to_str().unwrap()]);
    report.has("checkpoint virtnbdbackup.0", &["note", "another set", second.to_str().unwrap()]);
    case.doctor_of(&second, &[]).succeeds();
    // The old set could not be told.
    std::fs::remove_file(case.set.join(".virtkeep/ended")).unwrap();
    case.looks(3).has("checkpoint virtnbdbackup.0", &["look", "another set", "-l full into an empty directory"]);
    case.mends_nothing();
    // Bitmaps bear names alone: this one is the other chain's.
    case.backup_to(&second, &["-l", "inc"]).succeeds();
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.0", &"--metadata"]);
    case.looks(3).has("bitmap virtnbdbackup.0", &["look", "can't be told again"]);
    case.mends_nothing();
}

#[test]
fn a_set_that_is_not_in_order() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    case.backup(&[]).succeeds();
    let reference = case.domain.snapshot_reference("vda");
    case.backup(&["-l", "inc"]).succeeds();

    // As killed right after the commit of the second run.
    let manifest = |checkpoint: &str| {
        let names = listing(&case.set);
        let mut manifests = names.iter().filter(|name| name.starts_with("manifest."));
        let is_it = |name: &&String| {
            let text = std::fs::read_to_string(case.set.join(name)).unwrap();
            let sealed: Value = serde_json::from_str(&text).unwrap();
            sealed["manifest"]["checkpoint"] == checkpoint
        };
        manifests.find(is_it).unwrap().clone()
    };
    let second = manifest("virtnbdbackup.1");
    let id = second.trim_start_matches("manifest.").trim_end_matches(".json");
    let uuid = lab.virsh(&[&"domuuid", &"d"]);
    let intent = serde_json::json!({
        "run": id, "domain_uuid": uuid.trim(), "uri": lab.uri(), "level": "inc", "checkpoint": "virtnbdbackup.1",
        "socket": lab.scratch().join("x.sock"), "scratch": [], "files": ["vda.inc.virtnbdbackup.1.data"],
    });
    std::fs::write(case.set.join(format!(".virtkeep/intent.{id}.json")), intent.to_string()).unwrap();
    let data = case.set.join("vda.inc.virtnbdbackup.1.data");
    std::fs::rename(&data, data.with_extension("data.partial")).unwrap();
    case.looks(3).has(id, &["look", "committed, but not tidied up", "completes it"]);
    case.mends(&["was committed"]);
    assert!(data.exists());
    case.restores(&[], &["vda"], std::slice::from_ref(&reference));
    // A socket that outlived its QEMU.
    drop(UnixListener::bind(lab.scratch().join(format!("virtkeep.{id}.sock"))).unwrap());
    case.looks(3).has(&format!("{id}.sock"), &["look", "this set", "removes it"]);
    case.mends(&["removed ", ".sock"]);

    // Damage is for verify to tell and for people to mend.
    let bad = case.set.join(".virtkeep/intent.bad.json");
    std::fs::write(&bad, b"{").unwrap();
    case.looks(3).has("records of unfinished runs", &["look", "intent.bad.json", "domjobinfo"]);
    case.mends_nothing_of_a_bad_set();
    std::fs::remove_file(bad).unwrap();
    let truncated = std::fs::read(&data).unwrap();
    std::fs::write(&data, &truncated[..truncated.len() / 2]).unwrap();
    case.looks(3).has("restore point", &["look", "DAMAGED FILES", "virtkeep verify -i"]);
    case.mends_nothing();
    std::fs::write(&data, truncated).unwrap();
    std::fs::write(case.set.join(&second), b"{").unwrap();
    let report = case.looks(3);
    report.has(&second, &["look", "damaged", "virtkeep verify -i"]);
    case.mends_nothing();
}

impl Case<'_> {
    #[track_caller]
    fn mends_nothing_of_a_bad_set(&self) {
        let before = self.everything();
        self.doctor_of(&self.set, &["--repair"]).ends_with(3).says(&["nothing is mended"]);
        assert_eq!(self.everything(), before);
    }
}

#[test]
fn a_domain_without_a_set() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let (uri, scratch) = (lab.uri(), lab.scratch());
    let alone: &[&dyn AsRef<std::ffi::OsStr>] = &[&"doctor", &"-d", &"d", &"-U", &uri, &"--scratchdir", &scratch];
    let report = virtkeep(alone).succeeds();
    assert!(report.stdout.contains("none named") && report.stderr.is_empty(), "{}{}", report.stdout, report.stderr);
    case.backup(&[]).succeeds();
    let report = virtkeep(alone).succeeds();
    assert!(report.stdout.contains("virtkeep run") && report.stdout.contains(case.set.to_str().unwrap()));
    let repair: Vec<_> = alone.iter().copied().chain([&"--repair" as _]).collect();
    virtkeep(&repair).ends_with(2).says(&["--output"]);
    let nowhere = lab.directory().join("nowhere");
    case.doctor_of(&nowhere, &[]).ends_with(1).says(&["nowhere", "hint: "]);
    case.doctor_of(&nowhere, &["--repair"]).ends_with(1);
    assert!(!nowhere.exists());
    // A set that virtkeep has not written to yet.
    let plain = lab.fresh_directory();
    case.doctor_of(&plain, &[]).succeeds();
    assert_eq!(listing(&plain), [""; 0]);
}
