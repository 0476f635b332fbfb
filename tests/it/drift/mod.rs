//! Drift: what the host, its owner or another tool did to checkpoints, bitmaps and images between two
//! runs. Whatever it was, the next run ends in a correct backup, at the price of a full of the disks
//! concerned, and says why.

mod bitmaps;
mod disks;
mod host;
mod keep;
mod overlay;
mod rollback;
mod zombie;

use std::path::{Path, PathBuf};

use crate::support::{Case, Lab, run};

/// A user of the host: what is done to the domain behind the program's back.
impl Case<'_> {
    fn virsh(&self, arguments: &[&str]) -> String {
        let arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = arguments.iter().map(|argument| argument as _).collect();
        self.lab.virsh(&arguments)
    }

    /// The definition that it will be started with.
    fn definition(&self) -> String {
        self.virsh(&["dumpxml", "--inactive", self.domain.name()])
    }

    /// Writes `xml` to a file that goes with the lab.
    fn file(&self, xml: &str) -> PathBuf {
        let path = self.lab.fresh_directory().join("definition.xml");
        std::fs::write(&path, xml).unwrap();
        path
    }

    /// Replaces `from` by `to` in the definition of the stopped domain.
    #[track_caller]
    fn edit(&self, from: &Path, to: &Path) {
        let xml = self.definition();
        let edited = xml.replace(&format!("'{}'", from.display()), &format!("'{}'", to.display()));
        assert_ne!(xml, edited, "nothing to edit");
        self.lab.virsh(&[&"define", &self.file(&edited)]);
    }

    /// A copy of the stopped domain's image, as a file-level snapshot would keep it.
    fn keep_image(&self, disk: &str) -> PathBuf {
        let kept = self.lab.fresh_directory().join("kept");
        run("cp", &[&"--sparse=always", &self.domain.image(disk), &kept]).succeeds();
        kept
    }

    /// Puts a kept copy in the place of the stopped domain's image.
    fn put_back(&self, disk: &str, kept: &Path) {
        // Into the same file: owner and mode stay as they are.
        run("cp", &[&"--sparse=always", &kept, &self.domain.image(disk)]).succeeds();
    }

    /// Makes an image as QEMU's user.
    fn qemu_img(&self, arguments: &[&dyn AsRef<std::ffi::OsStr>]) {
        run("qemu-img", arguments).succeeds();
    }

    /// Lets QEMU, whoever it runs as, read and write a file that the test made.
    fn hand_over(&self, image: &Path) {
        run("chmod", &[&"666", &image]).succeeds();
    }
}

/// A lab with a domain whose chain has a full and an increment.
fn chain<'lab>(lab: &'lab Lab, disks: &[&str], targets: &[&str]) -> Case<'lab> {
    let case = Case::new(lab, "d", disks);
    for target in targets {
        case.domain.write(target, 0xa0, 0, 4 << 20);
    }
    case.backs_up(&[], targets);
    for target in targets {
        case.domain.write(target, 0xa1, 1 << 20, 65536);
    }
    case.backs_up(&[], targets);
    case
}
