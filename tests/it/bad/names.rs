//! Names that programs trip over.

use std::path::Path;

use crate::support::{Case, Lab, MIB, compare, listing, template, virtkeep};

#[test]
fn spaces_and_other_letters() {
    let lab = Lab::up();
    let case = Case {
        domain: lab.domain("größe & <x> \"q\"", &["vda:4M:dir=dïr with space,name=größe ü", "vdb:1M:name=%41 ü?#"]),
        set: lab.fresh_directory().join("sät with space & ?#%41'\""),
        lab: &lab,
    };
    case.domain.write("vda", 0xaa, 0, MIB);
    case.domain.write("vdb", 0xbb, 4096, 8192);
    case.backs_up(&[], &["vda", "vdb"]);
    case.domain.write("vda", 0xab, 0, 4096);
    case.backs_up(&[], &["vda", "vdb"]).says(&["vda: inc"]);
    let scratch = lab.scratch().join("scrätch ?#%41");
    std::fs::create_dir(&scratch).unwrap();
    crate::support::run("chmod", &[&"777", &scratch]).succeeds();
    case.domain.write("vda", 0xac, 0, 4096);
    case.backup(&["--scratchdir", scratch.to_str().unwrap()]).succeeds();
    assert_eq!(listing(&scratch), [""; 0]);
    std::fs::remove_dir(&scratch).unwrap();
    case.backs_up(&[], &["vda", "vdb"]);
    // By UUID it is the same domain.
    let uuid = lab.virsh(&[&"domuuid", &case.domain.name()]);
    virtkeep(&[
        &"backup",
        &"-d",
        &uuid.trim(),
        &"-o",
        &template(&case.set),
        &"-U",
        &lab.uri(),
        &"--scratchdir",
        &lab.scratch(),
    ])
    .succeeds()
    .says(&["vda: inc"]);
    case.no_traces();
}

#[test]
fn images_of_the_same_name() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["sda:2M:dir=one,name=disk.qcow2", "sdaa:3M:dir=two,name=disk.qcow2", "sdb:1M"]);
    case.domain.write("sda", 0xaa, 0, MIB);
    case.domain.write("sdaa", 0xba, MIB, MIB);
    let references = case.domain.snapshot_references(&["sda", "sdaa", "sdb"]);
    case.backup(&["-i", "sda", "-i", "sdaa,sdb"]).succeeds();
    let out = lab.fresh_directory();
    virtkeep(&[&"restore", &"-n", &"-i", &case.set, &"-o", &out]).succeeds();
    assert_eq!(listing(&out), ["d-sdb.qcow2", "sda-disk.qcow2", "sdaa-disk.qcow2", "vmconfig.xml"]);
    compare(&out.join("sda-disk.qcow2"), "qcow2", &references[0]);
    compare(&out.join("sdaa-disk.qcow2"), "qcow2", &references[1]);
    compare(&out.join("d-sdb.qcow2"), "qcow2", &references[2]);

    // One of them alone keeps its name; `sda` does not mean `sdaa`.
    let one = lab.fresh_directory();
    virtkeep(&[&"restore", &"-n", &"-i", &case.set, &"-o", &one, &"-d", &"sda"]).succeeds();
    let images: Vec<String> =
        listing(&one).into_iter().filter(|name| Path::new(name).extension().unwrap() == "qcow2").collect();
    assert_eq!(images, ["disk.qcow2"]);
    compare(&one.join("disk.qcow2"), "qcow2", &references[0]);
    case.backup(&["-x", "sda"]).succeeds().says(&["sdaa: inc", "sdb: inc", "Excluding disk [sda]"]);
}
