//! Timers, cron, and what tells of a night that went wrong.

use std::path::Path;

use super::{ROOT, script};
use crate::support::{Case, Lab, Run, listing, program, run, template};

#[test]
fn units_are_sound_and_hardened() {
    let lab = Lab::up();
    let prefix = lab.fresh_directory();
    script("packaging/install.sh", &[("VIRTKEEP_SYSCONF", &prefix)], &[prefix.to_str().unwrap()]).succeeds();
    let units = prefix.join("lib/systemd/system");
    let names = listing(&units);
    assert_eq!(
        names,
        ["virtkeep-failed@.service", "virtkeep.service", "virtkeep.timer", "virtkeep@.service", "virtkeep@.timer"]
    );
    for name in names {
        let path = units.join(name.replace("@.", "@a\\x2db."));
        let verify = run("systemd-analyze", &[&"verify", &"--man=no", &"--recursive-errors=no", &path]).succeeds();
        assert!(verify.stderr.is_empty(), "{name}: {}", verify.stderr);
        if name.ends_with(".service") && !name.contains("failed") {
            // Three and a half of ten, where ten is a process that may do everything.
            let path = units.join(&name);
            run("systemd-analyze", &[&"security", &"--offline=true", &"--threshold=35", &"--no-pager", &path])
                .succeeds();
        }
    }
}

/// The command of a line of a crontab with a user, as cron gives it to the shell.
fn cron_command(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[5], "root", "{line}");
    words[6..].join(" ")
}

#[test]
fn cron_is_silent_until_something_is_wrong() {
    let lab = Lab::up();
    let mut case = Case::new(&lab, "web", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, 1 << 20);
    let directory = lab.fresh_directory();
    std::os::unix::fs::symlink(program(), directory.join("virtkeep")).unwrap();
    let config = directory.join("virtkeep.toml");
    let text = format!(
        "uri = {:?}\nscratchdir = {:?}\n[backup]\noutput = {:?}\n",
        lab.uri(),
        lab.scratch(),
        template(&case.set)
    );
    let night = |text: &str| -> Run {
        std::fs::write(&config, text).unwrap();
        let table = std::fs::read_to_string(Path::new(ROOT).join("packaging/examples/virtkeep.cron")).unwrap();
        let line = table.lines().find(|line| line.starts_with("0 2 ")).unwrap();
        let command = cron_command(line);
        let path = format!("PATH={}:{}", directory.display(), std::env::var("PATH").unwrap());
        let config = format!("VIRTKEEP_CONFIG={}", config.display());
        run("env", &[&path, &config, &"sh", &"-c", &command])
    };
    for _ in 0..2 {
        let good = night(&text).succeeds();
        assert_eq!((good.stdout.as_str(), good.stderr.as_str()), ("", ""));
    }
    case.set = case.set.join("web");
    assert!(case.set.join("vda.full.data").exists(), "{:?}", listing(&case.set));
    let bad = night(&format!("{text}exclude = ['vda']\n")).ends_with(1);
    assert!(bad.stderr.contains("web: "), "{}", bad.stderr);
    assert!(!night("uri = 'qemu:///nowhere'\n[backup]\noutput = '/nowhere'\n").ends_with(1).stderr.is_empty());
}

#[test]
fn a_unit_that_failed_is_reported() {
    let lab = Lab::up();
    let directory = lab.fresh_directory();
    let mail = directory.join("mail");
    std::fs::write(directory.join("sendmail"), format!("#!/bin/sh\ncat >'{}'\n", mail.display())).unwrap();
    run("chmod", &[&"755", &directory.join("sendmail")]).succeeds();
    let path = format!("PATH={}:{}", directory.display(), std::env::var("PATH").unwrap());
    let failed = format!("{ROOT}/packaging/systemd/failed");
    let report = |variable: &str| {
        run("env", &[&path, &"MONITOR_EXIT_STATUS=1", &variable, &failed, &"virtkeep@web.service"]).succeeds();
        std::fs::read_to_string(&mail).unwrap_or_default()
    };
    assert_eq!(report("VIRTKEEP_MAILTO="), "");
    let text = report("VIRTKEEP_MAILTO=admin@example.org");
    let (head, body) = text.split_once("\n\n").unwrap();
    assert!(head.starts_with("To: admin@example.org\nSubject: backup: virtkeep@web.service failed on "), "{text}");
    assert!(head.contains("with status 1\n") && body.contains("The run was undone."), "{text}");
    assert!(report("MONITOR_EXIT_STATUS=3").contains("To: root\n"));
    assert!(report("MONITOR_EXIT_STATUS=3").contains("The backup is committed."));
}
