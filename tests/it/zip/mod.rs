//! Backups to standard output as zip files, and sets read from zip files.

mod base;
mod foreign;
mod hostile;
mod map;
mod pipe;
mod records;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::support::{Case, Lab, Run, compare, listing, run, virtkeep};

/// A domain whose backups go to a pipe, from a working directory of its own.
struct Piped<'lab> {
    case: Case<'lab>,
    work: PathBuf,
}

impl<'lab> Piped<'lab> {
    #[track_caller]
    fn new(lab: &'lab Lab, disks: &[&str]) -> Self {
        let work = lab.fresh_directory();
        let mut case = Case::new(lab, "d", disks);
        // The records are what `Case` looks at for traces.
        case.set = work.join("d.virtkeep");
        Self { case, work }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// A backup that a shell command reads from a pipe; its status is the backup's.
    #[track_caller]
    fn send_to(&self, reader: &str, options: &[&str]) -> Run {
        self.send_with(reader, options, "")
    }

    /// As [`Piped::send_to`], of a run that meets `fault`.
    #[track_caller]
    fn send_with(&self, reader: &str, options: &[&str], fault: &str) -> Run {
        let script = "cd \"$1\"; reader=$2; export VIRTKEEP_FAULT=\"$3\"; shift 3
            { \"$@\"; echo $? >status; } | sh -c \"$reader\"
            exit $(cat status)";
        let program = crate::support::program();
        let arguments = self.case.arguments(Path::new("-"), options);
        let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"-c", &script, &"sh", &self.work, &reader, &fault, &program];
        all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<OsStr>));
        run("sh", &all)
    }

    /// A backup into a zip file, by way of a pipe; fails the test unless it succeeds and unzip takes the file.
    #[track_caller]
    fn backs_up(&self, name: &str, options: &[&str]) -> Run {
        let run = self.send_to(&format!("cat >{name}"), options).succeeds();
        self.unzip_tests(name);
        self.case.no_traces();
        run
    }

    #[track_caller]
    fn unzip_tests(&self, name: &str) {
        run("unzip", &[&"-tq", &self.path(name)]).succeeds();
    }

    /// Restores from zip files and compares with what the disks held.
    #[track_caller]
    fn restores(&self, zips: &[&str], options: &[&str], disks: &[&str], references: &[PathBuf]) {
        let input = zips.iter().map(|zip| self.path(zip).display().to_string()).collect::<Vec<_>>().join(",");
        virtkeep(&[&"verify", &"-n", &"--deep", &"-i", &input]).succeeds();
        let verify = virtkeep(&[&"verify", &"-n", &"-i", &input]).succeeds();
        assert!(verify.stdout.contains("OK: every byte is proven"), "{}", verify.stdout);
        let out = self.case.lab.fresh_directory().join("out");
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"restore", &"-n", &"-i", &input, &"-o", &out];
        arguments.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
        virtkeep(&arguments).succeeds();
        for (disk, reference) in disks.iter().zip(references) {
            compare(&out.join(self.case.domain.image(disk).file_name().unwrap()), "qcow2", reference);
        }
        assert!(listing(&out).contains(&"vmconfig.xml".to_owned()));
    }
}
