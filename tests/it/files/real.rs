//! Real file systems.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::disks::{self, CHANGING, NEW, OLD, PASSPHRASE};
use super::{command, run_bytes, virtkeep};
use crate::support::{Lab, listing, program, run};

#[test]
fn files_come_out_of_a_restore_point() {
    let lab = Lab::up();
    let case = disks::backed_up(&lab);
    let set = case.set.as_path();
    let before = digest(set);
    let key = lab.fresh_directory().join("key");
    std::fs::write(&key, format!("{PASSPHRASE}\nnot this\n")).unwrap();
    let key = format!("vdb3={}", key.display());
    // Two at a time: an appliance has one processor.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            overview(set);
            older_points(set);
            interrupted(set);
            full_disk(set, &lab.fresh_directory());
        });
        copies(set, &lab.fresh_directory(), &key);
        others_may_look(set, &lab.fresh_directory());
        failures(set, &lab.fresh_directory());
    });
    assert_eq!(digest(set), before, "the set has changed");
}

fn digest(set: &Path) -> String {
    run("sh", &[&"-c", &"cd \"$0\" && find . -type f -not -name lock | sort | xargs sha256sum", &set]).succeeds().stdout
}

fn overview(set: &Path) {
    let said = virtkeep(&[&"ls", &"-i", &set, &"--json"]).succeeds().says(&["starting the appliance"]);
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    let volumes = found["volumes"].as_array().unwrap();
    let volume = |name: &str| {
        let volume = volumes.iter().find(|volume| volume["name"] == name);
        volume.unwrap_or_else(|| panic!("no {name} in {found:#}")).clone()
    };
    for (name, kind, disks, mounted) in [
        ("vda1", "ext4", json!(["vda"]), json!(["/boot"])),
        ("vda2", "ext4", json!(["vda"]), json!(["/"])),
        ("vg0/home", "xfs", json!(["vda", "vdb"]), json!(["/home"])),
        ("vg0/data", "btrfs", json!(["vda", "vdb"]), json!([])),
        ("vg0/data/sub", "btrfs", json!(["vda", "vdb"]), json!([])),
        ("vdb2", "ntfs", json!(["vdb"]), json!([])),
        ("vdb3", "crypto_LUKS", json!(["vdb"]), json!([])),
    ] {
        let volume = volume(name);
        let found = (&volume["type"], &volume["disks"], &volume["mounted"]);
        assert_eq!(found, (&json!(kind), &disks, &mounted), "{name}");
    }
    assert_eq!(volume("vda1")["label"], "boot");
    assert_eq!((&volume("vdb3")["encrypted"], &volume("vdb2")["encrypted"]), (&json!(true), &json!(false)));
    assert_eq!(volume("vda1")["size"], 63488 * 512);
    let system = &found["systems"][0];
    assert_eq!((&system["name"], &system["root"]), (&json!("debian 12.7"), &json!("vda2")));
    assert_eq!(system["mounts"]["/home"], "vg0/home");
}

fn older_points(set: &Path) {
    // In the newest point it is another one: see `copies`.
    let first = "virtnbdbackup.0";
    let (run, content) = run_bytes(command(&[&"cp", &"-i", &set, &"-u", &first, &"vda2:/srv/changing", &"-"]));
    run.succeeds();
    assert!(content == [OLD; CHANGING], "{} bytes", content.len());
}

/// The names in a directory as bytes.
fn names(directory: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<Vec<u8>> = entries.map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
    names.sort();
    names
}

