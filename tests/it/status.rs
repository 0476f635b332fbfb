//! `virtkeep status` as a monitoring plugin calls it.

use std::path::Path;

use crate::support::{Case, Lab, MIB, Run, run, spawn_with, virtkeep};

fn status(set: &Path, options: &[&str]) -> Run {
    let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"status", &"-i", &set];
    arguments.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
    virtkeep(&arguments)
}

#[track_caller]
fn prints(run: Run, line: &[&str]) -> Run {
    for words in line {
        assert!(run.stdout.contains(words), "{words:?} is missing: {}", run.stdout);
    }
    run
}

#[test]
fn a_set_is_judged_by_its_newest_run() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    prints(status(&case.set, &[]).ends_with(3), &["UNKNOWN - ", "set: "]);
    std::fs::create_dir_all(&case.set).unwrap();
    prints(status(&case.set, &[]).ends_with(2), &["CRITICAL - ", "no backup"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    case.backup(&[]).succeeds();
    case.backup(&["-l", "inc"]).succeeds();

    let metrics = lab.fresh_directory().join("virtkeep.prom");
    let run = status(&case.set, &["--metrics", metrics.to_str().unwrap()]).ends_with(0);
    let run =
        prints(run, &["OK - d: last backup ", "inc, ", "chain of 2, 2 restore points | age=", "s;;93600;0 stored="]);
    assert_eq!(run.stdout.lines().count(), 1);
    let text = std::fs::read_to_string(&metrics).unwrap();
    for line in [
        "virtkeep_healthy{domain=\"d\",set=",
        "virtkeep_chain_length{domain=\"d\",set=",
        "disk=\"vda\",kind=\"virtual\"} 4194304",
    ] {
        assert!(text.contains(line), "{line} is missing: {text}");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&metrics.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644);
    status(&case.set, &["--metrics", "/proc/virtkeep.prom"]).ends_with(3).says(&["/proc/virtkeep.prom"]);

    prints(status(&case.set, &["--max-chain", "1"]).ends_with(1), &["WARNING - d: a restore reads 2 runs; last"]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    prints(status(&case.set, &["--max-age", "1s"]).ends_with(2), &["CRITICAL - d: older than 1 s; "]);
    prints(status(&case.set, &["--warn-age", "1s"]).ends_with(1), &["WARNING - d: older than "]);
    status(&case.set, &["--max-age", "1 month"]).ends_with(3).says(&["such as 26h"]);

    // A run that goes on is no matter, one that died is.
    let mut stopped = spawn_with(&case, &["-l", "inc"], "stream-created=stop");
    stopped.stops();
    status(&case.set, &[]).ends_with(0);
    stopped.signal("KILL");
    stopped.wait().ends_with(137);
    prints(status(&case.set, &[]).ends_with(1), &["WARNING - d: run ", "left unfinished"]);
    case.backup(&["-l", "inc"]).succeeds();
    prints(status(&case.set, &[]).ends_with(1), &["WARNING - d: 2 warnings, the first: aborted the backup job"]);
    case.backup(&["-l", "inc"]).succeeds();
    status(&case.set, &[]).ends_with(0);

    let both = status(&case.set, &["-i", "/nowhere"]).ends_with(3);
    let both =
        prints(both, &["UNKNOWN - 2 sets: 1 UNKNOWN, 1 OK | 'd age'=", "\nOK - d: last", "\nUNKNOWN - /nowhere: "]);
    assert_eq!(both.stdout.lines().count(), 3);

    let full = case.set.join("vda.full.data");
    let size = full.metadata().unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&full).unwrap().set_len(size - 1).unwrap();
    prints(status(&case.set, &[]).ends_with(2), &["CRITICAL - d: can't be restored: DAMAGED FILES"]);
}

/// A clock that was wrong once: what came later is looked at all the same.
#[test]
fn a_run_that_is_dated_ahead_does_not_hide_the_others() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let (uri, scratch) = (lab.uri(), lab.scratch());
    let full: [&dyn AsRef<std::ffi::OsStr>; 10] =
        [&"-n", &"-U", &uri, &"-d", &"d", &"-o", &case.set, &"--scratchdir", &scratch, &"-lfull"];
    run("virtnbdbackup", &full).succeeds();
    // It notes the time in the stream alone, and no digest of that.
    let stream = case.set.join("vda.full.data");
    let mut bytes = std::fs::read(&stream).unwrap();
    let date = b"\"date\": \"";
    let at = bytes.windows(date.len()).position(|window| window == date).expect("the moment") + date.len();
    bytes[at..at + 4].copy_from_slice(b"2999");
    std::fs::write(&stream, bytes).unwrap();
    let ahead = ["WARNING - ", ": a backup is dated 2999-", " which is to come"];
    prints(status(&case.set, &[]).ends_with(1), &ahead);

    case.backup(&["-l", "inc"]).succeeds();
    prints(status(&case.set, &[]).ends_with(1), &[&ahead[..], &[", inc, "]].concat());
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let old = status(&case.set, &["--max-age", "1s"]).ends_with(2);
    prints(old, &["CRITICAL - d: older than 1 s; ", "a backup is dated 2999-"]);
}

