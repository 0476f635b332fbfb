//! What a restore writes is a domain by libvirt's own schema.

use std::collections::BTreeMap;
use std::path::Path;

use virtkeep::libvirt::domain_xml::{
    Adjustment, Boot, Connect, DomainConfig, NbdServer, NewSource, adjust, boot, plainer,
};

use super::is_valid;
use crate::support::Lab;

/// All that a restore may do to a domain at once, and nothing but new disks.
fn adjustments(config: &DomainConfig) -> [Adjustment; 3] {
    let disks = |format: &str| -> BTreeMap<String, NewSource> {
        let new = NewSource::file("/new/image & \u{e4}", format);
        config.disks.iter().map(|disk| (disk.target.clone(), new.clone())).collect()
    };
    let restored = Adjustment { disks: disks("qcow2"), ..Adjustment::default() };
    let copy = Adjustment {
        name: Some("copy".into()),
        drop_uuid: true,
        drop_mac: true,
        disks: disks("raw"),
        loader: Some("/new/code".into()),
        nvram: Some("/new/variables".into()),
        kernel: Some("/new/kernel".into()),
        initrd: Some("/new/initrd".into()),
        varstore: Some("/new/store".into()),
        ..Adjustment::default()
    };
    let nothing = Adjustment {
        name: Some("nothing".into()),
        drop_uuid: true,
        eject: config.disks.iter().map(|disk| disk.target.clone()).collect(),
        ..Adjustment::default()
    };
    [restored, copy, nothing]
}

/// Copies that run from a map: one that is connected to nothing, one in a network and as small as can be, one in the
/// original's place.
fn boots(config: &DomainConfig) -> [Boot; 3] {
    let alone = Boot {
        name: "copy".into(),
        uuid: Some("00000000-0000-4000-8000-000000000001".into()),
        disks: config.disks.iter().map(|disk| disk.target.clone()).collect(),
        memory: None,
        network: Connect::Nothing,
        emulate: false,
        drop_emulator: false,
        loader: Some("/new/code".into()),
        nvram: Some("/new/variables".into()),
        varstore: Some("/new/store".into()),
        kernel: Some("/new/kernel".into()),
        initrd: Some("/new/initrd".into()),
    };
    let small = Boot {
        disks: [].into(),
        memory: Some(256 << 20),
        network: Connect::Network("lab".into()),
        emulate: true,
        drop_emulator: true,
        ..alone.clone()
    };
    let successor = Boot { uuid: None, network: Connect::AsBefore, name: config.name.clone(), ..alone.clone() };
    [alone, small, successor]
}

#[track_caller]
fn stays_valid(name: &str, xml: &str) {
    is_valid(xml).unwrap_or_else(|why| panic!("{name} is none to begin with: {why}"));
    let config = DomainConfig::parse(xml).unwrap();
    for (at, plan) in adjustments(&config).iter().enumerate() {
        let adjusted = adjust(xml, plan).unwrap();
        is_valid(&adjusted.xml).unwrap_or_else(|why| panic!("{name}, adjustment {at}: {why}"));
    }
    for (at, plan) in boots(&config).iter().enumerate() {
        let server = NbdServer::Unix("/run/s & \u{e4}".into());
        let copy = boot(xml, plan, &server).unwrap().xml;
        is_valid(&copy).unwrap_or_else(|why| panic!("{name}, copy {at}: {why}"));
        if let Some(plain) = plainer(&copy).unwrap() {
            is_valid(&plain).unwrap_or_else(|why| panic!("{name}, plain copy {at}: {why}"));
        }
    }
}

#[test]
fn adjusted_fixtures_are_valid() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/domain-xml");
    for name in ["windows.xml", "cloud.xml"] {
        stays_valid(name, &std::fs::read_to_string(directory.join(name)).unwrap());
    }
}

#[test]
fn adjusted_domains_of_a_real_daemon_are_valid() {
    let lab = Lab::up();
    let devices = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
                   <interface type='user'><model type='virtio'/></interface><rng model='virtio'>\
                   <backend model='random'>/dev/urandom</backend></rng><serial type='pty'/>\
                   <graphics type='vnc' autoport='yes'/><video><model type='vga'/></video>\
                   <tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>";
    let disks = ["vda:2M", "sdb:2M", "hda:1M:cdrom", "fda:1440K", "vdc:1M:raw", "vdd:1M:volume"];
    lab.domain("a", &[&["--devices", devices][..], &disks].concat());
    for options in [&["dumpxml", "a"][..], &["dumpxml", "a", "--inactive"], &["dumpxml", "a", "--migratable"]] {
        let arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = options.iter().map(|word| word as _).collect();
        stays_valid(&options.join(" "), &lab.virsh(&arguments));
    }
}
