//! What belongs to a guest beside its disks: media, BitLocker's keys, the kernel that boots it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{forget, hand_over, images, is_valid, restore};
use crate::support::{Lab, TestDomain, listing, virtkeep};

#[test]
fn media_are_saved_where_asked_for_and_come_back_into_their_drives() {
    let lab = Lab::up();
    let sources = lab.fresh_directory();
    let (seed, second) = (sources.join("seed.iso"), sources.join("more"));
    fs::create_dir(&second).unwrap();
    let (seed, second) = (seed, second.join("seed.iso"));
    fs::write(&seed, b"first seed").unwrap();
    fs::write(&second, vec![7; 300_000]).unwrap();
    hand_over(&sources);
    let drive = |target: &str, path: &std::path::Path| format!("{target}:0:cdrom,path={}", path.display());
    let large = lab.directory().join("disks/large.iso");
    fs::File::create(&large).unwrap().set_len((64 << 20) + 1).unwrap();
    lab.domain("web", &["vda:2M", &drive("hda", &seed), &drive("hdb", &second), &drive("hdc", &large)]);
    let plain = lab.fresh_directory().join("plain");
    lab.back_up("web", &plain, &["-l", "copy"]).succeeds();
    assert!(!listing(&plain).iter().any(|name| name.contains("medium")));
    let set = lab.fresh_directory().join("set");
    let run = lab.back_up("web", &set, &["--include-cdrom"]).succeeds();
    run.says(&["hda: saved its medium", "warning: hdc: its medium is not saved", "more than 67108864 bytes"]);
    virtkeep(&[&"verify", &"-n", &"-i", &set]).succeeds();
    forget(&lab, "web");
    fs::remove_dir_all(&sources).unwrap();

    let out = images(&lab);
    restore(&lab, &set, &out, &["-D"]).succeeds();
    assert_eq!(fs::read(out.join("seed.iso")).unwrap(), b"first seed");
    assert_eq!(fs::read(out.join("hdb-seed.iso")).unwrap(), vec![7; 300_000]);
    let xml = lab.virsh(&[&"dumpxml", &"web"]);
    is_valid(&xml).unwrap();
    for path in [out.join("seed.iso"), out.join("hdb-seed.iso"), large] {
        assert!(xml.contains(&format!("file='{}'", path.display())), "{xml}");
    }
    hand_over(&out);
    TestDomain::known(&lab, "web").start();

    // A damaged seed is no seed.
    let medium = listing(&set).into_iter().find(|name| name.starts_with("hda.") && name.ends_with(".medium")).unwrap();
    fs::write(set.join(&medium), b"First seed").unwrap();
    virtkeep(&[&"verify", &"-n", &"-i", &set]).ends_with(4).says(&[&medium]);
    restore(&lab, &set, &lab.fresh_directory(), &["-c"]).ends_with(4).says(&[&medium]);
}

fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::String(_) => "text",
        serde_json::Value::Number(_) => "number",
        serde_json::Value::Bool(_) => "boolean",
        _ => "other",
    }
}

#[test]
fn bitlocker_keys_are_asked_for_and_kept_private() {
    let lab = Lab::up();
    let guest = lab.guest("g", &["vda:8M"]);
    let set = lab.fresh_directory().join("set");
    let first = lab.fresh_directory().join("first");
    lab.back_up("g", &first, &["-l", "copy"]).succeeds();
    // The name and the keys are virtnbdbackup's, which takes libvirt's; a newer libvirt has more of them.
    let keys = |text: &str| -> Vec<String> {
        let json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap();
        json.iter().map(|(key, value)| format!("{key} {}", kind(value))).collect()
    };
    let ours = keys(&fs::read_to_string(first.join("osinfo.copy")).unwrap());
    let theirs = keys(include_str!("../../fixtures/virtnbdbackup-2.53/osinfo.json"));
    for key in ["os.id text", "os.pretty-name text", "os.machine text", "hostname text", "timezone.offset number"] {
        assert!(ours.iter().any(|own| own == key) && theirs.iter().any(|own| own == key), "{key}: {ours:?}");
    }
    let is_said = |own: &&String| own.starts_with("os.") || own.starts_with("timezone.") || own.starts_with("user.");
    assert_eq!(ours.iter().filter(is_said).collect::<BTreeSet<_>>(), theirs.iter().filter(is_said).collect());
    // Of a guest that is no Windows nothing is asked.
    lab.back_up("g", &set, &["--bitlocker-keys"]).succeeds().says(&["no BitLocker keys", "no Windows (lab)"]);
    guest.execute("sed -i 's/^ID=.*/ID=mswindows/' /etc/os-release");
    let run = lab.back_up("g", &set, &["--bitlocker-keys", "--strict"]).ends_with(3);
    run.says(&["the BitLocker recovery keys are not saved", "manage-bde"]);
    guest.execute(
        "printf '%s\\n' '#!/bin/sh' 'case \"$*\" in' '-status) echo \"Volume C: [Windows]\"; echo \"Volume D: []\";;' \
         '\"-protectors -get C:\") echo \"Password: 111111-222222\";;' '*) exit 1;;' 'esac' >/bin/manage-bde \
         && chmod 755 /bin/manage-bde",
    );
    let run = lab.back_up("g", &set, &["--bitlocker-keys", "--strict", "--mode", "0644"]).succeeds();
    run.says(&["keys of volume C:", "volume D: has no BitLocker keys"]);
    let keys = set.join("bitlocker.recovery.key.C.virtnbdbackup.2");
    assert_eq!(fs::read_to_string(&keys).unwrap(), "Password: 111111-222222\n");
    assert_eq!(keys.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(set.join("osinfo.virtnbdbackup.2").metadata().unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(listing(&set).iter().filter(|name| name.starts_with("bitlocker")).count(), 1);
    virtkeep(&[&"verify", &"-n", &"-i", &set]).succeeds();
    restore(&lab, &set, &lab.fresh_directory(), &[]).succeeds().says(&["recovery keys are in", keys.to_str().unwrap()]);
}

#[test]
fn a_guest_boots_from_its_restored_kernel() {
    let lab = Lab::up();
    let (_guest, set) = lab.guest_with_a_set("here");
    forget(&lab, "g");
    fs::rename(lab.directory().join("guest"), lab.directory().join("away")).unwrap();
    let out = images(&lab);
    restore(&lab, &set, &out, &["-D"]).succeeds();
    hand_over(&out);
    lab.virsh(&[&"start", &"g"]);
    let again = TestDomain::known(&lab, "g");
    let begin = std::time::Instant::now();
    while !lab.command("exec", &[&"g", &"true"]).status.eq(&0) {
        assert!(begin.elapsed() < std::time::Duration::from_secs(120), "the restored guest does not boot");
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    again.execute("mount /dev/vda /mnt");
    assert_eq!(again.execute("cat /mnt/file"), "here\n");
}
