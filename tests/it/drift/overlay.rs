//! External snapshots: overlays that come, are committed into their base, live and off, or thrown away.

use std::path::{Path, PathBuf};

use super::chain;
use crate::support::{Case, Lab, MIB, run};

const FULL: &str = "vda: full instead of an increment, because its image was";

impl Case<'_> {
    /// An external snapshot of the running domain; the overlay's path.
    fn snapshot(&self, disk: &str) -> PathBuf {
        let overlay = self.lab.directory().join("disks/overlay.qcow2");
        let spec = format!("{disk},file={}", overlay.display());
        self.virsh(&["snapshot-create-as", "d", "s", "--disk-only", "--no-metadata", "--diskspec", &spec]);
        overlay
    }
}

#[test]
fn a_snapshot_and_its_commit_while_the_domain_runs() {
    let lab = Lab::up();
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    case.snapshot("vda");
    case.domain.write("vda", 0xb1, 3 * MIB, 65536);
    case.backs_up(&[], &["vda"]).says(&[FULL]);
    case.domain.write("vda", 0xb2, 4 * MIB, 65536);
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.2"]);
    case.domain.write("vda", 0xb3, 5 * MIB, 65536);
    case.virsh(&["blockcommit", "d", "vda", "--active", "--pivot", "--wait"]);
    case.domain.write("vda", 0xb4, 6 * MIB, 65536);
    case.backs_up(&[], &["vda"]).says(&[FULL]);
    case.domain.write("vda", 0xb5, 0, 65536);
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.4"]);
}

#[test]
fn a_snapshot_committed_between_two_runs() {
    let lab = Lab::up();
    let case = chain(&lab, &["vda:8M"], &["vda"]);
    case.domain.write("vda", 0xb0, 2 * MIB, 65536);
    case.snapshot("vda");
    case.domain.write("vda", 0xb1, 3 * MIB, 65536);
    case.domain.write_zeroes("vda", 0, 65536, true);
    case.virsh(&["blockcommit", "d", "vda", "--active", "--pivot", "--wait"]);
    case.domain.write("vda", 0xb2, 4 * MIB, 65536);
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.1"]);
}

/// A domain goes back from its overlay to the base while it is off, whether a run was made of the overlay or not. What
/// the base's bitmap records is right then. `leave` does what becomes of the overlay.
fn goes_back_to_its_base(leave: impl Fn(&Case<'_>, &Path)) {
    for run_on_overlay in [false, true] {
        let lab = Lab::up();
        let case = chain(&lab, &["vda:8M"], &["vda"]);
        let before = case.definition();
        case.domain.write("vda", 0xb0, 2 * MIB, 65536);
        let overlay = case.snapshot("vda");
        case.domain.write("vda", 0xb1, 3 * MIB, 65536);
        case.domain.write_zeroes("vda", 0, 65536, true);
        if run_on_overlay {
            case.backs_up(&[], &["vda"]);
            case.domain.write("vda", 0xb2, 4 * MIB, 65536);
        }
        case.domain.stop();
        leave(&case, &overlay);
        lab.virsh(&[&"define", &case.file(&before)]);
        case.domain.start();
        case.domain.write("vda", 0xb3, 5 * MIB, 65536);
        let said = if run_on_overlay { FULL } else { "vda: inc since virtnbdbackup.1" };
        case.backs_up(&[], &["vda"]).says(&[said]);
        case.domain.write("vda", 0xb4, 6 * MIB, 65536);
        case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since"]);
    }
}

#[test]
fn a_snapshot_committed_while_the_domain_was_off() {
    // The bitmaps in the base record what is committed into it.
    goes_back_to_its_base(|case, overlay| {
        case.qemu_img(&[&"commit", &"-q", &overlay]);
    });
}

#[test]
fn a_snapshot_thrown_away() {
    goes_back_to_its_base(|_, overlay| std::fs::remove_file(overlay).unwrap());
}

#[test]
fn an_overlay_made_anew_under_its_path() {
    for by_libvirt in [false, true] {
        let lab = Lab::up();
        let case = chain(&lab, &["vda:8M"], &["vda"]);
        let base = case.domain.image("vda");
        case.domain.write("vda", 0xb0, 2 * MIB, 65536);
        let overlay = lab.directory().join("disks/overlay.qcow2");
        if by_libvirt {
            case.snapshot("vda");
            case.domain.stop();
        } else {
            case.domain.stop();
            case.qemu_img(&[&"create", &"-q", &"-f", &"qcow2", &"-F", &"qcow2", &"-b", &base, &overlay]);
            case.hand_over(&overlay);
            case.edit(&base, &overlay);
        }
        case.domain.start();
        case.domain.write("vda", 0xb1, 3 * MIB, 65536);
        case.backs_up(&[], &["vda"]).says(&[FULL]);
        case.domain.write("vda", 0xb2, 0, 65536);
        case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.2"]);
        case.domain.stop();
        std::fs::remove_file(&overlay).unwrap();
        case.qemu_img(&[&"create", &"-q", &"-f", &"qcow2", &"-F", &"qcow2", &"-b", &base, &overlay]);
        case.hand_over(&overlay);
        case.domain.start();
        case.domain.write("vda", 0xb3, 4 * MIB, 65536);
        case.backs_up(&[], &["vda"]).says(&["vda: full instead of an increment, because its bitmap"]);
        case.domain.write("vda", 0xb4, 6 * MIB, 65536);
        case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.4"]);
    }
}

/// The base of a linked clone is never written to.
#[test]
fn a_linked_clone_made_anew_under_its_path() {
    let lab = Lab::up();
    let template = lab.domain("template", &["vda:8M"]);
    template.write("vda", 0x77, 0, 4 * MIB);
    let base = template.image("vda");
    template.stop();
    let overlay = lab.directory().join("disks/clone.qcow2");
    let make = || {
        let _ = std::fs::remove_file(&overlay);
        run("qemu-img", &[&"create", &"-q", &"-f", &"qcow2", &"-F", &"qcow2", &"-b", &base, &overlay]).succeeds();
        run("chmod", &[&"666", &overlay]).succeeds();
    };
    make();
    let case = chain(&lab, &[&format!("vda:0:path={}", overlay.display())], &["vda"]);
    case.domain.stop();
    make();
    case.domain.start();
    case.domain.write("vda", 0xb0, 5 * MIB, 65536);
    case.backs_up(&[], &["vda"]).says(&["vda: full instead of an increment, because its bitmap"]);
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.2"]);
}
