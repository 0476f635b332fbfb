//! Real block devices.

use std::path::{Path, PathBuf};

use super::run;

/// A loop device over a file; detached when dropped.
pub struct Loop(pub PathBuf);

impl Loop {
    /// Anybody may use it: QEMU of a lab runs as nobody.
    #[track_caller]
    pub fn new(file: &Path) -> Loop {
        let device = Loop(run("losetup", &[&"-f", &"--show", &file]).succeeds().stdout.trim().into());
        run("chmod", &[&"666", &device.0]).succeeds();
        device
    }

    /// One of `size` bytes of value `fill`, its file in `directory`.
    #[track_caller]
    pub fn filled(directory: &Path, size: usize, fill: u8) -> Loop {
        let file = tempfile::NamedTempFile::new_in(directory).unwrap().into_temp_path().keep().unwrap();
        std::fs::write(&file, vec![fill; size]).unwrap();
        Loop::new(&file)
    }

    /// The path, as an argument takes it.
    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// What is on it.
    pub fn content(&self) -> Vec<u8> {
        std::fs::read(&self.0).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &[&"-d", &self.0]);
    }
}
