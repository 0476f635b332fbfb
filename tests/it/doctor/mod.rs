//! `virtkeep doctor`: every kind of finding made for real; looking changes nothing, mending touches only
//! what is the set's own, and what is mended is in order afterwards.

mod foreign;
mod own;
mod set;

use std::path::Path;

use serde_json::Value;

use crate::support::{Case, Run, listing, run, virtkeep};

impl Case<'_> {
    #[track_caller]
    fn doctor_of(&self, set: &Path, options: &[&str]) -> Run {
        let (uri, scratch, name) = (self.lab.uri(), self.lab.scratch(), self.domain.name());
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> =
            vec![&"doctor", &"-d", &name, &"-o", &set, &"-U", &uri, &"--scratchdir", &scratch];
        arguments.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
        virtkeep(&arguments)
    }

    /// Looks, and fails the test if that changes anything.
    #[track_caller]
    fn looks(&self, status: i32) -> Report {
        let before = self.everything();
        let table = self.doctor_of(&self.set, &[]).ends_with(status);
        let json = self.doctor_of(&self.set, &["--json"]).ends_with(status);
        assert_eq!(self.everything(), before, "looking changed something");
        Report { table: table.stdout, findings: findings(&json) }
    }

    /// Mends all there is, and fails the test unless all is in order then.
    #[track_caller]
    fn mends(&self, words: &[&str]) {
        let run = self.doctor_of(&self.set, &["--repair"]).succeeds().says(words);
        assert!(run.stdout.contains("mended") && !run.stdout.contains('!'), "{}{}", run.stdout, run.stderr);
        let after = self.looks(0);
        assert!(!after.table.contains('!'), "{}", after.table);
    }

    /// Fails the test unless mending leaves all as it is and says so.
    #[track_caller]
    fn mends_nothing(&self) {
        let before = self.everything();
        let run = self.doctor_of(&self.set, &["--repair"]).ends_with(3);
        assert!(run.stdout.contains("left: ") && !run.stdout.contains("mended"), "{}{}", run.stdout, run.stderr);
        assert_eq!(self.everything(), before, "mending touched what is not the set's");
    }

    /// As [`Case::mends_nothing`], where nothing of the set can be told to be its own.
    #[track_caller]
    fn mends_nothing_of_a_bad_set(&self) {
        let before = self.everything();
        self.doctor_of(&self.set, &["--repair"]).ends_with(3).says(&["nothing is mended"]);
        assert_eq!(self.everything(), before);
    }

    /// All that a doctor could change: job, checkpoints, QEMU's bitmaps, files and their content.
    fn everything(&self) -> Vec<String> {
        let name = self.domain.name();
        let virsh = |arguments: &[&dyn AsRef<std::ffi::OsStr>]| self.lab.command("virsh", arguments).stdout;
        let mut all = vec![virsh(&[&"domstate", &name, &"--reason"]), virsh(&[&"backup-dumpxml", &name])];
        for checkpoint in self.checkpoints() {
            all.push(virsh(&[&"checkpoint-dumpxml", &name, &checkpoint]));
        }
        let nodes = virsh(&[&"qemu-monitor-command", &name, &r#"{"execute":"query-named-block-nodes"}"#]);
        let nodes: Value = serde_json::from_str(&nodes).unwrap_or_default();
        for node in nodes["return"].as_array().into_iter().flatten() {
            all.push(format!("{} {}", node["node-name"], node["dirty-bitmaps"]));
        }
        let images = self.lab.directory().join("disks");
        for directory in
            [&self.set, &self.set.join(".virtkeep"), &self.set.join("checkpoints"), &images, &self.lab.scratch()]
        {
            for file in listing(directory) {
                let path = directory.join(&file);
                let sum = if path.is_file() { run("sha256sum", &[&path]).stdout } else { String::new() };
                all.push(format!("{} {sum}", path.display()));
            }
        }
        // The note of who held the lock says who was last.
        all.retain(|line| !line.contains("/.virtkeep/lock "));
        all
    }
}

/// What a doctor found.
struct Report {
    table: String,
    findings: Vec<Value>,
}

#[track_caller]
fn findings(run: &Run) -> Vec<Value> {
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    document["findings"].as_array().unwrap().clone()
}

impl Report {
    /// The finding on `what`; all of `words` are in it.
    #[track_caller]
    fn has(&self, what: &str, words: &[&str]) -> &Value {
        let found = self.findings.iter().find(|finding| finding["what"].as_str().unwrap().contains(what));
        let found = found.unwrap_or_else(|| panic!("nothing on {what}:\n{}", self.table));
        for word in words {
            assert!(found.to_string().contains(word), "'{word}' is not in {found}");
        }
        found
    }

    /// Does what is advised on `what`, in a shell.
    #[track_caller]
    fn follow(&self, what: &str) {
        let advice = self.has(what, &[])["advice"].as_str().unwrap();
        let command = advice.split_once(": ").unwrap().1;
        run("sh", &[&"-c", &command]).succeeds();
    }

    #[track_caller]
    fn has_not(&self, what: &str) {
        let found = self.findings.iter().find(|finding| finding["what"].as_str().unwrap().contains(what));
        assert!(found.is_none(), "{found:?}");
    }
}
