//! Messages to systemd's journal and to syslog: what a socket in their places receives.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::{CACHE, CONFIG, Case, Lab, program};

/// Runs the program with arguments where `/run` and `/dev` are those of `root`, in a mount namespace. With
/// `is_service` its stderr is what systemd says is the journal.
fn beside(root: &Path, is_service: bool, arguments: &[std::ffi::OsString]) -> Output {
    let mut script = String::from(
        "for node in null urandom; do touch \"$0/dev/$node\" && mount --bind /dev/$node \"$0/dev/$node\"; done &&
        mount --rbind \"$0/run\" /run && mount --rbind \"$0/dev\" /dev && ",
    );
    if is_service {
        script.push_str("export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) && ");
    }
    script.push_str("exec \"$@\"");
    // Root needs no other user for it, and loses its rights as one.
    let namespaces = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    Command::new("unshare")
        .args([namespaces, "sh", "-c", &script])
        .arg(root)
        .arg(program())
        .args(arguments)
        .env(CACHE.0, CACHE.1)
        .env(CONFIG.0, CONFIG.1)
        .env_remove("JOURNAL_STREAM")
        .output()
        .unwrap()
}

/// Everything that waits at a socket.
fn received(socket: &UnixDatagram) -> Vec<Vec<u8>> {
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut buffer = vec![0; 1 << 20];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())).collect()
}

/// The fields of entries of the journal.
fn entries(socket: &UnixDatagram) -> Vec<BTreeMap<String, String>> {
    let fields = |entry: &[u8]| {
        let text = String::from_utf8(entry.to_vec()).unwrap();
        text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    received(socket).iter().map(|entry| fields(entry)).collect()
}

#[test]
fn the_journal_gets_fields_and_syslog_lines() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let directory = lab.fresh_directory();
    for folder in ["dev", "run/systemd/journal"] {
        std::fs::create_dir_all(directory.join(folder)).unwrap();
    }
    let place = directory.join("run/systemd/journal/socket");
    let journal = UnixDatagram::bind(&place).unwrap();
    let syslog = UnixDatagram::bind(directory.join("dev/log")).unwrap();

    // A service of systemd: what would be on stderr is in the journal, and nowhere else.
    let run = beside(&directory, true, &case.arguments(&case.set, &["-l", "full"]));
    assert!(run.status.success() && run.stderr.is_empty(), "{run:?}");
    let said = entries(&journal);
    let last = said.iter().find(|entry| entry["MESSAGE"].starts_with("Finished")).unwrap_or_else(|| panic!("{said:?}"));
    assert_eq!((&*last["PRIORITY"], &*last["SYSLOG_IDENTIFIER"], &*last["VIRTKEEP_DOMAIN"]), ("6", "virtkeep", "d"));
    assert!(last["MESSAGE"].contains(&last["VIRTKEEP_RUN"]), "{last:?}");
    assert!(said.iter().all(|entry| entry["PRIORITY"] != "7"), "debug was not asked for: {said:?}");
    let of_disk: Vec<_> =
        said.iter().filter(|entry| entry.get("VIRTKEEP_DISK").is_some_and(|disk| disk == "vda")).collect();
    assert!(!of_disk.is_empty() && of_disk.iter().all(|entry| entry.contains_key("VIRTKEEP_RUN")), "{said:#?}");
    assert!(received(&syslog).is_empty());

    // Errors have their priority and their disk; with several domains everything is said of the right one.
    let nobody = ["-d", "nobody", "-i", "vdz"].map(std::ffi::OsString::from);
    let both = [case.arguments(&lab.fresh_directory(), &["-l", "copy"]), nobody.to_vec()].concat();
    let run = beside(&directory, true, &both);
    assert!(!run.status.success() && run.stderr.is_empty(), "{run:?}");
    let said = entries(&journal);
    let of = |domain: &str, priority: &str| {
        said.iter()
            .any(|entry| entry.get("VIRTKEEP_DOMAIN").is_some_and(|it| it == domain) && entry["PRIORITY"] == priority)
    };
    assert!(of("nobody", "3") && of("d", "3"), "{said:#?}");

    // A stderr that is something else stays: JOURNAL_STREAM is inherited by what a service starts.
    let run = beside(&directory, false, &case.arguments(&case.set, &[]));
    assert!(run.status.success() && !run.stderr.is_empty(), "{run:?}");
    assert!(received(&journal).is_empty());

    // Both, by the option: whatever is shown.
    let run = beside(&directory, false, &case.arguments(&case.set, &["--quiet", "--log-to", "journal"]));
    assert!(run.status.success() && run.stderr.is_empty(), "{run:?}");
    assert!(entries(&journal).iter().any(|entry| entry["MESSAGE"].starts_with("Finished")));
    let run = beside(&directory, true, &case.arguments(&case.set, &["--log-to", "journal"]));
    assert!(run.status.success(), "{run:?}");
    let finished = entries(&journal).iter().filter(|entry| entry["MESSAGE"].starts_with("Finished")).count();
    assert_eq!(finished, 1, "not twice");

    let run = beside(&directory, false, &case.arguments(&case.set, &["--quiet", "--log-to", "syslog"]));
    assert!(run.status.success() && run.stderr.is_empty(), "{run:?}");
    let lines: Vec<String> = received(&syslog).into_iter().map(|line| String::from_utf8(line).unwrap()).collect();
    let last =
        lines.iter().find(|line| line.contains("]: d: Finished successfully")).unwrap_or_else(|| panic!("{lines:?}"));
    assert!(last.starts_with("<14>") && last.contains(" virtkeep["), "{last}");

    // Nobody listens: the backup is made, and it is said.
    drop(journal);
    std::fs::remove_file(place).unwrap();
    let run = beside(&directory, true, &case.arguments(&case.set, &["--log-to", "journal"]));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("--log-to: nothing takes messages there"), "{run:?}");
    assert!(said.contains("Finished successfully"), "{said}");
}

