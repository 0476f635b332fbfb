//! A private libvirtd for one test; `tests/lab.sh` does the work.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Run, TestDomain, run, virtkeep};

/// A running libvirtd of its own directory. Dropped, it goes with all its domains and files; it
/// goes as well when this process is killed.
#[derive(Debug)]
pub struct Lab {
    directory: PathBuf,
    /// It goes with this.
    owned: bool,
}

impl Lab {
    /// Starts one; 0.2 seconds, 5 for the very first on a machine.
    #[track_caller]
    pub fn up() -> Lab {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vk{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Lab { directory: std::env::temp_dir().join(name), owned: true };
        lab.command("up", &[&"--owner", &std::process::id().to_string()]).succeeds();
        lab
    }

    /// Backs up a domain into `set`.
    #[track_caller]
    pub fn back_up(&self, domain: &str, set: &Path, options: &[&str]) -> Run {
        let (uri, scratch) = (self.uri(), self.scratch());
        let mut words: Vec<&dyn AsRef<OsStr>> = vec![&"backup", &"-n", &"-U", &uri, &"-d", &domain, &"-o", &set];
        words.extend([&"--scratchdir" as &dyn AsRef<OsStr>, &scratch]);
        words.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
        virtkeep(&words)
    }

    /// One that somebody else has made, and ends.
    pub fn at(directory: PathBuf) -> Lab {
        Lab { directory, owned: false }
    }

    /// Runs a command of `tests/lab.sh` in this lab.
    #[track_caller]
    pub fn command(&self, command: &str, arguments: &[&dyn AsRef<OsStr>]) -> Run {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab.sh");
        let mut all: Vec<&dyn AsRef<OsStr>> = vec![&command, &self.directory];
        all.extend_from_slice(arguments);
        run(script, &all)
    }

    /// Where everything of this lab lives.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// For `virtkeep --uri` and `virsh --connect`.
    pub fn uri(&self) -> String {
        format!("qemu:///session?socket={}/run/libvirt/libvirt-sock", self.directory.display())
    }

    /// A directory that QEMU can write to.
    pub fn scratch(&self) -> PathBuf {
        self.directory.join("scratch")
    }

    /// A fresh, empty directory that goes with the lab.
    pub fn fresh_directory(&self) -> PathBuf {
        tempfile::tempdir_in(&self.directory).unwrap().keep()
    }

    /// Runs virsh against this libvirtd and returns what it printed.
    #[track_caller]
    pub fn virsh(&self, arguments: &[&dyn AsRef<OsStr>]) -> String {
        self.command("virsh", arguments).succeeds().stdout
    }

    /// Defines a small domain and starts it paused. `disks` are as `tests/lab.sh` takes them:
    /// `vda:64M`, `sda:17826304:cluster_size=4096`; options of `lab.sh domain` may come first.
    #[track_caller]
    pub fn domain(&self, name: &str, disks: &[&str]) -> TestDomain<'_> {
        self.start("domain", name, disks)
    }

    /// Boots a small Linux with a guest agent and waits until that answers.
    #[track_caller]
    pub fn guest(&self, name: &str, disks: &[&str]) -> TestDomain<'_> {
        self.start("guest", name, disks)
    }

    /// The guest `g`, whose disk `vda` is mounted on `/mnt` and has a file `file` with the line `text`, and a set with a
    /// full of it.
    #[track_caller]
    pub fn guest_with_a_set(&self, text: &str) -> (TestDomain<'_>, PathBuf) {
        let guest = self.guest("g", &["vda:64M"]);
        guest.execute(&format!("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo {text} >/mnt/file && sync"));
        let set = self.fresh_directory().join("set");
        self.back_up("g", &set, &[]).succeeds();
        (guest, set)
    }

    #[track_caller]
    fn start(&self, command: &str, name: &str, disks: &[&str]) -> TestDomain<'_> {
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&name];
        arguments.extend(disks.iter().map(|disk| disk as &dyn AsRef<OsStr>));
        self.command(command, &arguments).succeeds();
        TestDomain::new(self, name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        let down = self.command("down", &[]);
        // A second panic would hide the first one.
        if !std::thread::panicking() {
            down.succeeds();
        }
    }
}