fn copies(set: &Path, to: &Path, key: &str) {
    std::fs::write(to.join("fstab"), "old").unwrap();
    let sources = [
        "vda:/etc/fstab",
        "vda:/home/anna",
        "vda:/boot/vmlinuz",
        "/etc/link",
        "vda2:/srv/changing",
        "vda2:/srv/sparse",
        "vg0/data/sub:f",
        "vdb2:/Program Files",
        "vdb3:/hello",
    ];
    let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"cp", &"-ri", &set, &"--force", &"--key", &key];
    all.extend(sources.iter().map(|source| source as &dyn AsRef<OsStr>));
    all.push(&to);
    // A device was left out: look.
    virtkeep(&all).ends_with(3).says(&["devices and sockets were left out: ./sda", "were dropped: ./sudo"]);

    let read = |name: &str| std::fs::read(to.join(name)).unwrap();
    let fstab = to.join("fstab").metadata().unwrap();
    assert!(read("fstab").starts_with(b"/dev/sda2 / ext4"));
    assert_eq!((fstab.mode() & 0o7777, fstab.uid(), fstab.gid()), (0o600, 1001, 1002));
    assert_eq!((fstab.mtime(), fstab.mtime_nsec()), (1_000_000_007, 123_456_789));
    assert_eq!(read("vmlinuz"), b"kernel");
    assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("fstab"));
    assert!(read("changing") == [NEW; CHANGING], "it is not the newest point's");
    let sparse = to.join("sparse");
    let content = std::fs::read(&sparse).unwrap();
    assert!(content.len() == 100_000_003 && content.ends_with(b"end"));
    assert!(content[..100_000_000].iter().all(|&byte| byte == 0));
    assert!(sparse.metadata().unwrap().blocks() < 1000, "it is not thin");
    assert_eq!(
        (read("f"), read("Program Files"), read("hello")),
        (b"subvolume".into(), b"ntfs".into(), b"secret".into())
    );

    let anna = to.join("anna");
    let mut expected: Vec<&[u8]> = vec![
        b"a dir",
        b"-rf",
        b"\xff\xfe",
        b"~tilde $HOME | <!",
        "Grüße".as_bytes(),
        b"absolute",
        b"above",
        b"hard",
        b"sudo",
    ];
    expected.sort();
    assert_eq!(names(&anna), expected);
    let found = anna.metadata().unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid(), found.mtime()), (0o700, 1000, 1_000_000_009));
    assert_eq!(std::fs::read(anna.join("a dir").join("a b\n\"q\"'\\x")).unwrap(), b"odd");
    assert_eq!(std::fs::read(anna.join(OsStr::from_bytes(b"\xff\xfe"))).unwrap(), b"bytes");
    assert_eq!(std::fs::read(anna.join("Grüße")).unwrap(), "grüße".as_bytes());
    // Links are links: neither followed nor rewritten.
    assert_eq!(std::fs::read_link(anna.join("absolute")).unwrap(), Path::new("/etc/shadow"));
    assert_eq!(std::fs::read_link(anna.join("above")).unwrap(), Path::new("../../../x\ny"));
    assert_eq!(anna.join("hard").metadata().unwrap().ino(), anna.join("-rf").metadata().unwrap().ino());
    assert_eq!(anna.join("sudo").metadata().unwrap().mode() & 0o7777, 0o755);
    assert_eq!(names(to).len(), sources.len(), "temporary files are left");
}

