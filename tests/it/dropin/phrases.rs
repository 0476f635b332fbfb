//! What virtnbdbackup says, scripts look for: each of its phrases is said by ours, too, or stands in a list with
//! the reason why not.

use std::collections::BTreeSet;

use super::{back_up, backup, fixture, restore};
use crate::support::{Case, Lab, MIB, Run, TestDomain, copy_of, run};

/// The phrases that people's scripts are known to look for.
const KNOWN: &[&str] = &[
    "Finished successfully",
    "Backup level: [",
    "Concurrent backup processes: [",
    "extents to backup.",
    "Excluding disk [",
    "Estimated checkpoint backup size: [",
    "does not meet required threshold",
    "End of stream",
    "Adjusted config placed in: [",
    "No full backup found in target directory",
    "Foreign checkpoint found",
    "Redefine missing checkpoint",
    "Saved qcow image config",
    "Domain is offline, resetting backup options",
    "Starting domain in paused state",
    "Backup mode auto, target folder is empty: executing full backup",
    "Reached checkpoint [",
    "non-sparse blocks for current bitmap",
    "Skipping detection of sparse",
    "switching backup to full",
];

/// What ours does not say, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("Restoring raw image to [*]", "raw disks are written as others are"),
    ("Offline backup, starting local NBD server, socket: [*]", "the server is the engine's own affair"),
    ("Local NBD Service started, PID: [*]", "the server is the engine's own affair"),
    ("Stopping NBD Service.", "the server is the engine's own affair"),
    ("Target device [*] does not exist, please load nbd module: [*]", "virtkeep map says where it serves"),
    ("Logfile: [*]", "virtkeep map says where it serves"),
    ("Plugin location: [*]", "virtnbdmap: there is no plugin"),
    ("Check README on how to adjust virtual machine configuration to enable full support for disk: [*].", "its README"),
    ("Domain info: OS: [*] Arch: [*] Hostname: [*]", "the same is in osinfo.*"),
    ("Local NBD library version: [*]", "says nothing of the backup"),
    ("Virtual disk discard option: [*]", "says nothing of the backup"),
    ("Setting image compression type: [*]", "says nothing of the restore"),
    ("Using QCOW options from backup file: [*]", "says nothing of the restore"),
    ("Removing existent backing store settings", "restored images have no backing store; nothing is said of it"),
    ("Starting local NBD server on socket: [*]", "there is no server with that socket"),
    ("Started NBD server, PID: [*]", "there is no server with that socket"),
    ("Unable to connect libvirt: [*]", "no connection is made where none is needed"),
    ("Unable to connect libvirt: [*]: cannot define VM", "the error says it in other words"),
    ("Restore path [*] seems not to be an libvirt managed pool, skipping refresh.", "pools are not looked at"),
    ("Failed to start backup: [*]", "of a bitmap that is in the way: it is removed"),
    ("Error during backup", "the error itself is said"),
    ("Domain not found: no domain with matching name '*'", "after the name of the domain and the URI"),
    (
        "Redefining checkpoint failed: [*]: checkpoint inconsistent: missing or broken bitmap '*' for disk '*'",
        "with the domain's name before libvirt's words",
    ),
    ("Unknown Exception during backup:", "of -z 0, which is refused"),
    ("Failed to redefine checkpoints.", "goes on with a full of the disk, and says so"),
    ("Redefining checkpoint failed: [*]: invalid argument: parent * for moment * not found", "parents come first here"),
    ("One of the last backups seems to have failed.", "the hint says what to do"),
    ("Consider re-executing full backup.", "the hint says what to do"),
    ("Unable to locate base full or copy backup.", "the error itself is said"),
    ("[*]: Unable to locate base full or copy backup.", "the error itself is said"),
    ("No checksum found, skipping: [*]", "it is not skipped: an error"),
];

/// The messages of `run`'s lines.
fn messages(run: &Run) -> impl Iterator<Item = &str> {
    run.stderr.lines().filter_map(|line| Some(line.split_once("]: ")?.1))
}

/// Whether `text` is what `pattern` stands for; each `*` in it is any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    rest.is_empty() || text.char_indices().any(|(at, _)| matches(rest, &text[at..])) || matches(rest, "")
}

