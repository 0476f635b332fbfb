//! The lab itself: the other tests believe what it says.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::{Lab, Operation, Random, compare, content, run};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

#[test]
fn reference_holds_what_was_written() {
    let lab = Lab::up();
    let size = 5 * MIB + 512;
    let domain = lab.domain("d", &["vda:5243392", "sda:1M:raw", "sdb:3M:volume,cluster_size=4096"]);
    domain.write("vda", 0xaa, 512, MIB);
    domain.write("vda", 0xbb, size - 512, 512);
    domain.write_zeroes("vda", 64 * KIB, 100 * KIB, false);
    domain.write_zeroes("vda", 512 * KIB, 64 * KIB, true);
    // Whole clusters: qcow2 reads them as zeroes afterwards.
    domain.discard("vda", 640 * KIB, 128 * KIB);
    let mut model = vec![0; size as usize];
    model[512..512 + MIB as usize].fill(0xaa);
    model[size as usize - 512..].fill(0xbb);
    model[64 * 1024..164 * 1024].fill(0);
    model[512 * 1024..576 * 1024].fill(0);
    model[640 * 1024..768 * 1024].fill(0);
    assert!(std::fs::read(domain.snapshot_reference("vda")).unwrap() == model);
    for disk in ["sda", "sdb"] {
        domain.write(disk, 0x11, 1536, 512);
        let content = std::fs::read(domain.snapshot_reference(disk)).unwrap();
        assert_eq!(content.iter().position(|&byte| byte != 0), Some(1536), "{disk}");
        assert_eq!(content.iter().filter(|&&byte| byte == 0x11).count(), 512, "{disk}");
    }
}

#[test]
fn reference_equals_the_image_after_the_end() {
    let lab = Lab::up();
    let domain = lab.domain("d", &["vda:17826304"]);
    let mut random = Random::new(1);
    let operations: Vec<Operation> = (0..60)
        .map(|_| {
            let offset = random.below(32_000) * 512;
            let length = (1 + random.below(2_000)) * 512;
            match random.below(3) {
                0 => Operation::Discard { offset, length },
                1 => Operation::Zero { offset, length, unmap: true },
                _ => Operation::Write { pattern: 1 + random.below(255) as u8, offset, length },
            }
        })
        .collect();
    domain.apply("vda", &operations);
    let reference = domain.snapshot_reference("vda");
    domain.stop();
    compare(&domain.image("vda"), "qcow2", &reference);
    assert!(content(&domain.image("vda"), "qcow2").iter().any(|&byte| byte != 0));
}

#[test]
fn failed_guest_write_fails_the_test() {
    let lab = Lab::up();
    let domain = lab.domain("d", &["vda:1M"]);
    let beyond = Operation::Write { pattern: 1, offset: MIB, length: 512 };
    domain.try_apply("vda", &[beyond]).ends_with(1).says(&["write failed"]);
    let fine = Operation::Write { pattern: 1, offset: 0, length: 512 };
    domain.try_apply("vdb", &[fine]).ends_with(1).says(&["no disk 'vdb'"]);
    domain.try_apply("vda", &[fine]).succeeds();
}

#[test]
fn down_leaves_no_process_and_no_file() {
    let lab = Lab::up();
    lab.domain("d", &["vda:1M"]);
    let directory = lab.directory().to_owned();
    assert_eq!(lab.virsh(&[&"list", &"--name"]).trim(), "d");
    assert!(!processes_naming(&directory).is_empty());
    drop(lab);
    assert!(!directory.exists());
    wait_until("all processes of the lab are gone", || processes_naming(&directory).is_empty());
}

#[test]
fn lab_goes_down_with_its_owner() {
    let directory = std::env::temp_dir().join(format!("vk{}.owned", std::process::id()));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab.sh");
    let mut owner: Child = Command::new("sleep").arg("600").spawn().unwrap();
    let up = run(script, &[&"up", &directory, &"--owner", &owner.id().to_string()]);
    owner.kill().unwrap();
    owner.wait().unwrap();
    up.succeeds();
    wait_until("the lab is gone", || !directory.exists() && processes_naming(&directory).is_empty());
}

#[test]
fn daemon_and_qemu_are_killed_and_come_back() {
    let lab = Lab::up();
    let domain = lab.domain("d", &["vda:1M"]);
    let qemu = || lab.command("qemu-pid", &[&"d"]).succeeds().stdout;
    let before = qemu();
    lab.command("daemon-kill", &[]).succeeds();
    lab.command("virsh", &[&"list"]).ends_with(1);
    lab.command("daemon-start", &[]).succeeds();
    assert_eq!(lab.virsh(&[&"list", &"--name"]).trim(), "d");
    assert_eq!(qemu(), before);
    lab.command("qemu-kill", &[&"d"]).succeeds();
    wait_until("the domain is off", || lab.virsh(&[&"domstate", &"d"]).trim() == "shut off");
    domain.start();
    assert_ne!(qemu(), before);
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "not after 20 seconds: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ids of the living processes with `path` on their command line.
fn processes_naming(path: &Path) -> Vec<String> {
    let path = path.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries
        .filter(|entry| {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(path)
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