/// Any user who can read the set; and names are exact.
fn others_may_look(set: &Path, directory: &Path) {
    run("chmod", &[&"-R", &"a+rX", &set]).succeeds();
    run("chmod", &[&"755", &directory, &set.parent().unwrap()]).succeeds();
    let (home, binary) = (directory.join("home"), directory.join("virtkeep"));
    std::fs::create_dir(&home).unwrap();
    run("chown", &[&"65534:65534", &home]).succeeds();
    std::fs::copy(program(), &binary).unwrap();
    let mut other = Command::new("setpriv");
    other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    other.args(["ls", "-R", "--json", "-i"]).arg(set).arg("vg0/home:/anna/").envs(super::appliance());
    other.envs([("TMPDIR", &home), ("LIBGUESTFS_CACHEDIR", &home), ("HOME", &home)]).env_remove("XDG_RUNTIME_DIR");
    let (run, _) = run_bytes(other);
    let run = run.succeeds();
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    let entries = found["entries"].as_array().unwrap();
    let entry = |name: &str| {
        let entry = entries.iter().find(|entry| entry["name"] == name);
        entry.unwrap_or_else(|| panic!("no {name:?} in {found:#}")).clone()
    };
    assert_eq!(entries.len(), 11, "{found:#}");
    assert_eq!(entry("a dir/a b\n\"q\"'\\x")["size"], 3);
    assert_eq!(entry("above")["target"], "../../../x\ny");
    assert_eq!(entry("\u{fffd}\u{fffd}")["name_base64"], "//4=");
    let sudo = entry("sudo");
    assert_eq!((&sudo["mode"], &sudo["type"], &sudo["uid"]), (&json!("4755"), &json!("file"), &json!(0)));
    assert_eq!(entry("sda")["type"], "block device");
    // guestfish's own: the appliance that it keeps, and a history without lines.
    let left: Vec<String> = listing(&home).into_iter().filter(|name| !name.starts_with(".guestf")).collect();
    assert_eq!(left, [""; 0], "temporary files are left");
}

/// What was copied before stays; what failed leaves nothing.
fn full_disk(set: &Path, small: &Path) {
    run("mount", &[&"-t", &"tmpfs", &"-o", &"size=1M", &"tmpfs", &small]).succeeds();
    let full = virtkeep(&[&"cp", &"-i", &set, &"vda2:/etc/fstab", &"vda2:/srv/large", &small]);
    let left = listing(small);
    run("umount", &[&small]).succeeds();
    full.ends_with(1).says(&["No space left on device", "hint: free some space"]);
    assert_eq!(left, ["fstab"]);
}

fn failures(set: &Path, to: &Path) {
    let refused = |words: &[&str]| {
        let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"cp", &"-i", &set];
        all.extend(words.iter().map(|word| word as &dyn AsRef<OsStr>));
        all.push(&to);
        virtkeep(&all)
    };
    refused(&["vda2:/srv/changing", "vda2:/srv"]).ends_with(2).says(&["vda2:/srv is a directory", "-r copies it"]);
    refused(&["vda2:/srv/sparse", "vdb3:/hello"]).ends_with(1).says(&["vdb3 is encrypted", "--key vdb3=FILE"]);
    assert_eq!(listing(to), ["changing", "sparse"]);
}

/// A Ctrl-C while the appliance starts: it goes, and all that was made for it.
fn interrupted(set: &Path) {
    let temporary = tempfile::tempdir().unwrap();
    let mut child = command(&[&"ls", &"-i", &set])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let appliance = loop {
        if let Some(found) = processes(temporary.path()).into_iter().find(|(_, line)| line.contains("guestfsd")) {
            break found;
        }
        assert!(begin.elapsed() < Duration::from_secs(300) && child.try_wait().unwrap().is_none(), "no appliance");
        std::thread::sleep(Duration::from_millis(20));
    };
    // Its socket lies elsewhere.
    let socket: PathBuf =
        appliance.1.split([',', '=', ' ']).find(|word| word.ends_with("guestfsd.sock")).unwrap().into();
    assert!(socket.symlink_metadata().unwrap().file_type().is_socket());
    run("kill", &[&"-INT", &child.id().to_string()]).succeeds();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(!said.contains("left"), "{said}");
    assert_eq!(processes(temporary.path()), [], "processes are left");
    assert_eq!(listing(temporary.path()), [""; 0], "temporary files are left");
    assert!(!socket.parent().unwrap().exists(), "{socket:?} is left");
}

/// The QEMUs that use a directory, with their command lines.
fn processes(directory: &Path) -> Vec<(String, String)> {
    let line = |id: String| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
        Some((id, String::from_utf8_lossy(&line).replace('\0', " ")))
    };
    let all = listing(Path::new("/proc")).into_iter().filter_map(line);
    let directory = directory.to_str().unwrap().to_owned();
    all.filter(|(_, line)| line.contains("qemu") && line.contains(&directory)).collect()
}
