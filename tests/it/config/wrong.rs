//! What is wrong is named, and what is in force is shown.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{configured, file};
use crate::support::virtkeep;

#[test]
fn mistakes_are_named_with_file_line_and_remedy() {
    let directory = tempfile::tempdir().unwrap();
    for (text, words) in [
        ("[backup]\ncompres = 4", &["line 2: there is no option compres in [backup]", "hint: is it compress?"][..]),
        ("[backup]\nscratch_dir = '/x'", &["hint: is it scratchdir?"]),
        ("[backup]\nraw = 'yes'", &["line 2: raw: it takes true or false, without quotes"]),
        ("[backup]\ncompress = 99", &["line 2: compress: invalid value '99'", "1..=16"]),
        ("[backup]\nlevel = 'half'", &["line 2: level: ", "hint: it can be auto, copy, diff, full, inc"]),
        ("[backup]\noutput = ['a', 'b']", &["it takes one value, not a list"]),
        ("[backup]\nmode = 0o640", &["only decimal numbers go without quotes"]),
        (
            "[backup]\npassword = 'x'",
            &["line 2: password can't be set in a file", "hint: write it into a file", "password-file"],
        ),
        ("[backup]\nquiet = true\nverbose = 1", &["line 3: verbose: it does not go together with", "--quiet"]),
        ("compress = 4", &["line 1: compress belongs into a section", "[backup]"]),
        ("[domain.web]\nall = true", &["line 2: all: a domain can't have its own", "hint: put it into [backup]"]),
        ("[domain.web]\nexclud = 'vda'", &["in [domain.web]", "hint: is it exclude?"]),
        ("[bakup]", &["line 1: there is no section [bakup]", "hint: is it [backup]?"]),
        ("[backup", &["line 1: "]),
    ] {
        let path = file(directory.path(), text);
        let name = format!("{path:?}");
        for words_of in [&["backup", "-d", "x", "-o", "/x"][..], &["config", "check"]] {
            let arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = words_of.iter().map(|word| word as _).collect();
            let run = configured(&path, &[], &arguments).ends_with(2).says(&[&name]).says(words);
            assert!(words_of[0] == "config" || run.stdout.is_empty(), "{}", run.stdout);
        }
    }
    // A mistake in what is about another command does not stand in the way.
    let path = file(directory.path(), "[restore]\nformat = 'x'");
    configured(&path, &[], &[&"dump", &"-i", &"/nowhere"]).ends_with(1);
    configured(&path, &[], &[&"config", &"check"]).ends_with(2).says(&["line 2: format: ", "qcow2"]);
    virtkeep(&[&"dump", &"-i", &"/nowhere", &"--config", &"/nowhere.toml"]).ends_with(2).says(&["/nowhere.toml"]);
    let path = file(directory.path(), "");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    configured(&path, &[], &[&"dump", &"-i", &"/nowhere"]).ends_with(2).says(&["other users can write", "chmod go-w"]);
    let none = Path::new("/dev/null");
    let dump: [&dyn AsRef<std::ffi::OsStr>; 3] = [&"dump", &"-i", &"/nowhere"];
    configured(none, &[("VIRTKEEP_DUMP_JSON", "perhaps")], &dump)
        .ends_with(2)
        .says(&["the variable VIRTKEEP_DUMP_JSON: "]);
    configured(none, &[("VIRTKEEP_DUMP_JSN", "1")], &dump)
        .says(&["VIRTKEEP_DUMP_JSN is not an option", "VIRTKEEP_DUMP_JSON?"]);
}

#[test]
fn what_is_in_force_is_shown_with_its_source() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(
        directory.path(),
        "uri = 'test:///default'\n[backup]\ncompress = 4\ntls-cert = '/x'\n[domain.web]\ncompress = true\n",
    );
    let variables = [("VIRTKEEP_BACKUP_MODE", "0640")];
    let run = configured(&path, &variables, &[&"config", &"check"]).succeeds();
    let name = path.display();
    let lines: Vec<String> =
        run.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        format!("configuration: {name}"),
        format!("uri = \"test:///default\" {name}:1"),
        "backup of domain web".to_owned(),
        format!("compress = 4 {name}:3 [backup]"),
        format!("compress = true {name}:6 [domain.web]"),
        format!("compress = 4 {name}:3 [backup]: NOT IN FORCE, overridden"),
        format!("tls-cert = \"/x\" {name}:4 [backup]: NOT IN FORCE, needs --tls"),
        "mode = \"0640\" variable VIRTKEEP_BACKUP_MODE".to_owned(),
        "scratchdir = \"/var/tmp\" default".to_owned(),
    ] {
        assert!(lines.contains(&line), "{line}: {}", run.stdout);
    }
    let run = configured(&path, &variables, &[&"config", &"check", &"--json", &"-d", &"web"]).succeeds();
    let look: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(look["sections"].as_array().unwrap().len(), 1);
    let options = look["sections"][0]["options"].as_array().unwrap();
    let compress = options.iter().find(|option| option["option"] == "compress" && option["in_force"] == true).unwrap();
    assert_eq!((&compress["value"], &compress["source"]["line"]), (&true.into(), &6.into()));
}

/// `packaging/virtkeep.toml` is right with every one of its lines.
#[test]
fn the_example_is_a_configuration() {
    let run = virtkeep(&[&"config", &"example"]).succeeds();
    assert_eq!(
        run.stdout,
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/virtkeep.toml")).unwrap()
    );
    let is_key = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let plain = run.stdout.lines().map(|line| match line.strip_prefix("# ") {
        Some(setting) if setting.starts_with('[') || is_key(setting) => setting.to_owned(),
        _ => line.to_owned(),
    });
    let plain: Vec<String> = plain.collect();
    assert!(plain.iter().filter(|line| !line.is_empty() && !line.starts_with('#')).count() > 20, "{plain:?}");
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), &plain.join("\n"));
    let checked = configured(&path, &[], &[&"config", &"check"]).succeeds();
    assert!(checked.stderr.is_empty(), "{}", checked.stderr);
    let path = file(directory.path(), &run.stdout);
    configured(&path, &[], &[&"config", &"check"]).succeeds();
}