/// systemd's own journal, in directories of its own, keeps the fields: its own tool finds
/// messages by them.
#[test]
fn the_journal_finds_messages_by_their_fields() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let script = r#"
        mount -t tmpfs none /run && mkdir -p /run/systemd/journal /run/log/journal && mount -t tmpfs none /etc/systemd || exit
        printf '[Journal]\nStorage=volatile\nReadKMsg=no\nForwardToSyslog=no\n' >/etc/systemd/journald.conf
        echo 0123456789abcdef0123456789abcdef >/run/id
        [ ! -e /etc/machine-id ] || mount --bind /run/id /etc/machine-id || exit
        /lib/systemd/systemd-journald 2>/run/said & journald=$!
        for try in $(seq 200); do [ ! -S /run/systemd/journal/socket ] || break; sleep 0.05; done
        exec 3>&2 2>/run/stderr
        JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) "$@"
        status=$?
        exec 2>&3
        cat /run/stderr /run/said >&2
        # It is asked to write all that it has.
        kill -TERM $journald; wait $journald
        journalctl -D /run/log/journal --no-pager -o cat VIRTKEEP_DOMAIN=d VIRTKEEP_DISK=vda PRIORITY=6 >&2
        journalctl -D /run/log/journal --no-pager -o json VIRTKEEP_DOMAIN=d
        exit $status
    "#;
    let namespaces = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let run = Command::new("unshare")
        .args([namespaces, "sh", "-c", script, "sh"])
        .arg(program())
        .args(case.arguments(&case.set, &[]))
        .env(CACHE.0, CACHE.1)
        .env(CONFIG.0, CONFIG.1)
        .output()
        .unwrap();
    let (said, found) = (String::from_utf8_lossy(&run.stderr), String::from_utf8_lossy(&run.stdout));
    assert!(run.status.success(), "{run:?}");
    assert!(said.contains("vda: full: ") && said.contains("stored in vda.full.data"), "{said}");
    assert!(!said.contains("Finished"), "stderr has what the journal has, or another disk's: {said}");
    let entries: Vec<serde_json::Value> = found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = entries.iter().rfind(|entry| entry["MESSAGE"].as_str().is_some_and(|text| text.starts_with("Finished")));
    let last = last.unwrap_or_else(|| panic!("{found}"));
    assert!(last["MESSAGE"].as_str().unwrap().contains(last["VIRTKEEP_RUN"].as_str().unwrap()), "{last}");
    assert_eq!(last["SYSLOG_IDENTIFIER"], "virtkeep");
}
