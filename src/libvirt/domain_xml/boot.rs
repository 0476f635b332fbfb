//! The XML of a throw-away domain that runs from a map of a backup. It must start on a host that is not the
//! domain's own, beside the original, and touch nothing of it.
//!
//! | part | change |
//! |---|---|
//! | name, UUID, generation ID | new ones; the UUID stays where the copy takes the original's name |
//! | disks | the map's exports, on the same bus, address and place in the boot order; all others removed |
//! | drives | empty |
//! | network cards | without a network, in the network asked for, or as they were |
//! | firmware's variables, kernel, initial ramdisk | copies from the set |
//! | screen, serial ports | VNC on the loopback address; pseudo terminals |
//! | what belongs to the original's host | removed: host devices, shared directories, TPM, pinning, huge pages, QEMU options |
//! | KVM, where the host has none | emulation |
//! | end | a shutdown ends the domain, a crash too |

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::super::xml::{self, Element, path_text};
use super::adjust::{Adjusted, drop_uuid};
use super::boot_devices;
use crate::error::Result;

/// How the copy differs from the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Its name.
    pub name: String,
    /// Its UUID; none where it takes the original's place, and keeps UUID and MAC addresses.
    pub uuid: Option<String>,
    /// The disks that are, by target; the name of the export is the target's.
    pub disks: BTreeSet<String>,
    /// Bytes of memory, if not as much as the original has.
    pub memory: Option<u64>,
    /// What its network cards are connected to.
    pub network: Connect,
    /// The host can't run it by KVM.
    pub emulate: bool,
    /// The host does not have the original's emulator: its own is taken.
    pub drop_emulator: bool,
    /// The firmware, where it is another file than the original's.
    pub loader: Option<PathBuf>,
    /// The copy's own variables of the firmware; made from the template if there is no such file.
    pub nvram: Option<PathBuf>,
    /// The copy's own variables of `uefi-vars`.
    pub varstore: Option<PathBuf>,
    /// The kernel, where it is another file than the original's.
    pub kernel: Option<PathBuf>,
    /// The initial ramdisk, likewise.
    pub initrd: Option<PathBuf>,
}

/// An NBD server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NbdServer {
    /// On a Unix socket.
    Unix(PathBuf),
    /// On a port, without TLS.
    Tcp(SocketAddr),
}

/// What network cards are connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connect {
    /// Nothing: the guest sees them with the cable pulled.
    Nothing,
    /// This network of libvirt's.
    Network(String),
    /// What the original's are connected to.
    AsBefore,
}

/// Parts beside the devices that are about the original's host, or were given to QEMU past libvirt.
const OF_THE_HOST: [&str; 10] = [
    "seclabel",
    "cputune",
    "numatune",
    "memtune",
    "blkiotune",
    "resource",
    "memoryBacking",
    "keywrap",
    "qemu:commandline",
    "qemu:override",
];

/// Makes the copy's XML of the original's, with the disks as `server` serves them.
///
/// # Errors
/// As [`adjust`](super::adjust()).
pub fn boot(text: &str, plan: &Boot, server: &NbdServer) -> Result<Adjusted> {
    // What is not readable as a domain is not made into one.
    super::DomainConfig::parse(text)?;
    let mut document = xml::parse(text, "domain")?;
    let root = &mut document.root;
    let (mut removed, mut notes) = (Vec::new(), Vec::new());
    adjust_identity(root, plan)?;
    remove_host(root, &mut notes)?;
    if plan.emulate && root.attribute("type").as_deref() == Some("kvm") {
        emulate(root)?;
        notes.push("there is no KVM here: the guest is emulated, which is slow".to_owned());
    }
    if let Some(bytes) = plan.memory {
        set_memory(root, bytes)?;
    }
    if let Some(os) = root.child_mut("os") {
        adjust_boot_files(os, plan)?;
    }
    if let Some(devices) = root.child_mut("devices") {
        if plan.drop_emulator {
            devices.remove_children("emulator");
        }
        removed = boot_devices::adjust(devices, plan, server, &mut notes)?;
    }
    // A guest that shuts down or crashes is gone, and the map with it.
    for event in ["on_poweroff", "on_crash"] {
        if let Some(action) = root.child_mut(event) {
            action.set_text("destroy")?;
        }
    }
    Ok(Adjusted { xml: document.to_text()?, removed, notes })
}

