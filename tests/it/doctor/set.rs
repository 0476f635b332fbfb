//! Files of the set that are not as they should be.

use std::os::unix::net::UnixListener;

use serde_json::Value;

use crate::support::{Case, Lab, MIB, listing};

#[test]
fn a_set_that_is_not_in_order() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    case.backup(&[]).succeeds();
    let reference = case.domain.snapshot_reference("vda");
    case.backup(&["-l", "inc"]).succeeds();

    // As killed right after the commit of the second run.
    let manifest = |checkpoint: &str| {
        let names = listing(&case.set);
        let mut manifests = names.iter().filter(|name| name.starts_with("manifest."));
        let is_it = |name: &&String| {
            let text = std::fs::read_to_string(case.set.join(name)).unwrap();
            let sealed: Value = serde_json::from_str(&text).unwrap();
            sealed["manifest"]["checkpoint"] == checkpoint
        };
        manifests.find(is_it).unwrap().clone()
    };
    let second = manifest("virtnbdbackup.1");
    let id = second.trim_start_matches("manifest.").trim_end_matches(".json");
    let uuid = lab.virsh(&[&"domuuid", &"d"]);
    let intent = serde_json::json!({
        "run": id, "domain_uuid": uuid.trim(), "uri": lab.uri(), "level": "inc", "checkpoint": "virtnbdbackup.1",
        "socket": lab.scratch().join("x.sock"), "scratch": [], "files": ["vda.inc.virtnbdbackup.1.data"],
    });
    std::fs::write(case.set.join(format!(".virtkeep/intent.{id}.json")), intent.to_string()).unwrap();
    let data = case.set.join("vda.inc.virtnbdbackup.1.data");
    std::fs::rename(&data, data.with_extension("data.partial")).unwrap();
    case.looks(3).has(id, &["look", "committed, but not tidied up", "completes it"]);
    case.mends(&["was committed"]);
    assert!(data.exists());
    case.restores(&[], &["vda"], std::slice::from_ref(&reference));
    // A socket that outlived its QEMU.
    drop(UnixListener::bind(lab.scratch().join(format!("virtkeep.{id}.sock"))).unwrap());
    case.looks(3).has(&format!("{id}.sock"), &["look", "this set", "removes it"]);
    case.mends(&["removed ", ".sock"]);

    // Damage is for verify to tell and for people to mend.
    let bad = case.set.join(".virtkeep/intent.bad.json");
    std::fs::write(&bad, b"{").unwrap();
    case.looks(3).has("records of unfinished runs", &["look", "intent.bad.json", "domjobinfo"]);
    case.mends_nothing_of_a_bad_set();
    std::fs::remove_file(bad).unwrap();
    let truncated = std::fs::read(&data).unwrap();
    std::fs::write(&data, &truncated[..truncated.len() / 2]).unwrap();
    case.looks(3).has("restore point", &["look", "DAMAGED FILES", "virtkeep verify -i"]);
    case.mends_nothing();
    std::fs::write(&data, truncated).unwrap();
    std::fs::write(case.set.join(&second), b"{").unwrap();
    let report = case.looks(3);
    report.has(&second, &["look", "damaged", "virtkeep verify -i"]);
    case.mends_nothing();
}
