//! What is said and where, and the exit status.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use super::{back_up, backup};
use crate::support::{Case, Lab, MIB, listing, run};

fn case<'lab>(lab: &'lab Lab) -> Case<'lab> {
    let case = Case::new(lab, "d", &["vda:4M", "vdb:4M"]);
    case.domain.write("vda", 1, 0, MIB);
    case
}

/// The log files of a level.
fn logs(case: &Case<'_>, level: &str) -> Vec<PathBuf> {
    let prefix = format!("backup.{level}.");
    listing(&case.set).iter().filter(|name| name.starts_with(&prefix)).map(|name| case.set.join(name)).collect()
}

#[test]
fn lines_are_those_of_virtnbdbackup_on_stderr_and_in_the_log() {
    let lab = Lab::up();
    let case = case(&lab);
    let run = back_up(&case, "full", &[]).succeeds();
    assert_eq!(run.stdout, "");
    let log = std::fs::read_to_string(&logs(&case, "full")[0]).unwrap();
    // Two disks at a time: their lines can come here before they come there.
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&log), sorted(&run.stderr));
    let last = log.lines().last().unwrap();
    // [2026-11-22 11:54:59] INFO root virtnbdbackup - main [main]: ...
    assert_eq!(last.split_once("] ").unwrap().1, "INFO root virtnbdbackup - main [main]: Finished successfully");
    jiff::civil::DateTime::strptime("[%Y-%m-%d %H:%M:%S]", &last[..21]).unwrap();
    assert!(log.contains("INFO root disk - backup [vda]: 4194304 bytes [4.0MiB] virtual disk size\n"), "{log}");
    // A second run that fails leaves the first one's log alone, and has one of its own.
    back_up(&case, "full", &[]).ends_with(1).says(&["Target directory already contains full or copy backup."]);
}

#[test]
fn json_is_that_of_virtnbdbackup() {
    let lab = Lab::up();
    let case = case(&lab);
    let run = back_up(&case, "copy", &["--json"]).succeeds();
    for line in run.stderr.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        for key in ["time", "level", "name", "module", "function", "thread", "message"] {
            assert!(value[key].is_string(), "{key}: {line}");
        }
    }
    let last: serde_json::Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&last["message"], &last["level"]), (&"Finished successfully".into(), &"INFO".into()));
}

#[test]
fn quiet_is_for_stderr_alone() {
    let lab = Lab::up();
    let case = case(&lab);
    let run = back_up(&case, "copy", &["--quiet"]).succeeds();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    let log = std::fs::read_to_string(&logs(&case, "copy")[0]).unwrap();
    assert!(log.contains("Finished successfully"), "{log}");
}

#[test]
fn strict_makes_warnings_a_status() {
    let lab = Lab::up();
    let case = case(&lab);
    // virtnbdbackup warns of a disk that -x leaves out.
    let run = back_up(&case, "full", &["-e", "-x", "vdb"]).ends_with(2);
    let run = run.says(&["WARNING virt client - getDomainDisks [main]: Excluding disk [vdb] from backup as requested"]);
    let run = run.says(&["Warnings detected during backup operation, forcing exit code 2"]);
    assert!(!run.stderr.contains("Finished successfully"), "{}", run.stderr);
    back_up(&case, "inc", &["-x", "vdb"]).succeeds().says(&["Finished successfully"]);
    back_up(&case, "inc", &["-e"]).ends_with(2).says(&["switching backup to full"]);
    back_up(&case, "inc", &["-e"]).succeeds();
    // Disks that it does not have may be named: one list for all domains.
    back_up(&case, "inc", &["-x", "sda,vdz"]).succeeds();
    back_up(&case, "inc", &["-i", "vdz"]).ends_with(1).says(&["Unable to detect disks suitable for backup."]);
}

