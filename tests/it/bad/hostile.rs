//! Streams that nobody's backup wrote: they must not cost memory, time, or a crash.

use std::path::Path;

use crate::support::{Run, listing, run};

/// Enough for the program and its threads; a megabyte for every bit of nonsense would not fit.
const ADDRESS_SPACE: &str = "--as=1073741824";

#[test]
fn absurd_sizes_are_refused_in_little_memory() {
    let directory = tempfile::tempdir().unwrap();
    let meta = |size: &str, data: &str| {
        format!(
            "{{\"virtualSize\": {size}, \"dataSize\": {data}, \"date\": \"2026-01-01T00:00:00\", \"diskName\": \"vda\", \
             \"diskFormat\": \"qcow2\", \"checkpointName\": \"virtnbdbackup.0\", \"compressed\": false, \
             \"compressionMethod\": \"lz4\", \"parentCheckpoint\": \"\", \"incremental\": false, \"streamVersion\": 2}}"
        )
    };
    let frame = |kind: &str, start: u64, length: u64| format!("{kind} {start:016x} {length:016x}\r\n");
    let stream = |meta: &str, rest: &str| format!("{}{meta}\r\n{rest}", frame("meta", 0, meta.len() as u64));
    let stop = frame("stop", 0, 0);
    let big = "18446744073709551615";
    for (name, content) in [
        ("empty", String::new()),
        ("text", "hello, world\n".repeat(10)),
        ("zeroes", "\0".repeat(4096)),
        ("meta of 16 EiB", frame("meta", 0, u64::MAX) + "{}"),
        ("meta of 4 GiB", frame("meta", 0, 1 << 32) + "{}"),
        ("meta that ends early", frame("meta", 0, 500) + "{\"virtualSize\": 1"),
        ("meta that is no object", stream("[[[[[[[[", &stop)),
        ("deep meta", stream(&"[".repeat(100_000), &stop)),
        ("sizes beyond 64 bits", stream(&meta("1e30", "1e30"), &stop)),
        ("negative sizes", stream(&meta("-1", "-1"), &stop)),
        ("largest sizes", stream(&meta(big, big), &stop)),
        ("16 EiB of zeroes", stream(&meta(big, "0"), &(frame("zero", 0, u64::MAX) + &stop))),
        (
            "data of 8 EiB",
            stream(&meta("9223372036854775807", "9223372036854775807"), &frame("data", 0, i64::MAX as u64)),
        ),
        ("data that ends early", stream(&meta("1048576", "1048576"), &(frame("data", 0, 1 << 20) + "x"))),
        ("data beyond the disk", stream(&meta("4096", "4"), &(frame("data", 8192, 4) + "xxxx\r\n" + &stop))),
        ("data that overflows", stream(&meta("4096", "4"), &(frame("data", u64::MAX - 1, 4) + "xxxx\r\n" + &stop))),
        ("an unknown frame", stream(&meta("4096", "0"), &(frame("evil", 0, 4096) + &stop))),
        ("no stop", stream(&meta("4096", "0"), &frame("zero", 0, 4096))),
        ("a full with a gap", stream(&meta("8192", "0"), &(frame("zero", 0, 4096) + &stop))),
    ] {
        let set = directory.path().join(name);
        std::fs::create_dir(&set).unwrap();
        std::fs::write(set.join("vda.full.data"), content).unwrap();
        check(&set, name);
    }
}

fn check(set: &Path, name: &str) {
    let out = set.join("out");
    let verify = limited(&[&"verify", &"-n", &"-i", &set]);
    assert_eq!(verify.status, 4, "verify of {name}: {}{}", verify.stdout, verify.stderr);
    assert!(verify.stderr.contains("vda.full.data"), "verify of {name}: {}", verify.stderr);
    for run in [limited(&[&"dump", &"-i", &set]), limited(&[&"dump", &"--json", &"-i", &set])] {
        assert!([0, 4].contains(&run.status), "dump of {name}: {}: {}", run.status, run.stderr);
    }
    let restore = limited(&[&"restore", &"-n", &"-i", &set, &"-o", &out]);
    assert!([1, 4].contains(&restore.status), "restore of {name}: {}: {}", restore.status, restore.stderr);
    assert!(
        restore.stderr.contains("hint: ") || restore.stderr.contains("vda.full.data"),
        "{name}: {}",
        restore.stderr
    );
    let restored = listing(&out);
    assert!(restored.iter().all(|name| name.ends_with(".partial")), "restore of {name}: {restored:?}");
}

/// Runs the program with little memory and time; a panic or an abort fails the test.
#[track_caller]
fn limited(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Run {
    let program = crate::support::program();
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&ADDRESS_SPACE, &"--cpu=20", &program];
    all.extend_from_slice(arguments);
    let run = run("prlimit", &all);
    assert!(run.status < 5 && !run.stderr.contains("panicked"), "{}: {}: {}", run.command, run.status, run.stderr);
    run
}

#[test]
fn manifests_that_lead_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let id = "00000000-0000-0000-0000-000000000001";
    for (number, content) in [
        String::new(),
        "{}".to_owned(),
        "[".repeat(100_000),
        "{\"manifest\":{},\"blake3\":\"00\"}\n".to_owned(),
        format!(
            "{{\"manifest\":{{\"run\":\"{id}\",\"disks\":[{{\"file\":\"../../etc/passwd\"}}]}},\"blake3\":\"\"}}\n"
        ),
    ]
    .iter()
    .enumerate()
    {
        let set = directory.path().join(number.to_string());
        std::fs::create_dir(&set).unwrap();
        let name = format!("manifest.{id}.json");
        std::fs::write(set.join(&name), content).unwrap();
        limited(&[&"verify", &"-n", &"-i", &set]).ends_with(4).says(&[&name]);
        limited(&[&"dump", &"-i", &set]).ends_with(4).says(&[&name]);
        limited(&[&"restore", &"-i", &set, &"-o", &set.join("out")]).ends_with(4).says(&["hint: "]);
    }
}
