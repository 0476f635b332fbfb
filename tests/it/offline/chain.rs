//! One chain, whether the domain runs or not.

use std::path::PathBuf;

use super::{backs_up, bitmaps, references, write};
use crate::support::{Case, Lab, MIB, TestDomain, listing, run};

const DISKS: &[&str] = &["vda", "vdb"];

fn new_case(lab: &Lab) -> Case<'_> {
    Case::new(lab, "d", &["vda:8M", "vdb:5243392"])
}

/// The checkpoint that libvirt calls the parent of another.
fn parent(case: &Case<'_>, checkpoint: &str) -> String {
    case.lab.virsh(&[&"checkpoint-parent", &"d", &checkpoint]).trim().to_owned()
}

#[test]
fn a_chain_goes_on_whether_the_domain_runs_or_not() {
    let lab = Lab::up();
    let case = new_case(&lab);
    let mut points: Vec<Vec<PathBuf>> = Vec::new();
    case.domain.write("vda", 0x11, 0, 2 * MIB);
    case.domain.write("vdb", 0x12, 5 * MIB - 512, 1024);
    case.domain.stop();
    points.push(references(&case, DISKS));
    backs_up(&case, &["--strict"], DISKS).says(&["vda: full", "vdb: full"]);
    assert_eq!(bitmaps(&case, "vda"), ["marker", "virtnbdbackup.0"]);

    // The guest writes what only the bitmap that was made while it was off can know.
    case.domain.start();
    case.domain.write("vda", 0x21, MIB, 65536);
    case.domain.write_zeroes("vda", 0, 65536, true);
    case.domain.write("vdb", 0x22, 0, 512);
    points.push(case.domain.snapshot_references(DISKS));
    case.backs_up(&["--strict", "-l", "inc"], DISKS).says(&["vda: inc since virtnbdbackup.0", "vdb: inc since"]);
    case.domain.write("vda", 0x31, 3 * MIB, 65536);
    case.domain.stop();

    // What the guest wrote, and a tool on the host.
    write(&case, "vda", "write -P 0x32 4M 128k");
    write(&case, "vdb", "write -z 0 1M");
    points.push(references(&case, DISKS));
    let run = backs_up(&case, &["--strict", "-l", "inc", "-z"], DISKS);
    run.says(&["vda: inc since virtnbdbackup.1", "192.0 KiB of 8.0 MiB read", "vdb: inc since virtnbdbackup.1"]);
    write(&case, "vda", "discard 1M 64k");
    points.push(references(&case, DISKS));
    backs_up(&case, &["--strict", "-l", "inc"], DISKS).says(&["vda: inc since virtnbdbackup.2"]);

    case.domain.start();
    case.domain.write("vdb", 0x51, 2 * MIB, 4096);
    case.domain.write("vda", 0x52, 7 * MIB, MIB);
    points.push(case.domain.snapshot_references(DISKS));
    case.backs_up(&["--strict", "-l", "inc"], DISKS).says(&["vda: inc since virtnbdbackup.3", "1.0 MiB of 8.0 MiB"]);

    let names: Vec<String> = (0..5).map(|position| format!("virtnbdbackup.{position}")).collect();
    assert_eq!(case.checkpoints(), names);
    for (position, references) in points.iter().enumerate() {
        case.restores(&["--until", &names[position]], DISKS, references);
        if position > 0 {
            assert_eq!(parent(&case, &names[position]), names[position - 1]);
        }
    }
    let cpt: Vec<String> = serde_json::from_slice(&std::fs::read(case.set.join("d.cpt")).unwrap()).unwrap();
    assert_eq!(cpt, names);
    let saved = |name: &str| std::fs::read_to_string(case.set.join(format!("checkpoints/{name}.xml"))).unwrap();
    assert!(!saved("virtnbdbackup.0").contains("<parent>"));
    let xml = saved("virtnbdbackup.2");
    for part in
        ["<name>virtnbdbackup.1</name>", "<creationTime>", "'vda' checkpoint='bitmap'", "'vdb' checkpoint='bitmap'"]
    {
        assert!(xml.contains(part), "{part}: {xml}");
    }
}

#[test]
fn differentials_and_copies_leave_the_chain_as_it_is() {
    let lab = Lab::up();
    let case = new_case(&lab);
    case.domain.write("vda", 0x11, 0, MIB);
    case.domain.stop();
    backs_up(&case, &[], DISKS);
    write(&case, "vda", "write -P 0x21 2M 64k");
    let images = || DISKS.map_images(&case);
    let before = images();
    backs_up(&case, &["-l", "diff"], DISKS).says(&["vda: diff since virtnbdbackup.0"]);
    let copy = Case { lab: &lab, domain: TestDomain::known(&lab, "d"), set: lab.fresh_directory().join("copy") };
    backs_up(&copy, &["-l", "copy"], DISKS);
    assert_eq!(images(), before, "an image was changed");
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0"]);
    write(&case, "vda", "write -P 0x22 3M 64k");
    backs_up(&case, &["-l", "inc"], DISKS).says(&["vda: inc since virtnbdbackup.0", "128.0 KiB of 8.0 MiB read"]);
}

trait Images {
    fn map_images(&self, case: &Case<'_>) -> Vec<String>;
}

impl Images for &[&str] {
    /// The sums of the images' files.
    fn map_images(&self, case: &Case<'_>) -> Vec<String> {
        self.iter().map(|disk| run("sha256sum", &[&case.domain.image(disk)]).succeeds().stdout).collect()
    }
}

/// A domain that is off, with a chain of a full and an increment that were made while it ran.
fn stopped_after_two_runs(lab: &Lab) -> Case<'_> {
    let case = new_case(lab);
    case.domain.write("vda", 0x11, 0, MIB);
    case.backs_up(&[], DISKS);
    case.backs_up(&[], DISKS);
    case.domain.stop();
    case
}