/// The XML of [`boot`] with as little as possible that a host can lack: the processor that suits it, and no
/// network cards that are connected to nothing. None where there is nothing to leave out.
///
/// # Errors
/// [`Kind::Protocol`](crate::error::Kind::Protocol) if it is no domain XML.
pub fn plainer(text: &str) -> Result<Option<String>> {
    let mut document = xml::parse(text, "domain")?;
    let root = &mut document.root;
    let emulated = root.attribute("type").as_deref() != Some("kvm");
    let mut changed = match root.child("cpu") {
        Some(cpu) if cpu.attribute("mode").as_deref() != Some("host-model") => {
            let topology = cpu.children().filter(|child| ["topology", "numa"].contains(&child.name())).cloned();
            let kept: Vec<_> = topology.collect();
            let plain = Element::new("cpu");
            let plain = if emulated { plain } else { plain.with("mode", "host-model")? };
            root.put_child(kept.into_iter().fold(plain, Element::with_child));
            true
        }
        _ => false,
    };
    if let Some(devices) = root.child_mut("devices") {
        devices.retain_children(|device| {
            let idle = device.name() == "interface"
                && device.child("link").and_then(|link| link.attribute("state")).as_deref() == Some("down");
            changed |= idle;
            !idle
        });
    }
    changed.then(|| document.to_text()).transpose()
}

fn adjust_identity(root: &mut Element<'_>, plan: &Boot) -> Result<()> {
    if let Some(name) = root.child_mut("name") {
        name.set_text(&plan.name)?;
    }
    if let Some(uuid) = &plan.uuid {
        drop_uuid(root);
        root.put_child(Element::new("uuid").with_text(uuid)?);
    }
    // libvirt makes a new one for an empty element: guests notice by it that they went back in time.
    if let Some(generation) = root.child_mut("genid") {
        generation.set_text("")?;
    }
    // Of a domain that ran.
    root.remove_attribute("id")
}

fn remove_host(root: &mut Element<'_>, notes: &mut Vec<String>) -> Result<()> {
    if root.child("qemu:commandline").is_some() {
        notes.push("the options for QEMU itself (qemu:commandline) are left out".to_owned());
    }
    root.retain_children(|child| !OF_THE_HOST.contains(&child.name()));
    if let Some(vcpu) = root.child_mut("vcpu") {
        vcpu.remove_attribute("cpuset")?;
    }
    Ok(())
}

/// What the emulator can't do, and refuses.
fn emulate(root: &mut Element<'_>) -> Result<()> {
    root.set_attribute("type", "qemu")?;
    // The features of an emulated processor are the emulator's choice.
    let topology = root.child("cpu").and_then(|cpu| cpu.child("topology")).cloned();
    let numa = root.child("cpu").and_then(|cpu| cpu.child("numa")).cloned();
    root.remove_children("cpu");
    let kept: Vec<_> = topology.into_iter().chain(numa).collect();
    if !kept.is_empty() {
        root.put_child(kept.into_iter().fold(Element::new("cpu"), Element::with_child));
    }
    if let Some(features) = root.child_mut("features") {
        features.retain_children(|feature| !["hyperv", "kvm", "ioapic", "pmu"].contains(&feature.name()));
    }
    if let Some(clock) = root.child_mut("clock") {
        let of_kvm = |timer: &Element<'_>| {
            timer.attribute("name").is_some_and(|name| ["kvmclock", "hypervclock", "tsc"].contains(&name.as_str()))
        };
        clock.retain_children(|timer| timer.name() != "timer" || !of_kvm(timer));
    }
    Ok(())
}

fn set_memory(root: &mut Element<'_>, bytes: u64) -> Result<()> {
    // What is spread over nodes, or can be plugged, adds up to the old size.
    root.remove_children("maxMemory");
    if let Some(cpu) = root.child_mut("cpu") {
        cpu.remove_children("numa");
    }
    if let Some(devices) = root.child_mut("devices") {
        devices.remove_children("memory");
    }
    root.remove_children("currentMemory");
    root.put_child(Element::new("memory").with("unit", "b")?.with_text(&bytes.to_string())?);
    Ok(())
}

