//! `--log-file` and `--log-format`.

use std::path::Path;

use serde_json::Value;

use crate::support::{Case, Lab, spawn_with, virtkeep};

fn objects(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn messages_are_appended_to_a_file() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let directory = lab.fresh_directory();
    let (text, json) = (directory.join("text.log"), directory.join("json.log"));
    let name = text.to_str().unwrap();
    case.backup(&["--log-file", name, "--quiet"]).succeeds();
    spawn_with(&case, &["--log-file", name], "extents-known=error").wait().ends_with(1);
    let said = std::fs::read_to_string(&text).unwrap();
    for words in [" INFO  Finished successfully", " DEBUG ", " ERROR disk vda: a fault at extents-known"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(said.lines().all(|line| line.starts_with("20")), "{said}");
    // The set's own log goes on as before.
    let paths = std::fs::read_dir(&case.set).unwrap().map(|entry| entry.unwrap().path());
    // One of each run: the failed one keeps its own, too.
    let mut logs = paths.filter(|path| path.extension().is_some_and(|end| end == "log"));
    assert!(logs.any(|log| std::fs::read_to_string(log).unwrap().contains("committing run")));

    let options = ["--log-file", json.to_str().unwrap(), "--log-format", "json"];
    case.backup(&options).succeeds();
    let lines = objects(&json);
    let last = lines.iter().find(|line| line["message"].as_str().unwrap().starts_with("Finished")).unwrap();
    assert_eq!((&last["level"], &last["domain"]), (&Value::from("info"), &Value::from("d")));
    let run = last["run"].as_str().unwrap();
    assert!(last["message"].as_str().unwrap().contains(run) && last["time"].is_string());
    let of_disk: Vec<_> = lines.iter().filter(|line| line["disk"] == "vda").collect();
    assert!(!of_disk.is_empty() && of_disk.iter().all(|line| line["run"] == run), "{lines:#?}");

    // Of several domains each line says whose it is, and all are there whatever is shown; every command has the option.
    let before = lines.len();
    let output = lab.fresh_directory();
    let (uri, scratch) = (lab.uri(), lab.scratch());
    let arguments: [&dyn AsRef<std::ffi::OsStr>; 16] = [
        &"backup",
        &"--quiet",
        &"-d",
        &"d",
        &"-d",
        &"nobody",
        &"-U",
        &uri,
        &"-o",
        &output,
        &"--scratchdir",
        &scratch,
        &options[0],
        &options[1],
        &options[2],
        &options[3],
    ];
    let run = virtkeep(&arguments).ends_with(1);
    assert!(run.stderr.contains("nobody") && !run.stderr.contains("Finished"), "{}", run.stderr);
    let lines = objects(&json).split_off(before);
    let says = |domain: &str, words: &str| {
        lines.iter().any(|line| line["domain"] == domain && line["message"].as_str().unwrap().starts_with(words))
    };
    let is_detail = |line: &Value| line["domain"] == "d" && line["level"] == "debug";
    assert!(lines.iter().any(is_detail), "{lines:#?}");
    assert!(says("d", "Finished successfully") && lines.iter().any(|line| line["level"] == "error"));
    // Its own process knew the run.
    let finished = lines.iter().rfind(|line| line["message"].as_str().unwrap().starts_with("Finished")).unwrap();
    assert!(finished["domain"] == "d" && finished["run"].is_string(), "{finished}");
    let before = objects(&json).len();
    virtkeep(&[&"verify", &"-n", &"-i", &"/nowhere", &options[0], &options[1], &options[2], &options[3]]);
    assert!(objects(&json).len() > before);

    case.backup(&["--log-file", "/nowhere/log"]).ends_with(1).says(&["/nowhere/log", "hint: "]);
    case.backup(&["--log-format", "json"]).ends_with(2).says(&["--log-file"]);
}