#[test]
fn failures_are_status_1() {
    let lab = Lab::up();
    let case = case(&lab);
    back_up(&case, "inc", &[]).ends_with(1).says(&["No full backup found in target directory: ["]);
    backup(&lab, &[&"-d", &"nope", &"-o", &case.set]).ends_with(1).says(&["Domain not found: no domain with matching"]);
    let nowhere = "qemu:///session?socket=/nowhere";
    backup(&lab, &[&"-d", &"d", &"-o", &case.set, &"-U", &nowhere])
        .ends_with(1)
        .says(&["Can't connect libvirt daemon"]);
    back_up(&case, "copy", &["--output-target", "ftp"])
        .ends_with(1)
        .says(&["Unknown output target plugin [ftp], available plugins: directory, null, zip"]);
    let nowhere = back_up(&case, "full", &["--output-target", "null"]).succeeds();
    nowhere.says(&["Will write data to the void", "makes no checkpoint", "Finished successfully"]);
    assert_eq!(case.checkpoints(), [""; 0]);
    back_up(&case, "inc", &["-t", "raw"]).ends_with(1).says(&["Stream format raw does not support incremental"]);
}

/// With a /dev of its own, in a mount namespace, where the test listens as syslog does.
#[test]
fn messages_go_to_syslog() {
    let lab = Lab::up();
    let case = case(&lab);
    let dev = lab.fresh_directory();
    let socket = UnixDatagram::bind(dev.join("log")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let script = "for node in null urandom; do touch \"$0/$node\" && mount --bind /dev/$node \"$0/$node\"; done && \
                  mount --rbind \"$0\" /dev && exec \"$@\"";
    let (uri, scratch, at) = (lab.uri(), lab.scratch(), lab.directory().join("run/dropin.sock"));
    let program = super::link(lab.directory(), "virtnbdbackup");
    // Root needs no other user for it, and loses its rights as one.
    let namespaces = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let mut words: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&namespaces, &"sh", &"-c", &script, &dev, &program, &"-L"];
    words.extend([&"-U" as &dyn AsRef<std::ffi::OsStr>, &uri, &"--scratchdir", &scratch, &"-f", &at, &"-n"]);
    words.extend([&"-d" as &dyn AsRef<std::ffi::OsStr>, &"d", &"-l", &"copy", &"-x", &"vdb", &"-o", &case.set]);
    run("unshare", &words).succeeds();
    let mut messages = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(length) = socket.recv(&mut buffer) {
        messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    assert!(messages.iter().all(|message| message.ends_with('\0')), "{messages:?}");
    let has = |severity: &str, text: &str| {
        messages.iter().any(|message| message.starts_with(severity) && message.contains(text))
    };
    assert!(has("<14>[", "INFO root virtnbdbackup - main [main]: Backup level: [copy]"), "{messages:?}");
    assert!(has("<12>[", "Excluding disk [vdb]"), "{messages:?}");
}

/// The other users of the machine see it in the list of processes otherwise.
#[test]
fn passwords_leave_the_command_line() {
    let lab = Lab::up();
    let case = case(&lab);
    let program = super::link(lab.directory(), "virtnbdbackup");
    for word in [&["--password", "secret"][..], &["--password=secret"], &["--passw", "secret"], &["--pas=secret"]] {
        let mut command = std::process::Command::new(&program);
        command.args(["-U", &lab.uri(), "-n", "-d", "d", "-l", "copy"]).arg("--scratchdir").arg(lab.scratch());
        // In the lab: the socket of the last one, which is killed, goes with it.
        command.arg("-f").arg(lab.directory().join(format!("run/{}.sock", word[0].len())));
        command.args(word).arg("-o").arg(&case.set).env("VIRTKEEP_FAULT", "stream-created=stop");
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        let of = |name: &str| PathBuf::from(format!("/proc/{}/{name}", child.id()));
        let begin = std::time::Instant::now();
        while !std::fs::read_to_string(of("stat")).unwrap().contains(") T ") {
            assert!(begin.elapsed().as_secs() < 30, "it does not come to the copy");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let mut line = String::new();
        std::fs::File::open(of("cmdline")).unwrap().read_to_string(&mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!line.contains("secret") && line.contains("virtnbdbackup"), "{line:?}");
        let logged: String = logs(&case, "copy").iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        assert!(!logged.contains("secret"), "{logged}");
    }
}
