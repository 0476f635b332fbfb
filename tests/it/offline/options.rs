//! Options, and what is said.

use super::{backs_up, bitmaps, leaves_nothing, references, state, write};
use crate::support::{Case, Lab, MIB, virtkeep};

#[test]
fn estimates_are_those_of_the_bitmaps() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M", "vdb:4M"]);
    case.domain.write("vda", 0x11, 0, MIB);
    case.domain.stop();
    let before = case.backup(&["-p"]).succeeds();
    assert!(before.stdout.contains("vda: ") && before.stdout.contains("full, allocated"), "{}", before.stdout);
    backs_up(&case, &[], &["vda", "vdb"]);
    write(&case, "vda", "write -P 0x21 2M 128k");
    let images = bitmaps(&case, "vda");
    let estimate = case.backup(&["-p"]).succeeds();
    assert!(estimate.stdout.contains("vda: 131072 bytes"), "{}", estimate.stdout);
    assert!(estimate.stdout.contains("Estimated backup size: 131072 bytes"), "{}", estimate.stdout);
    case.backup(&["-T", "1M"]).succeeds().says(&["[131072] does not meet required threshold"]);
    assert_eq!(bitmaps(&case, "vda"), images);
    leaves_nothing(&case);
    backs_up(&case, &["-T", "64K"], &["vda", "vdb"]).says(&["vda: inc since virtnbdbackup.0"]);
}

#[test]
fn options_for_a_running_guest_are_answered() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0x11, 0, MIB);
    case.domain.stop();
    let said = "the domain is off: there is nothing to pause or to freeze";
    backs_up(&case, &["--require-freeze", "--pause", "--strict"], &["vda"]).says(&[said]);
    // A scratch directory is of no use.
    backs_up(&case, &["--scratchdir", "/nowhere", "--scratch-required"], &["vda"]);
    let dump = virtkeep(&[&"dump", &"-i", &case.set, &"--json"]).succeeds();
    assert!(dump.stdout.contains("virtnbdbackup.1"), "{}", dump.stdout);
    let manifest = crate::support::listing(&case.set).into_iter().find(|name| name.starts_with("manifest.")).unwrap();
    let manifest = std::fs::read_to_string(case.set.join(manifest)).unwrap();
    assert!(manifest.contains("not needed: the domain is off"), "{manifest}");
}

#[test]
fn a_guest_whose_memory_is_saved_is_as_after_a_power_cut() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0x11, 0, MIB);
    case.backs_up(&[], &["vda"]);
    case.domain.write("vda", 0x21, MIB, 65536);
    lab.virsh(&[&"managedsave", &"d", &"--paused"]);
    assert_eq!(state(&lab), "shut off");
    case.backup(&["--require-freeze"]).ends_with(1).says(&["memory is saved", "--require-freeze"]);
    leaves_nothing(&case);
    backs_up(&case, &["-l", "inc"], &["vda"]).says(&["vda: inc since virtnbdbackup.0"]);
    // It goes on where it stood, and its writes are in the bitmap that was made meanwhile.
    lab.virsh(&[&"start", &"d"]);
    assert_eq!(state(&lab), "paused");
    case.domain.write("vda", 0x31, 2 * MIB, 65536);
    case.backs_up(&["-l", "inc", "--strict"], &["vda"]).says(&["vda: inc since virtnbdbackup.1"]);
}

#[test]
fn a_copy_is_made_beside_the_checkpoints_of_another_tool() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0x11, 0, MIB);
    lab.virsh(&[&"checkpoint-create-as", &"d", &"theirs"]);
    let reference = case.domain.snapshot_references(&["vda"]);
    case.backup(&[]).ends_with(1).says(&["Foreign checkpoint found", "theirs", "-l copy"]);
    case.backup(&["-l", "copy"]).succeeds();
    case.restores(&[], &["vda"], &reference);
    std::fs::remove_dir_all(&case.set).unwrap();
    case.domain.stop();
    case.backup(&[]).ends_with(1).says(&["Foreign checkpoint found", "theirs", "-l copy"]);
    assert_eq!(bitmaps(&case, "vda"), ["theirs"]);
    backs_up(&case, &["-l", "copy"], &["vda"]);
    assert_eq!(case.checkpoints(), ["theirs"]);
    assert_eq!(bitmaps(&case, "vda"), ["theirs"]);
}

#[test]
fn images_of_version_2_are_copied_only() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M:compat=0.10", "vdb:4M"]);
    case.domain.write("vda", 0x11, 0, MIB);
    case.domain.stop();
    case.backup(&["-i", "vda"]).ends_with(1).says(&["Excluding disk [vda]", "version 2", "qemu-img amend"]);
    assert_eq!(bitmaps(&case, "vdb"), [""; 0]);
    case.backup(&[]).ends_with(3).says(&["Excluding disk [vda]", "vdb: full"]);
    std::fs::remove_dir_all(&case.set).unwrap();
    backs_up(&case, &["-l", "copy"], &["vda", "vdb"]);
    let _ = references(&case, &["vda"]);
}

#[test]
fn volumes_are_found_in_their_pool() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M:volume"]);
    case.domain.write("vda", 0x11, 0, MIB);
    case.domain.stop();
    backs_up(&case, &[], &["vda"]);
    write(&case, "vda", "write -P 0x21 2M 64k");
    backs_up(&case, &["-l", "inc"], &["vda"]).says(&["vda: inc since virtnbdbackup.0"]);
}
