//! A domain that fails, vanishes, or meets a signal.

use std::time::{Duration, Instant};

use super::{arguments, backup, data, row};
use crate::support::{Lab, SLOWLY, listing, random_disk, run, spawn_arguments, virtkeep};

#[test]
fn a_domain_that_fails_never_stops_the_others() {
    let lab = Lab::up();
    for name in ["a", "b", "c"] {
        lab.domain(name, &["vda:2M"]);
    }
    let output = lab.fresh_directory();
    let run = backup(&lab, &output, &["-d", "a", "-d", "nobody", "-d", "c"]).ends_with(1);
    assert_eq!(row(&run, "nobody")[1..4], ["-", "-", "-"]);
    assert!(row(&run, "nobody").contains(&"FAILED:".to_owned()));
    run.says(&["nobody: no domain", "list --all", "1 of 3 domains failed: nobody"]);
    assert_eq!(listing(&output), ["a", "c"]);

    // One directory is another domain's, another one is damaged: the worst of both is told.
    std::fs::rename(output.join("a"), output.join("b")).unwrap();
    let data_file = output.join("c/vda.full.data");
    let run = backup(&lab, &output, &["--all", "--parallel", "3"]).ends_with(1);
    run.says(&["b: ", "another domain", "1 of 3 domains failed: b"]);
    std::fs::remove_file(data_file).unwrap();
    let run = backup(&lab, &output, &["--all", "--quiet"]).ends_with(4);
    run.says(&["error: c: ", "2 of 3 domains failed: b, c"]);
    assert_eq!(data(&output.join("a")).len(), 2, "a was backed up each time");
}

#[test]
fn a_domain_that_vanishes_meanwhile_is_told() {
    let lab = Lab::up();
    lab.domain("a", &[&random_disk(&lab, 48)]);
    let second = lab.domain("b", &["vda:2M"]);
    let output = lab.fresh_directory();
    let arguments = arguments(&lab, &output, &["--all", SLOWLY]);
    let mut all = spawn_arguments(&lab, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    all.until(|| data(&output.join("a")) == ["vda.full.data.partial"]);
    second.remove();
    let run = all.wait().ends_with(1);
    run.says(&["b: no domain", "1 of 2 domains failed: b"]);
    assert_eq!(data(&output.join("a")), ["vda.full.data"]);
}

#[test]
fn signals_end_all_runs_and_undo_each() {
    let lab = Lab::up();
    for name in ["a", "b", "c"] {
        lab.domain(name, &[&random_disk(&lab, 48)]);
    }
    for (signal, status) in [("INT", 130), ("TERM", 143), ("KILL", 137)] {
        let output = lab.fresh_directory();
        let arguments = arguments(&lab, &output, &["--all", SLOWLY, "--parallel", "2"]);
        let mut all = spawn_arguments(&lab, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let copies = |name: &str| !data(&output.join(name)).is_empty();
        all.until(|| copies("a") && copies("b"));
        all.signal(signal);
        let run = all.wait().ends_with(status);
        if signal != "KILL" {
            assert_eq!(run.stderr.matches("cleaning up").count(), 1, "{}", run.stderr);
            assert!(row(&run, "c").contains(&"begun".to_owned()), "{}", run.stderr);
            assert!(row(&run, "a").contains(&"FAILED:".to_owned()), "{}", run.stderr);
        }
        // The processes of a killed one notice it by themselves, and clean up.
        let begin = Instant::now();
        let is_clean = |name: &str| {
            let job = lab.virsh(&[&"domjobinfo", &name]);
            let private = listing(&output.join(name).join(".virtkeep"));
            job.contains("None") && data(&output.join(name)).is_empty() && private.iter().all(|file| file == "lock")
        };
        while !["a", "b"].iter().all(|name| is_clean(name)) || !listing(&lab.scratch()).is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(20), "{signal}: a run is not undone");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!output.join("c").exists());
        for name in ["a", "b"] {
            assert_eq!(lab.virsh(&[&"checkpoint-list", &name, &"--name"]).trim(), "", "{signal}");
        }
    }
    // None of their processes is left: the lab's socket is on no command line but in their options.
    let output = lab.fresh_directory();
    backup(&lab, &output, &["--all", "--parallel", "3"]).succeeds();
    virtkeep(&[&"verify", &"-n", &"-i", &output.join("b")]).succeeds();
}

