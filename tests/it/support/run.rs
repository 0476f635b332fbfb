//! Runs programs and keeps all they said, for asserts that show it.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

/// An ended program: its exit status and what it said.
#[derive(Debug)]
pub struct Run {
    /// The command line, for messages.
    pub command: String,
    /// Exit status, or 128 + the signal that ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    fn from_output(command: String, output: Output) -> Run {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
        Run {
            command,
            status: status.unwrap(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test, showing everything, unless the program ended with `status`.
    #[track_caller]
    pub fn ends_with(self, status: i32) -> Run {
        assert!(
            self.status == status,
            "status {} instead of {status}: {}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.command,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Fails the test unless the program succeeded.
    #[track_caller]
    pub fn succeeds(self) -> Run {
        self.ends_with(0)
    }

    /// Fails the test unless standard error holds every one of `words`.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Run {
        for word in words {
            assert!(self.stderr.contains(word), "'{word}' is not in what {} said:\n{}", self.command, self.stderr);
        }
        self
    }
}

/// The cache of the tests, which is not the user's.
pub const CACHE: (&str, &str) = ("VIRTKEEP_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));

/// No configuration: the machine's is not the tests'.
pub const CONFIG: (&str, &str) = ("VIRTKEEP_CONFIG", "/dev/null");

/// Runs `program` with `arguments`, without input.
#[track_caller]
pub fn run(program: impl AsRef<OsStr>, arguments: &[&dyn AsRef<OsStr>]) -> Run {
    let mut command = Command::new(program.as_ref());
    command.args(arguments.iter().map(|argument| argument.as_ref())).stdin(Stdio::null());
    command.env(CACHE.0, CACHE.1).env(CONFIG.0, CONFIG.1);
    let line = format!("{command:?}");
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{line}: {error}; tests/install.sh --tests installs what is missing"));
    Run::from_output(line, output)
}

/// Runs the program under test. `VIRTKEEP_BIN` names another build of it, an installed one say.
#[track_caller]
pub fn virtkeep(arguments: &[&dyn AsRef<OsStr>]) -> Run {
    run(program(), arguments)
}

/// The program under test.
pub fn program() -> std::ffi::OsString {
    std::env::var_os("VIRTKEEP_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_virtkeep").into())
}
