//! `backup --hook-…`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::json;
use crate::support::{Case, Lab, MIB, listing, run, spawn_with};

/// A hook that notes its name and `facts` in a file.
fn noting(file: &Path, facts: &str) -> String {
    format!("echo \"$VIRTKEEP_HOOK {facts}\" >>'{}'", file.display())
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn hooks_run_at_their_places_with_the_facts() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let directory = lab.fresh_directory();
    let (notes, report) = (directory.join("notes"), directory.join("report.json"));
    let pre = format!("test ! -e '{}' && {}", case.set.display(), noting(&notes, "$VIRTKEEP_DOMAIN $VIRTKEEP_SET"));
    let disk = noting(&notes, "$VIRTKEEP_DISK $VIRTKEEP_LEVEL $VIRTKEEP_PHASE $VIRTKEEP_STATUS-");
    let post =
        noting(&notes, "$VIRTKEEP_STATUS $VIRTKEEP_CHECKPOINT $(grep -c \"$VIRTKEEP_RUN\" \"$VIRTKEEP_REPORT\")");
    let failure = noting(&notes, "$VIRTKEEP_STATUS $VIRTKEEP_PHASE $VIRTKEEP_ERROR");
    let all = |pre: &str| {
        let options = ["--hook-pre-run", pre, "--hook-post-disk", &disk, "--hook-post-run", &post, "-w", "1"];
        let more = ["--hook-on-failure", &failure, "--report", report.to_str().unwrap()];
        options.iter().chain(&more).map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let words = |all: &[String]| all.to_vec();
    let run = |pre: &str| {
        let options = words(&all(pre));
        case.backup(&options.iter().map(String::as_str).collect::<Vec<_>>())
    };
    run(&format!("{pre}; echo said; echo to stderr >&2"))
        .succeeds()
        .says(&["hook pre-run: said", "pre-run: to stderr"]);
    let set = case.set.display();
    let wanted = [format!("pre-run d {set}"), "post-disk vda full copy -".into(), "post-disk vdb full copy -".into()];
    assert_eq!(lines(&notes)[..3], wanted);
    assert_eq!(lines(&notes)[3..], ["post-run 0 virtnbdbackup.0 1"]);

    // A pre-run that fails: neither the guest nor the set is touched.
    std::fs::remove_file(&notes).unwrap();
    let before = listing(&case.set);
    run("exit 7").ends_with(1).says(&["the hook pre-run failed", "exit status: 7"]);
    assert_eq!(listing(&case.set), before);
    let noted = lines(&notes);
    assert!(noted[0].starts_with("on-failure 1 pre-run the hook pre-run failed"), "{noted:?}");
    assert!(noted[1].starts_with("post-run 1 "), "{noted:?}");
    assert_eq!(json(&report)["domains"][0]["error"]["phase"], "pre-run");
    assert_eq!(case.checkpoints().len(), 1);

    // A run that fails, with its reason; undone by then.
    std::fs::remove_file(&notes).unwrap();
    let options = all("true");
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    spawn_with(&case, &options, "extents-known=error").wait().ends_with(1);
    let noted = lines(&notes);
    assert!(noted[0].starts_with("on-failure 1 copy disk vda: a fault at extents-known"), "{noted:?}");
    case.is_as_before(&["virtnbdbackup.0"]);

    // The others' failures are warnings, which --strict sees.
    let failing = case.backup(&["--hook-post-disk", "exit 1", "--hook-post-run", "exit 1"]).succeeds();
    assert!(!failing.stderr.contains("output"), "there was none: {}", failing.stderr);
    failing.says(&[
        "warning: disk vda: the hook post-disk failed: exit status: 1\n",
        "warning: disk vdb: the hook post-disk failed: exit status: 1\n",
        "warning: the hook post-run failed: exit status: 1\n",
    ]);
    // The report and the figures know it, too.
    let metrics = directory.join("virtkeep.prom");
    let watched = ["--report", report.to_str().unwrap(), "--metrics", metrics.to_str().unwrap()];
    for (strict, exit, status) in [(&["--strict"][..], 3, "look"), (&[][..], 0, "done")] {
        case.backup(&[&["--hook-post-run", "exit 1"][..], &watched, strict].concat()).ends_with(exit);
        let told = json(&report);
        assert_eq!((&told["exit"], &told["domains"][0]["exit"]), (&exit.into(), &exit.into()));
        assert_eq!(told["domains"][0]["status"], status);
        let warnings = told["domains"][0]["warnings"].as_array().unwrap();
        assert!(warnings[0].as_str().unwrap().contains("the hook post-run failed"), "{warnings:?}");
        let figures = std::fs::read_to_string(&metrics).unwrap();
        let figure = |name: &str| figures.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(figure("virtkeep_backup_last_run_warnings").ends_with(" 1"), "{figures}");
        assert!(figure("virtkeep_backup_last_run_exit_code").ends_with(&format!(" {exit}")), "{figures}");
    }
    // None in an environment of none.
    case.backup(&["--hook-post-run", "test -z \"$VIRTKEEP_ERROR$VIRTKEEP_DISK$VIRTKEEP_PASSWORD\"", "--strict"])
        .succeeds();
    case.backup(&["--hook-timeout", "0"]).ends_with(2);
}

/// The processes of a hook that wrote its own number to `file`, and its child's.
fn are_gone(file: &Path) {
    let numbers: Vec<PathBuf> = lines(file).iter().map(|number| Path::new("/proc").join(number)).collect();
    assert_eq!(numbers.len(), 2, "{numbers:?}");
    let begin = Instant::now();
    while numbers.iter().any(|process| {
        // Of one that nobody waits for yet the number is there.
        std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }) {
        assert!(begin.elapsed() < Duration::from_secs(20), "a process of the hook is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_hook_that_does_not_end_is_ended_with_all_it_started() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let file = lab.fresh_directory().join("numbers");
    // Neither of them minds a TERM.
    let hook = format!(
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; sleep 600 & wait; sleep 600' >>'{0}' & echo $$ >>'{0}'; sleep 600; sleep 600",
        file.display()
    );
    case.backup(&["--hook-pre-run", &hook, "--hook-timeout", "1"])
        .ends_with(1)
        .says(&["did not end within 1 s", "--hook-timeout"]);
    are_gone(&file);
    std::fs::remove_file(&file).unwrap();
    case.backup(&["--hook-post-disk", &hook, "--hook-timeout", "1"])
        .succeeds()
        .says(&["warning: disk vda: the hook post-disk did not end"]);
    are_gone(&file);

    // Interrupted at the same place, and the hook after it runs.
    for option in ["--hook-pre-run", "--hook-post-disk", "--hook-post-run"] {
        let _ = std::fs::remove_file(&file);
        let failed = file.with_file_name("failed");
        let noted = format!("echo $VIRTKEEP_STATUS >'{}'", failed.display());
        let mut running = spawn_with(&case, &[option, &hook, "--hook-on-failure", &noted], "");
        running.until(|| lines(&file).len() == 2);
        running.signal("INT");
        let is_late = option == "--hook-post-run";
        running.wait().ends_with(if is_late { 0 } else { 130 });
        are_gone(&file);
        assert_eq!(lines(&failed), if is_late { vec![] } else { vec!["130"] }, "{option}");
        let _ = std::fs::remove_file(&failed);
        case.no_traces();
    }
    let left = run("pgrep", &[&"-f", &file]).stdout;
    assert_eq!(left, "", "left of the hooks");
}