fn adjust_boot_files(os: &mut Element<'_>, plan: &Boot) -> Result<()> {
    for (name, path) in [("loader", &plan.loader), ("kernel", &plan.kernel), ("initrd", &plan.initrd)] {
        if let (Some(path), Some(element)) = (path, os.child_mut(name)) {
            element.set_text(path_text(path)?)?;
        }
    }
    if let (Some(path), Some(element)) = (&plan.varstore, os.child_mut("varstore")) {
        element.set_attribute("path", path_text(path)?)?;
    }
    if let (Some(path), Some(nvram)) = (&plan.nvram, os.child_mut("nvram")) {
        nvram.remove_attribute("type")?;
        nvram.set_text(path_text(path)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::super::{DomainConfig, Source};
    use super::*;

    fn plan(disks: &[&str]) -> Boot {
        Boot {
            name: "copy".into(),
            uuid: Some("00000000-0000-4000-8000-000000000001".into()),
            disks: disks.iter().map(|&disk| disk.to_owned()).collect(),
            memory: None,
            network: Connect::Nothing,
            emulate: false,
            drop_emulator: false,
            loader: None,
            nvram: None,
            varstore: None,
            kernel: None,
            initrd: None,
        }
    }

    fn served() -> NbdServer {
        NbdServer::Unix("/run/x/s".into())
    }

    /// A domain with one of everything that must not come along.
    const FULL: &str = "<domain type='kvm' id='3'><name>web</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>\
        <memory unit='KiB'>4194304</memory><currentMemory unit='KiB'>4194304</currentMemory>\
        <memoryBacking><hugepages/></memoryBacking><vcpu cpuset='0-3'>2</vcpu><cputune/>\
        <os><type>hvm</type><loader>/l</loader><nvram template='/t' type='file'>/n</nvram></os>\
        <features><acpi/><hyperv/></features><cpu mode='host-passthrough'><topology sockets='1' cores='2' threads='1'/></cpu>\
        <clock><timer name='rtc'/><timer name='hypervclock'/></clock><on_poweroff>preserve</on_poweroff>\
        <devices><emulator>/e</emulator>\
        <disk type='block' device='lun' sgio='unfiltered'><driver name='qemu' type='qcow2' cache='none' discard_no_unref='on'/>\
        <source dev='/dev/x'><reservations managed='yes'/></source><backingStore/><target dev='sda' bus='scsi'/>\
        <serial>S1</serial><boot order='1'/><address type='drive' unit='4'/><alias name='scsi0-0-0-4'/></disk>\
        <disk type='file' device='disk'><source file='/b'/><target dev='vdb' bus='virtio'/></disk>\
        <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/iso'/><target dev='sdc' bus='sata'/><readonly/></disk>\
        <interface type='bridge'><mac address='52:54:00:12:34:56'/><source bridge='br0'/><target dev='vnet3'/>\
        <model type='virtio'/><driver name='vhost' queues='4'/><mtu size='9000'/><address type='pci' slot='0x03'/></interface>\
        <hostdev mode='subsystem' type='pci'/><redirdev bus='usb' type='spicevmc'/><filesystem type='mount'/>\
        <tpm model='tpm-crb'><backend type='emulator'/></tpm><vsock model='virtio'><cid address='3'/></vsock>\
        <graphics type='spice' autoport='yes'/><video><model type='virtio'><acceleration accel3d='yes'/></model></video>\
        <sound model='ich9'/><audio id='1' type='spice'/><rng model='virtio'><backend model='egd' type='udp'/></rng>\
        <serial type='file'><source path='/log'/><target port='0'/></serial>\
        <channel type='unix'><source mode='bind' path='/agent'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
        <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel></devices></domain>";

    #[test]
    fn nothing_of_the_host_comes_along() {
        let adjusted = boot(FULL, &Boot { nvram: Some("/t/nv".into()), ..plan(&["sda"]) }, &served()).unwrap();
        let xml = adjusted.xml.replace('\'', "\"");
        assert_eq!(adjusted.removed, ["vdb"]);
        for gone in [
            "4dea22b3",
            "web",
            "id=\"3\"",
            "hugepages",
            "cpuset",
            "cputune",
            "/dev/x",
            "reservations",
            "sgio",
            "/iso",
            "52:54:00:12:34:56",
            "br0",
            "vnet3",
            "vhost",
            "mtu",
            "hostdev",
            "redirdev",
            "filesystem",
            "tpm",
            "vsock",
            "spice",
            "acceleration",
            "sound",
            "audio",
            "egd",
            "/log",
            "/agent",
            "preserve",
            "discard_no_unref",
            "alias",
        ] {
            assert!(!xml.contains(gone), "{gone}: {xml}");
        }
        for there in [
            "<name>copy</name>",
            "00000000-0000-4000-8000-000000000001",
            "<host transport=\"unix\" socket=\"/run/x/s\"/>",
            "protocol=\"nbd\" name=\"sda\"",
            "<serial>S1</serial>",
            "<boot order=\"1\"/>",
            "<address type=\"drive\" unit=\"4\"/>",
            "cache=\"none\"",
            "<link state=\"down\"/>",
            "<address type=\"pci\" slot=\"0x03\"/>",
            "<interface type=\"user\">",
            "type=\"vnc\"",
            "<serial type=\"pty\">",
            "org.qemu.guest_agent.0",
            ">/t/nv</nvram>",
            "<on_poweroff>destroy",
            "host-passthrough",
        ] {
            assert!(xml.contains(there), "{there}: {xml}");
        }
        let config = DomainConfig::parse(&adjusted.xml).unwrap();
        assert_eq!(config.disk("sdc").unwrap().source, Source::Empty);
        let left_out = adjusted.notes.join("\n");
        for told in ["hostdev", "filesystem", "tpm", "redirdev", "sdc"] {
            assert!(left_out.contains(told), "{told}: {left_out}");
        }
    }

    #[test]
    fn a_copy_in_the_place_of_the_original_keeps_what_identifies_it() {
        let plan = Boot { name: "web".into(), uuid: None, network: Connect::AsBefore, ..plan(&["sda", "vdb"]) };
        let adjusted = boot(FULL, &plan, &served()).unwrap();
        for kept in ["4dea22b3", "52:54:00:12:34:56", "br0", "vhost"] {
            assert!(adjusted.xml.contains(kept), "{kept}: {}", adjusted.xml);
        }
        assert!(!adjusted.xml.contains("vnet3") && adjusted.removed.is_empty());
    }

    #[test]
    fn a_host_without_kvm_emulates() {
        let plan = Boot { emulate: true, drop_emulator: true, memory: Some(512 << 20), ..plan(&["sda"]) };
        let adjusted = boot(FULL, &plan, &served()).unwrap();
        for gone in ["kvm", "hyperv", "host-passthrough", "<emulator>", "4194304"] {
            assert!(!adjusted.xml.contains(gone), "{gone}: {}", adjusted.xml);
        }
        assert!(adjusted.xml.contains("cores='2'") && adjusted.xml.contains(">536870912</memory>"), "{}", adjusted.xml);
        assert!(adjusted.notes[0].contains("no KVM"));
    }

    #[test]
    fn networks_and_ports_are_named() {
        let plan = Boot { network: Connect::Network("a & b".into()), ..plan(&["sda"]) };
        let xml = boot(FULL, &plan, &NbdServer::Tcp("[::1]:99".parse().unwrap())).unwrap().xml.replace('\'', "\"");
        assert!(xml.contains("<source network=\"a &amp; b\"/>") && !xml.contains("<link"), "{xml}");
        assert!(xml.contains("<host name=\"::1\" port=\"99\"/>") && !xml.contains("52:54"), "{xml}");
    }

    #[test]
    fn a_plainer_domain_has_the_hosts_processor_and_no_idle_cards() {
        let adjusted = boot(FULL, &plan(&["sda"]), &served()).unwrap().xml;
        let plain = plainer(&adjusted).unwrap().unwrap().replace('\'', "\"");
        assert!(plain.contains("host-model") && plain.contains("cores=\"2\""), "{plain}");
        assert!(!plain.contains("host-passthrough") && !plain.contains("<interface"), "{plain}");
        assert_eq!(plainer(&plain).unwrap(), None);
    }

    #[test]
    fn real_domains_are_still_domains() {
        for name in ["q35-uefi.xml", "special.xml", "sources.xml", "data-store.xml", "live.xml"] {
            let original = DomainConfig::parse(&fixture(name)).unwrap();
            let targets: Vec<&str> = original.disks.iter().map(|disk| disk.target.as_str()).collect();
            for emulate in [false, true] {
                let adjusted = boot(&fixture(name), &Boot { emulate, ..plan(&targets) }, &served()).unwrap();
                let config = DomainConfig::parse(&adjusted.xml).unwrap();
                assert_eq!(config.name, "copy", "{name}");
                assert_eq!(config.disks.len(), original.disks.len(), "{name}");
                plainer(&adjusted.xml).unwrap();
            }
        }
    }
}
