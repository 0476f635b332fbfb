//! External snapshots: overlays that come, are committed into their base, live and off, or thrown away.

use std::path::PathBuf;

use super::chain;
use crate::bad::{Case, MIB};
use crate::support::Lab;

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
    case.backs_up(&[], &["vda"]).says(&["vda: full instead of an increment, because its image was"]);
    case.domain.write("vda", 0xb2, 4 * MIB, 65536);
    case.backs_up(&["--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.2"]);
    case.domain.write("vda", 0xb3, 5 * MIB, 65536);
    case.virsh(&["blockcommit", "d", "vda", "--active", "--pivot", "--wait"]);
    case.domain.write("vda", 0xb4, 6 * MIB, 65536);
    case.backs_up(&[], &["vda"]).says(&["vda: full instead of an increment, because its image was"]);
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

#[test]
fn a_snapshot_committed_while_the_domain_was_off() {
    for run_on_overlay in [false, true] {
        let lab = Lab::up();
        let case = chain(&lab, &["vda:8M"], &["vda"]);
        let base = case.domain.image("vda");
        case.domain.write("vda", 0xb0, 2 * MIB, 65536);
        let overlay = case.snapshot("vda");
        case.domain.write("vda", 0xb1, 3 * MIB, 65536);
        case.domain.write_zeroes("vda", 0, 65536, true);
        if run_on_overlay {
            case.backs_up(&[], &["vda"]);
            case.domain.write("vda", 0xb2, 4 * MIB, 65536);
        }
        case.domain.stop();
        case.qemu_img(&[&"commit", &"-q", &overlay]);
        case.edit(&overlay, &base);
        case.domain.start();
        case.domain.write("vda", 0xb3, 5 * MIB, 65536);
        println!("{}", case.backs_up(&[], &["vda"]).stderr);
        case.domain.write("vda", 0xb4, 6 * MIB, 65536);
        println!("{}", case.backs_up(&["--strict"], &["vda"]).stderr);
    }
}

#[test]
fn a_snapshot_thrown_away() {
    for run_on_overlay in [false, true] {
        let lab = Lab::up();
        let case = chain(&lab, &["vda:8M"], &["vda"]);
        let base = case.domain.image("vda");
        case.domain.write("vda", 0xb0, 2 * MIB, 65536);
        let overlay = case.snapshot("vda");
        case.domain.write("vda", 0xb1, 3 * MIB, 65536);
        case.domain.write("vda", 0xb1, 0, 65536);
        if run_on_overlay {
            case.backs_up(&[], &["vda"]);
            case.domain.write("vda", 0xb2, 4 * MIB, 65536);
        }
        case.domain.stop();
        case.edit(&overlay, &base);
        std::fs::remove_file(&overlay).unwrap();
        case.domain.start();
        case.domain.write("vda", 0xb3, 5 * MIB, 65536);
        println!("{}", case.backs_up(&[], &["vda"]).stderr);
        case.domain.write("vda", 0xb4, 6 * MIB, 65536);
        println!("{}", case.backs_up(&["--strict"], &["vda"]).stderr);
    }
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
        println!("{}", case.backs_up(&[], &["vda"]).stderr);
        case.domain.write("vda", 0xb2, 0, 65536);
        println!("{}", case.backs_up(&[], &["vda"]).stderr);
        case.domain.stop();
        std::fs::remove_file(&overlay).unwrap();
        case.qemu_img(&[&"create", &"-q", &"-f", &"qcow2", &"-F", &"qcow2", &"-b", &base, &overlay]);
        case.hand_over(&overlay);
        case.domain.start();
        case.domain.write("vda", 0xb3, 4 * MIB, 65536);
        println!("{}", case.backs_up(&[], &["vda"]).stderr);
        case.domain.write("vda", 0xb4, 6 * MIB, 65536);
        println!("{}", case.backs_up(&["--strict"], &["vda"]).stderr);
    }
}