#[test]
fn patterns_match() {
    for (pattern, text, expected) in [
        ("Got * extents to backup.", "Got 12 extents to backup.", true),
        ("Got * extents to backup.", "Got 12 extents to back", false),
        ("*: [*]", "vda: [nbd+unix:///vda]", true),
        ("a*", "a", true),
        ("a*b", "a", false),
        ("OK", "OK!", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    }
}

/// Everything said in all modes.
fn all_modes() -> Vec<Run> {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M"]);
    let mut runs = backups(&case);
    runs.extend(chain_trouble(&case));
    runs.extend(restores(&case));
    runs.extend(special_disks(&lab));
    runs.extend(with_a_guest(&lab));
    runs.push(to_stdout(&lab));
    runs.extend(refusals(&lab));
    runs
}

fn backups(case: &Case<'_>) -> Vec<Run> {
    let write = |place: u64| case.domain.write("vda", place as u8 + 1, place * 65536, 65536);
    let checkpoints = case.lab.directory().join("cpt");
    let checkpoints = checkpoints.to_str().unwrap();
    write(0);
    let mut runs = vec![back_up(case, "inc", &[]), back_up(case, "auto", &["-z", "-C", checkpoints]).succeeds()];
    write(1);
    for (level, options) in [
        ("inc", &["-q"][..]),
        ("inc", &["--no-sparse-detection"]),
        ("diff", &["-w", "1"]),
        ("inc", &["-p"]),
        ("inc", &["-T", "99999999"]),
        ("auto", &["-e", "-x", "vdb"]),
        ("copy", &[]),
        ("inc", &["-i", "vdb"]),
        ("copy", &["-s"]),
        ("inc", &[]),
        ("copy", &["-k"]),
        ("copy", &["-k"]),
        ("inc", &["-t", "raw"]),
    ] {
        write(2);
        runs.push(back_up(case, level, options));
    }
    runs
}

/// Lost and foreign checkpoints, lost bitmaps, leftovers.
fn chain_trouble(case: &Case<'_>) -> Vec<Run> {
    let lab = case.lab;
    let names = case.checkpoints();
    names.iter().rev().for_each(|name| drop(lab.virsh(&[&"checkpoint-delete", &"d", name, &"--metadata"])));
    let mut runs = vec![back_up(case, "inc", &[]).succeeds()];
    lab.virsh(&[&"checkpoint-create-as", &"d", &"alien"]);
    runs.push(back_up(case, "inc", &[]).ends_with(1));
    lab.virsh(&[&"checkpoint-delete", &"d", &"alien"]);
    // The bitmaps of a QEMU that was killed are marked as in use.
    case.domain.kill();
    case.domain.start();
    let newest = case.checkpoints().pop().unwrap();
    lab.virsh(&[&"checkpoint-delete", &"d", &newest, &"--metadata"]);
    runs.push(back_up(case, "inc", &[]).succeeds());
    let other = Case { lab, domain: TestDomain::known(lab, "d"), set: lab.directory().join("partial") };
    std::fs::create_dir(&other.set).unwrap();
    std::fs::write(other.set.join("vda.copy.data.partial"), "").unwrap();
    runs.push(back_up(&other, "copy", &[]).ends_with(1));
    case.domain.stop();
    let other = |name: &str| Case { lab, domain: TestDomain::known(lab, "d"), set: lab.directory().join(name) };
    runs.push(back_up(&other("stopped"), "full", &[]).succeeds());
    runs.push(back_up(case, "inc", &[]).succeeds());
    runs.push(back_up(&other("started"), "copy", &["-S"]).succeeds());
    case.domain.start();
    runs.push(back_up(&other("copy"), "copy", &[]).succeeds());
    runs.push(back_up(&other("copy"), "auto", &[]).ends_with(1));
    runs.push(back_up(&other("copy"), "diff", &[]).ends_with(1));
    runs
}

fn restores(case: &Case<'_>) -> Vec<Run> {
    let lab = case.lab;
    let (set, out) = (&case.set, |name: &str| lab.directory().join(name));
    let damaged = out("damaged");
    copy_of(set, &damaged);
    let path = damaged.join("vda.full.data");
    std::fs::write(&path, &std::fs::read(&path).unwrap()[..100]).unwrap();
    let path = damaged.join("vda.inc.virtnbdbackup.1.data");
    let mut content = std::fs::read(&path).unwrap();
    content[1000] ^= 1;
    std::fs::write(&path, content).unwrap();
    let files = "vda.full.data,vda.inc.virtnbdbackup.1.data";
    let runs = vec![
        restore(lab, &[&"-i", set, &"-o", &out("r0"), &"-u", &"virtnbdbackup.1"]).succeeds(),
        restore(lab, &[&"-i", set, &"-o", &out("r0")]).ends_with(1),
        restore(lab, &[&"-cDR", &"-d", &"vda", &"-i", set, &"-o", &out("r1")]).succeeds(),
        restore(lab, &[&"-cD", &"-N", &"other", &"--compress", &"-i", set, &"-o", &out("r2")]).succeeds(),
        restore(lab, &[&"-s", &files, &"-i", set, &"-o", &out("r3")]).succeeds(),
        restore(lab, &[&"-i", set, &"-o", &"dump"]).succeeds(),
        restore(lab, &[&"-i", set, &"-o", &"verify"]).succeeds(),
        restore(lab, &[&"-i", &damaged, &"-o", &"dump"]),
        restore(lab, &[&"-i", &damaged, &"-o", &"verify"]).ends_with(1),
        restore(lab, &[&"-i", &"/nowhere", &"-o", &"verify"]).ends_with(1),
        restore(lab, &[&"-i", set, &"-o", &out("r4"), &"--input-source", &"x"]).ends_with(1),
        // The name is taken by then: somebody was quicker.
        defines_too_late(lab, set),
    ];
    runs
}

/// The XML of the set is one that libvirt refuses.
fn defines_too_late(lab: &Lab, set: &std::path::Path) -> Run {
    let (uri, copy) = (lab.uri(), lab.directory().join("foreign"));
    let (scratch, socket) = (lab.scratch(), lab.directory().join("run/foreign.sock"));
    let _ = set;
    run(
        "virtnbdbackup",
        &[&"-U", &uri, &"-n", &"-d", &"d", &"-l", &"copy", &"--scratchdir", &scratch, &"-f", &socket, &"-o", &copy],
    )
    .succeeds();
    let xml = copy.join("vmconfig.copy.xml");
    let text = std::fs::read_to_string(&xml)
        .unwrap()
        .replace("machine='pc", "machine='nopc")
        .replace("machine=\"pc", "machine=\"nopc");
    std::fs::write(&xml, text).unwrap();
    restore(lab, &[&"-D", &"-N", &"late", &"-i", &copy, &"-o", &lab.directory().join("r5")]).ends_with(1)
}

fn special_disks(lab: &Lab) -> Vec<Run> {
    let case = Case::new(lab, "r", &["vda:1M", "vdb:1M:raw", "hdc:1M:cdrom"]);
    let copied = back_up(&case, "copy", &["-r"]);
    std::fs::remove_dir_all(&case.set).unwrap();
    let full = back_up(&case, "full", &[]);
    let nowhere = back_up(&case, "full", &["--output-target", "null"]);
    vec![copied, full, nowhere, back_up(&case, "inc", &["-r"])]
}

/// A zip archive, through a pipe; it restores.
fn to_stdout(lab: &Lab) -> Run {
    let case = Case::new(lab, "z", &["vda:1M"]);
    case.domain.write("vda", 1, 0, 65536);
    let directory = lab.fresh_directory();
    let command = format!(
        "cd {} && {} -U '{}' -n -d z -l full --scratchdir {} -o - | cat >full.zip",
        directory.display(),
        super::link(lab.directory(), "virtnbdbackup").display(),
        lab.uri(),
        lab.scratch().display()
    );
    let said = run("sh", &[&"-c", &command]).succeeds();
    let (zip, out) = (directory.join("full.zip"), lab.directory().join("unzipped"));
    restore(lab, &[&"-i", &zip, &"-o", &out]).succeeds();
    // Members are called as virtnbdbackup calls them, and named where they are.
    let names = run("unzip", &[&"-Z1", &zip]).succeeds().stdout;
    let log = names.lines().find(|name| name.ends_with(".log")).unwrap();
    let time = log.strip_prefix("backup.full.").and_then(|rest| rest.strip_suffix(".log")).unwrap();
    assert!(time.len() == 14 && time.bytes().all(|byte| byte.is_ascii_digit()), "{log}");
    let said = said.says(&["Saving VM config to: [./vmconfig.virtnbdbackup.0.xml]"]);
    crate::support::compare(&out.join("z-vda.qcow2"), "qcow2", &case.domain.snapshot_reference("vda"));
    said
}

fn with_a_guest(lab: &Lab) -> Vec<Run> {
    let domain = lab.guest("g", &["vda:64M"]);
    let case = Case { lab, domain, set: lab.directory().join("guest") };
    let mut runs = vec![back_up(&case, "copy", &[]).succeeds()];
    let case = Case { set: lab.directory().join("paused"), ..case };
    runs.push(back_up(&case, "copy", &["--pause"]).succeeds());
    let running = Case::new(lab, "n", &["--running", "vda:1M"]);
    runs.push(back_up(&running, "copy", &[]));
    runs
}

fn refusals(lab: &Lab) -> Vec<Run> {
    let set = lab.directory().join("refused");
    let nowhere = "qemu:///session?socket=/nowhere";
    vec![
        backup(lab, &[&"-d", &"nope", &"-o", &set]).ends_with(1),
        backup(lab, &[&"-d", &"d", &"-o", &set, &"-U", &nowhere]).ends_with(1),
        backup(lab, &[&"-d", &"d", &"-o", &set, &"-i", &"vdz"]).ends_with(1),
    ]
}

#[test]
fn what_virtnbdbackup_says_is_said() {
    let runs = all_modes();
    let said: BTreeSet<&str> = runs.iter().flat_map(messages).collect();
    let all = || said.iter().copied().collect::<Vec<_>>().join("\n");
    for known in KNOWN {
        assert!(said.iter().any(|message| message.contains(known)), "'{known}' is not said:\n{}", all());
    }
    let fixture = fixture("phrases.txt");
    let patterns = fixture.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').nth(2).unwrap());
    let patterns: BTreeSet<&str> = patterns.collect();
    let is_said = |pattern: &str| said.iter().any(|message| matches(pattern, message));
    let excepted = |pattern: &str| EXCEPTIONS.iter().any(|(exception, _)| *exception == pattern);
    let missing: Vec<&str> =
        patterns.iter().copied().filter(|pattern| !is_said(pattern) && !excepted(pattern)).collect();
    assert!(missing.is_empty(), "not said:\n{}\n--- said:\n{}", missing.join("\n"), all());
    // An exception that is none any more has no reason.
    let needless: Vec<&str> =
        EXCEPTIONS.iter().map(|(pattern, _)| *pattern).filter(|pattern| is_said(pattern)).collect();
    assert!(needless.is_empty(), "said after all:\n{}", needless.join("\n"));
}

/// Each line that ours marks as virtnbdbackup's is one of its own, word for word.
#[test]
fn places_are_those_of_virtnbdbackup() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 1, 0, MIB);
    let runs = [back_up(&case, "full", &[]).succeeds(), back_up(&case, "inc", &[]).succeeds()];
    let fixture = fixture("phrases.txt");
    let known: BTreeSet<(&str, &str)> = fixture
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| (line.split('\t').nth(1).unwrap(), line.split('\t').nth(2).unwrap()))
        .collect();
    for line in runs.iter().flat_map(|run| run.stderr.lines()) {
        // [time] LEVEL logger module - function [thread]: message
        let (head, message) = line.split_once("]: ").unwrap();
        let place = head.splitn(4, ' ').nth(3).unwrap().rsplit_once(" [").unwrap().0;
        if place != "root virtnbdbackup - main" {
            assert!(known.iter().any(|(at, text)| *at == place && matches(text, message)), "{line}");
        }
    }
}
