//! nbdkit servers and image files for tests. A missing tool fails the test.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::nbd::uri;

/// An nbdkit that ends with this value.
pub(crate) struct Nbdkit {
    child: Child,
    directory: TempDir,
}

impl Nbdkit {
    /// Starts nbdkit with `arguments` (filters first, then plugin and parameters) and waits until
    /// it listens.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let pid_file = directory.path().join("pid");
        let child = Command::new("nbdkit")
            .args(["--foreground", "--exit-with-parent", "--threads=16", "--pidfile"])
            .arg(&pid_file)
            .arg("--unix")
            .arg(directory.path().join("socket"))
            .args(arguments)
            .spawn()
            .expect("nbdkit is needed (Debian: apt-get install nbdkit)");
        let mut server = Self { child, directory };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !pid_file.exists() {
            assert!(server.child.try_wait().unwrap().is_none(), "nbdkit {arguments:?} ended");
            assert!(Instant::now() < deadline, "nbdkit {arguments:?} does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    pub(crate) fn uri(&self) -> String {
        uri::unix(&self.directory.path().join("socket"), "")
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a tool and returns what it prints; fails the test if it fails.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The path as text; those of tests are.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