#[test]
fn a_run_that_is_killed_is_a_failure_of_its_own() {
    let lab = Lab::up();
    lab.domain("a", &[&random_disk(&lab, 48)]);
    lab.domain("b", &["vda:2M"]);
    let output = lab.fresh_directory();
    let arguments = arguments(&lab, &output, &["--all", SLOWLY]);
    let mut all = spawn_arguments(&lab, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    all.until(|| data(&output.join("a")) == ["vda.full.data.partial"]);
    // Its one child that is no guard.
    let children = run("ps", &[&"-o", &"pid=", &"--ppid", &all.id().to_string()]).succeeds().stdout;
    run("kill", &[&"-9", &children.trim()]).succeeds();
    let ended = all.wait().ends_with(1);
    let ended = ended.says(&["1 of 2 domains failed: a"]);
    assert!(row(&ended, "a").contains(&"signal".to_owned()), "{}", ended.stderr);
    assert_eq!(data(&output.join("b")), ["vda.full.data"]);
    backup(&lab, &output, &["--all"]).succeeds().says(&["a: ", "undoing it"]);
    assert_eq!(data(&output.join("a")), ["vda.full.data"]);
}

/// Each has room enough, both have not.
#[test]
fn room_for_scratch_files_is_shared() {
    let lab = Lab::up();
    for name in ["a", "b"] {
        lab.domain(name, &["vda:12M"]);
    }
    let small = lab.fresh_directory();
    run("mount", &[&"-t", &"tmpfs", &"-o", &"size=16M,mode=777", &"tmpfs", &small]).succeeds();
    let small = Mounted(small);
    let output = lab.fresh_directory();
    let scratch = small.0.to_str().unwrap();
    let options = ["--all", "--parallel", "2", "--scratch-required", "--no-freeze"];
    let mut arguments = arguments(&lab, &output, &options);
    let place = arguments.iter().position(|word| word == "--scratchdir").unwrap();
    arguments[place + 1] = scratch.to_owned();
    let mut command = std::process::Command::new(crate::support::program());
    command.args(&arguments);
    // Whichever comes first stands still with its share.
    let mut all = crate::support::spawn_command(command, "extents-known=stop", lab.directory().join("all.stderr"));
    let children = || {
        // Each thread has its own.
        let tasks = std::fs::read_dir(format!("/proc/{}/task", all.id())).unwrap();
        let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let state = |id: &str| std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let stopped = || children().into_iter().filter(|id| state(id).contains(") T ")).collect::<Vec<_>>();
    let begin = Instant::now();
    // The other one has ended.
    while !(stopped().len() == 1 && children().len() == 1) {
        let said = || std::fs::read_to_string(lab.directory().join("all.stderr")).unwrap_or_default();
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{:?} of {:?} stand still: {}",
            stopped(),
            children(),
            said()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    run("kill", &[&"-CONT", &stopped()[0]]).succeeds();
    all.until(|| listing(&output).iter().any(|name| data(&output.join(name)) == ["vda.full.data"]));
    let run = all.wait().ends_with(1);
    run.says(&["guests that are backed up at this time could overwrite up to 24.0 MiB", "1 of 2 domains failed"]);
    // One after another they fit.
    arguments.retain(|word| word != "--parallel" && word != "2");
    let arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = arguments.iter().map(|word| word as _).collect();
    virtkeep(&arguments).succeeds();
}

/// A file system that goes with this value.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[&"-l", &self.0]).succeeds();
    }
}
