//! `backup --report`.

use serde_json::{Value, json};

use super::{json as read, mode};
use crate::support::{Case, KIB, Lab, MIB, listing, spawn_with, virtkeep};

#[test]
fn a_run_is_reported_whatever_came_of_it() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M", "vdb:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let directory = lab.fresh_directory();
    let path = directory.join("report.json");
    let options = ["--report", path.to_str().unwrap()];
    case.backup(&options).succeeds();
    let full = read(&path);
    assert_eq!(mode(&path), 0o644);
    assert_eq!((&full["virtkeep_report"], &full["exit"], &full["error"]), (&json!(1), &json!(0), &Value::Null));
    let run = &full["domains"][0];
    for (name, value) in [
        ("domain", json!("d")),
        ("status", json!("done")),
        ("exit", json!(0)),
        ("level", json!("full")),
        ("checkpoint", json!("virtnbdbackup.0")),
        ("set", json!(case.set)),
        ("chain_length", json!(1)),
        ("warnings", json!([])),
        ("error", Value::Null),
    ] {
        assert_eq!(run[name], value, "{name}: {full}");
    }
    let id = run["run"].as_str().unwrap();
    assert!(case.set.join(format!("virtkeep.{id}.json")).exists() || listing(&case.set).iter().any(|n| n.contains(id)));
    assert_eq!(run["disks"].as_array().unwrap().len(), 2);
    let vda = &run["disks"][0];
    assert_eq!(vda["target"], "vda");
    assert_eq!((&vda["virtual_bytes"], &vda["data_bytes"]), (&json!(4 * MIB), &json!(MIB)));
    let stored = case.set.join(vda["file"].as_str().unwrap()).metadata().unwrap().len();
    assert_eq!(vda["stored_bytes"], json!(stored));
    assert!(run["start"].as_str().unwrap() < run["end"].as_str().unwrap());

    case.domain.write("vdb", 0xbb, 0, 64 * KIB);
    case.backup(&options).succeeds();
    let inc = read(&path);
    let run = &inc["domains"][0];
    assert_eq!((&run["level"], &run["chain_length"]), (&json!("inc"), &json!(2)));
    assert_eq!(run["disks"][1]["base_checkpoint"], "virtnbdbackup.0");
    assert_eq!(run["disks"][1]["data_bytes"], json!(64 * KIB));

    // Failed in the middle of the copy: undone, and told.
    spawn_with(&case, &options, "extents-known=error").wait().ends_with(1);
    let failed = read(&path);
    let run = &failed["domains"][0];
    assert_eq!((&failed["exit"], &run["exit"], &run["status"]), (&json!(1), &json!(1), &json!("failed")));
    assert_eq!((&run["error"]["phase"], &run["error"]["kind"]), (&json!("copy"), &json!("io")), "{failed}");
    assert!(run["error"]["message"].as_str().unwrap().contains("a fault at extents-known"));
    assert_eq!((&run["checkpoint"], &run["disks"]), (&Value::Null, &json!([])));
    case.no_traces();

    // By a signal.
    let mut stopped = spawn_with(&case, &options, "extents-known=stop");
    stopped.stops();
    stopped.signal("TERM");
    stopped.signal("CONT");
    stopped.wait().ends_with(143);
    let interrupted = read(&path);
    assert_eq!((&interrupted["exit"], &interrupted["domains"][0]["error"]["kind"]), (&json!(143), &json!("cancelled")));

    // Refused: with the hint.
    case.backup_to(&case.set, &[&options[..], &["-l", "full"]].concat()).ends_with(2);
    let refused = read(&path);
    let error = &refused["domains"][0]["error"];
    assert_eq!((&error["kind"], &error["phase"]), (&json!("usage"), &json!("plan")), "{refused}");
    assert!(error["hint"].is_string(), "{refused}");

    // Nobody there.
    let nowhere = "qemu:///session?socket=/nowhere/libvirt-sock";
    virtkeep(&[&"backup", &"-d", &"d", &"-o", &case.set, &"-U", &nowhere, &"--report", &path]).ends_with(1);
    let unreachable = read(&path);
    let run = &unreachable["domains"][0];
    assert_eq!((&run["domain"], &run["error"]["phase"]), (&json!("d"), &json!("connect")), "{unreachable}");

    // A place that can't be: nothing is done.
    case.backup(&["--report", "/nowhere/report.json"]).ends_with(2).says(&["/nowhere/report.json", "hint: "]);
    case.backup(&["--report", "-"]).ends_with(2);
    case.backup(&["--report", "x", "--printonly"]).ends_with(2);
    // One that could not be written to afterwards: the backup stays, and the status tells.
    let points = case.checkpoints().len();
    case.backup(&["--report", "/proc/report.json"]).ends_with(3).says(&["the backup is not concerned", "/proc"]);
    assert_eq!(case.checkpoints().len(), points + 1);
    assert_eq!(listing(&directory), ["report.json"]);
}