#[test]
fn a_new_chain_ends_the_old_one() {
    let lab = Lab::up();
    let case = stopped_after_two_runs(&lab);
    write(&case, "vda", "write -P 0x21 2M 64k");
    let new = Case { lab: &lab, domain: TestDomain::known(&lab, "d"), set: lab.fresh_directory().join("new") };
    backs_up(&new, &["-l", "full"], DISKS).says(&["ends the chain of checkpoint virtnbdbackup.1"]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0"]);
    assert_eq!(bitmaps(&case, "vda"), ["marker", "virtnbdbackup.0"]);
    assert!(listing(&case.set.join(".virtkeep")).contains(&"ended".to_owned()));
    case.backup(&["-l", "inc"]).ends_with(1).says(&["another chain took over"]);
    new.domain.start();
    new.domain.write("vda", 0x31, 3 * MIB, 65536);
    new.backs_up(&["-l", "inc"], DISKS).says(&["vda: inc since virtnbdbackup.0"]);
}

#[test]
fn lost_and_superfluous_checkpoints_while_the_domain_is_off() {
    let lab = Lab::up();
    let case = stopped_after_two_runs(&lab);
    // The host forgets; a failed run of it left a bitmap that nobody knows.
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.1", &"--metadata"]);
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.0", &"--metadata"]);
    run("qemu-img", &[&"bitmap", &"--add", &case.domain.image("vdb"), &"virtnbdbackup.2"]).succeeds();
    write(&case, "vda", "write -P 0x21 2M 64k");
    let told = backs_up(&case, &["--keep-checkpoints", "2"], DISKS);
    told.says(&[
        "Redefine missing checkpoint virtnbdbackup.1",
        "removed bitmap virtnbdbackup.2 on vdb,",
        "vda: inc since virtnbdbackup.1",
        "removed checkpoint virtnbdbackup.0",
    ]);
    assert_eq!(case.checkpoints(), ["virtnbdbackup.1", "virtnbdbackup.2"]);
    assert_eq!(bitmaps(&case, "vdb"), ["marker", "virtnbdbackup.1", "virtnbdbackup.2"]);
    case.domain.start();
    case.domain.write("vdb", 0x31, MIB, 65536);
    case.backs_up(&["--strict"], DISKS).says(&["vdb: inc since virtnbdbackup.2"]);
}

#[test]
fn a_disk_that_came_while_the_domain_was_off_is_full() {
    let lab = Lab::up();
    let case = new_case(&lab);
    case.domain.write("vda", 0x11, 0, MIB);
    case.backs_up(&[], DISKS);
    case.domain.stop();
    let image = case.domain.image("vda").with_file_name("d-vdc.qcow2");
    run("qemu-img", &[&"create", &"-q", &"-f", &"qcow2", &image, &"4M"]).succeeds();
    run("chmod", &[&"666", &image]).succeeds();
    run("qemu-io", &[&"-c", &"write -P 0x33 1M 64k", &image]).succeeds();
    lab.virsh(&[&"attach-disk", &"d", &image, &"vdc", &"--config", &"--driver", &"qemu", &"--subdriver", &"qcow2"]);
    let all = &["vda", "vdb", "vdc"];
    backs_up(&case, &["-l", "inc"], all).says(&["vdc: full instead of an increment", "vda: inc since virtnbdbackup.0"]);
    case.domain.start();
    case.domain.write("vdc", 0x44, 2 * MIB, 65536);
    case.backs_up(&["--strict", "-l", "inc"], all).says(&["vdc: inc since virtnbdbackup.1", "vda: inc since"]);
}

#[test]
fn virtnbdbackup_goes_on_where_a_domain_was_backed_up_while_it_was_off() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0x11, 0, MIB);
    case.domain.stop();
    backs_up(&case, &["-l", "full"], &["vda"]);
    write(&case, "vda", "write -P 0x21 2M 64k");
    backs_up(&case, &["-l", "inc"], &["vda"]);
    case.domain.start();
    case.domain.write("vda", 0x31, 3 * MIB, 65536);
    let reference = case.domain.snapshot_reference("vda");
    let (uri, scratch) = (lab.uri(), lab.scratch());
    let socket = lab.directory().join("run/foreign.sock");
    run(
        "virtnbdbackup",
        &[&"-U", &uri, &"-n", &"-d", &"d", &"-l", &"inc", &"--scratchdir", &scratch, &"-f", &socket, &"-o", &case.set],
    )
    .succeeds();
    assert_eq!(case.checkpoints(), ["virtnbdbackup.0", "virtnbdbackup.1", "virtnbdbackup.2"]);
    case.restores(&[], &["vda"], &[reference]);
    // And its own restore reads all of it.
    let (out, work) = (lab.fresh_directory(), lab.fresh_directory());
    run(
        "virtnbdrestore",
        &[&"-U", &uri, &"-n", &"-f", &work.join("s"), &"-L", &work.join("log"), &"-i", &case.set, &"-o", &out],
    )
    .succeeds();
    case.domain.stop();
    run("qemu-img", &[&"compare", &case.domain.image("vda"), &out.join("d-vda.qcow2")]).succeeds();
    // Ours goes on after it.
    write(&case, "vda", "write -P 0x41 4M 64k");
    backs_up(&case, &["-l", "inc"], &["vda"]).says(&["vda: inc since virtnbdbackup.2"]);
}