#[test]
fn an_image_of_a_raw_disk_that_is_old_is_told() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:1M:raw"]);
    case.backup(&["-r"]).succeeds();
    let full = status(&case.set, &[]).ends_with(0);
    assert!(!full.stdout.contains("raw disk"), "it is as young as all else: {}", full.stdout);
    std::thread::sleep(std::time::Duration::from_secs(6));
    // The newest run is young, however slow the machine is at one of them.
    let young = |_| {
        case.backup(&["-r", "-l", "inc", "--quiet"]).succeeds();
        let run = status(&case.set, &["--max-age", "5s"]);
        (run.status == 1).then_some(run)
    };
    let run = (0..20).find_map(young).expect("an increment of less than five seconds");
    let run =
        prints(run, &["WARNING - d: the image of raw disk vdb is older than ", "; raw disk vdb as of ", " ago) | "]);
    assert_eq!(run.stdout.lines().count(), 1);
    let metrics = lab.fresh_directory().join("virtkeep.prom");
    let run = status(&case.set, &["--metrics", metrics.to_str().unwrap()]).ends_with(0);
    prints(run, &["OK - d: last backup ", "; raw disk vdb as of "]);
    let text = std::fs::read_to_string(&metrics).unwrap();
    let moment = |name: &str| -> u64 {
        let mut lines = text.lines().filter(|line| line.starts_with(name));
        lines.next().and_then(|line| line.split(' ').next_back()).unwrap().parse().unwrap()
    };
    let (image, newest) =
        (moment("virtkeep_raw_image_timestamp_seconds{"), moment("virtkeep_last_backup_timestamp_seconds{"));
    assert!(image + 6 <= newest, "{text}");
    assert!(text.contains(",disk=\"vdb\"} "), "{text}");
    // Said to be left out, it is nobody's care.
    case.backup(&["-x", "vdb", "-l", "inc"]).succeeds();
    assert!(!status(&case.set, &[]).ends_with(0).stdout.contains("raw disk"));
}

/// The layout with a directory for each month: last month's set is never fresh again, and nothing is wrong with it.
#[test]
fn of_several_sets_of_a_domain_the_newest_has_to_be_fresh() {
    let lab = Lab::up();
    let case = Case::new(&lab, "web", &["vda:4M"]);
    let parent = case.set.parent().unwrap().to_owned();
    let [copy, october, november] = ["copy", "2026-10", "2026-11"].map(|name| parent.join(name));
    case.backup_to(&october, &["-l", "full"]).succeeds();
    case.backup_to(&copy, &["-l", "copy"]).succeeds();
    // Alone it is too old, and the copy behind it is no chain that goes on.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    prints(status(&october, &["--max-age", "1s"]).ends_with(2), &["CRITICAL - web: older than 1 s; "]);
    let both = status(&october, &["-i", copy.to_str().unwrap(), "--max-age", "1s"]).ends_with(2);
    prints(both, &["CRITICAL - 2 sets: 2 CRITICAL"]);

    case.backup_to(&november, &["-l", "full"]).succeeds();
    let sets = [&november, &october, &copy, &november].map(|set| set.to_str().unwrap());
    let judged = status(Path::new(sets[0]), &["-i", sets[1], "-i", sets[2], "-i", sets[3], "--max-age", "1s"]);
    // However slow this host is, only the newest can be too old.
    let ended = format!("\nOK - web: ended; the newest is {}; last backup", november.display());
    assert_eq!(judged.stdout.matches(&ended).count(), 2, "{}", judged.stdout);
    let metrics = lab.fresh_directory().join("virtkeep.prom");
    let judged = status(
        Path::new(sets[0]),
        &["-i", sets[1], "-i", sets[2], "--max-age", "26h", "--metrics", metrics.to_str().unwrap()],
    );
    let judged = prints(judged.ends_with(0), &["OK - 3 sets: 3 OK | 'web age'="]);
    assert_eq!(judged.stdout.matches("'web age'").count(), 1, "{}", judged.stdout);
    let text = std::fs::read_to_string(&metrics).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("virtkeep_ended{") && line.ends_with(" 1")).count(), 2);

    // One that ended must still be whole.
    std::fs::remove_file(october.join("vda.full.data")).unwrap();
    prints(status(&november, &["-i", sets[1]]).ends_with(2), &["\nCRITICAL - web: can't be restored: "]);

    // Figures of two domains of one name are told apart.
    case.domain.remove();
    let again = Case::new(&lab, "web", &["vda:4M"]);
    again.backup(&["-l", "full"]).succeeds();
    let both = status(&november, &["-i", again.set.to_str().unwrap()]).ends_with(0);
    prints(both, &[&format!("'web {} age'=", november.display()), &format!("'web {} age'=", again.set.display())]);
}

/// For a monitoring system status 2 is a lost backup; a wrong call is not.
#[test]
fn a_wrong_call_is_unknown() {
    virtkeep(&[&"status"]).ends_with(3).says(&["--input"]);
    virtkeep(&[&"status", &"-i", &"/nowhere", &"--no-such"]).ends_with(3).says(&["--no-such"]);
    virtkeep(&[&"status", &"-i", &"/nowhere", &"--config", &"/nowhere.toml"]).ends_with(3).says(&["/nowhere.toml"]);
    virtkeep(&[&"status", &"--help"]).succeeds();
    virtkeep(&[&"verify", &"--no-such"]).ends_with(2);
}