#[test]
fn several_domains_are_in_one_report_and_one_file_of_metrics() {
    let lab = Lab::up();
    for name in ["a", "b"] {
        lab.domain(name, &["vda:2M"]);
    }
    let (output, directory) = (lab.fresh_directory(), lab.fresh_directory());
    let (report, metrics) = (directory.join("report.json"), directory.join("virtkeep.prom"));
    let backup = |uri: &str, domains: &[&str]| {
        let (scratch, hook) = (lab.scratch(), format!("echo $VIRTKEEP_DOMAIN >>{}", directory.join("ran").display()));
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"backup", &"-n", &"-U", &uri, &"-o", &output];
        arguments.extend(domains.iter().map(|word| word as &dyn AsRef<std::ffi::OsStr>));
        let more: [&dyn AsRef<std::ffi::OsStr>; 8] =
            [&"--scratchdir", &scratch, &"--report", &report, &"--metrics", &metrics, &"--hook-post-run", &hook];
        arguments.extend(more);
        virtkeep(&arguments)
    };
    backup(&lab.uri(), &["-d", "a", "-d", "nobody", "-d", "b"]).ends_with(1);
    let told = read(&report);
    let statuses: Vec<_> = (0..3).map(|at| (&told["domains"][at]["domain"], &told["domains"][at]["status"])).collect();
    let wanted = [("a", "done"), ("nobody", "failed"), ("b", "done")].map(|(one, two)| (json!(one), json!(two)));
    assert_eq!(statuses, wanted.iter().map(|(one, two)| (one, two)).collect::<Vec<_>>());
    assert_eq!((&told["exit"], &told["error"]), (&json!(1), &Value::Null));
    assert!(told["domains"][1]["error"]["message"].as_str().unwrap().contains("nobody"));
    assert_eq!(told["domains"][2]["disks"][0]["target"], "vda");
    assert_eq!(std::fs::read_to_string(directory.join("ran")).unwrap(), "a\nb\n");
    super::metrics::is_sound(&metrics);
    let value = |name: &str, domain: &str| super::metrics::value(&metrics, name, domain);
    assert_eq!(value("last_run_exit_code", "a").as_deref(), Some("0"));
    assert_eq!(value("last_run_exit_code", "nobody").as_deref(), Some("1"));
    let success = value("last_success_timestamp_seconds", "b");
    assert!(success.is_some() && value("last_success_timestamp_seconds", "nobody").is_none());

    // The daemon is away: the whole has failed, and with it every domain that was known.
    backup("qemu:///session?socket=/nowhere/libvirt-sock", &["--all"]).ends_with(1);
    let told = read(&report);
    assert_eq!((&told["exit"], &told["domains"]), (&json!(1), &json!([])));
    assert!(told["error"]["message"].is_string(), "{told}");
    super::metrics::is_sound(&metrics);
    for domain in ["a", "b"] {
        assert_eq!(value("last_run_exit_code", domain).as_deref(), Some("1"));
    }
    assert_eq!(value("last_success_timestamp_seconds", "b"), success);
}
