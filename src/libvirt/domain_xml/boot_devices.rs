//! The devices of a throw-away copy; see [`boot`](super::boot).

use std::collections::BTreeMap;

use super::super::xml::{Element, path_text};
use super::adjust::remove_aliases;
use super::boot::{Boot, Connect, NbdServer};
use super::disk::{Device, Disk};
use crate::error::Result;

/// Devices that are the original's, or its host's.
const LEFT_OUT: [&str; 13] = [
    "hostdev",
    "redirdev",
    "redirfilter",
    "filesystem",
    "shmem",
    "tpm",
    "vsock",
    "smartcard",
    "parallel",
    "lease",
    "sound",
    "audio",
    "graphics",
];
/// Those of them that nobody misses, or that are replaced.
const NOT_MISSED: [&str; 4] = ["redirfilter", "graphics", "audio", "lease"];
/// What stays of a network card that is connected to something else.
const KEPT_OF_A_CARD: [&str; 5] = ["model", "address", "boot", "rom", "acpi"];

/// Changes the devices; returns the targets of the disks that are not among them any more.
pub(super) fn adjust(
    devices: &mut Element<'_>,
    plan: &Boot,
    server: &NbdServer,
    notes: &mut Vec<String>,
) -> Result<Vec<String>> {
    let has_screen = devices.child("graphics").is_some();
    leave_out(devices, notes);
    let removed = adjust_disks(devices, plan, server, notes)?;
    for device in devices.children_mut() {
        remove_aliases(device);
        match device.name() {
            "interface" => connect(device, plan)?,
            "serial" | "console" => set_terminal(device)?,
            "channel" => {
                device.remove_children("source");
                device.remove_children("log");
            }
            "rng" => set_random(device)?,
            "video" => {
                for model in device.children_mut() {
                    model.remove_children("acceleration");
                    model.remove_attribute("blob")?;
                }
            }
            _ => {}
        }
    }
    if has_screen {
        let listen = Element::new("listen").with("type", "address")?.with("address", "127.0.0.1")?;
        let screen = Element::new("graphics").with("type", "vnc")?.with("port", "-1")?.with("autoport", "yes")?;
        devices.put_child(screen.with_child(listen));
    }
    Ok(removed)
}

/// Takes the original's devices away, and says of which kinds.
fn leave_out(devices: &mut Element<'_>, notes: &mut Vec<String>) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    devices.retain_children(|device| {
        let name = device.name();
        let is_left_out = match name {
            // The channel of the agent makes its socket anew; those to a spice client lead nowhere.
            "channel" => device.attribute("type").as_deref() != Some("unix") && !is_agent(device),
            // Memory in a file of the host's.
            "memory" => device.child("source").is_some_and(|source| source.child("path").is_some()),
            // A device of the host's, handed through.
            "input" => device.child("source").is_some(),
            "interface" => matches!(device.attribute("type").as_deref(), Some("hostdev" | "vdpa" | "vhostuser")),
            _ => LEFT_OUT.contains(&name),
        };
        if is_left_out && !NOT_MISSED.contains(&name) && name != "channel" {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
        !is_left_out
    });
    if !counts.is_empty() {
        let kinds: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        notes.push(format!("devices of the original's host are left out: {}", kinds.join(", ")));
    }
}

fn is_agent(channel: &Element<'_>) -> bool {
    let name = channel.child("target").and_then(|target| target.attribute("name"));
    name.as_deref() == Some("org.qemu.guest_agent.0")
}

fn adjust_disks(
    devices: &mut Element<'_>,
    plan: &Boot,
    server: &NbdServer,
    notes: &mut Vec<String>,
) -> Result<Vec<String>> {
    let (mut removed, mut found) = (Vec::new(), Vec::new());
    devices.retain_children(|child| {
        let Some(disk) = (child.name() == "disk").then(|| Disk::parse(child).ok()).flatten() else {
            return child.name() != "disk";
        };
        let is_drive = matches!(disk.device, Device::Cdrom | Device::Floppy);
        let keep = plan.disks.contains(&disk.target) || is_drive;
        if !keep {
            removed.push(disk.target);
        }
        keep
    });
    for element in devices.children_mut().filter(|child| child.name() == "disk") {
        let disk = Disk::parse(element)?;
        for name in ["backingStore", "mirror", "auth", "encryption", "transient", "shareable"] {
            element.remove_children(name);
        }
        if plan.disks.contains(&disk.target) {
            serve(element, &disk.target, server).map_err(|error| error.disk(&disk.target))?;
        } else if element.child("source").is_some() {
            element.set_attribute("type", "file")?;
            element.remove_children("source");
            notes.push(format!("drive {} is empty", disk.target));
        }
        found.push(disk.target);
    }
    for target in plan.disks.iter().filter(|target| !found.contains(target)) {
        notes
            .push(format!("disk {target} is not in the domain's XML and not attached: the map serves it all the same"));
    }
    Ok(removed)
}

/// Makes the disk an export of the map.
fn serve(disk: &mut Element<'_>, target: &str, server: &NbdServer) -> Result<()> {
    disk.set_attribute("type", "network")?;
    // No SCSI device that the guest could talk to itself.
    if disk.attribute("device").as_deref() == Some("lun") {
        disk.set_attribute("device", "disk")?;
    }
    for name in ["rawio", "sgio", "snapshot"] {
        disk.remove_attribute(name)?;
    }
    let host = match server {
        NbdServer::Unix(path) => Element::new("host").with("transport", "unix")?.with("socket", path_text(path)?)?,
        NbdServer::Tcp(address) => {
            Element::new("host").with("name", &address.ip().to_string())?.with("port", &address.port().to_string())?
        }
    };
    let source = Element::new("source").with("protocol", "nbd")?.with("name", target)?.with_child(host);
    disk.put_child(source);
    match disk.child_mut("driver") {
        Some(driver) => {
            driver.set_attribute("type", "raw")?;
            // Of images, or of files.
            for name in ["discard_no_unref", "copy_on_read", "io"] {
                driver.remove_attribute(name)?;
            }
            driver.remove_children("metadata_cache");
        }
        None => disk.put_child(Element::new("driver").with("name", "qemu")?.with("type", "raw")?),
    }
    Ok(())
}

/// Connects a network card. The guest finds the same card at the same place.
fn connect(card: &mut Element<'_>, plan: &Boot) -> Result<()> {
    let mac = card.child("mac").cloned();
    match &plan.network {
        Connect::AsBefore => {
            // Its name on the host may be the original's.
            card.remove_children("target");
        }
        Connect::Nothing => {
            card.set_attribute("type", "user")?;
            card.retain_children(|child| KEPT_OF_A_CARD.contains(&child.name()));
            card.put_child(Element::new("link").with("state", "down")?);
        }
        Connect::Network(name) => {
            card.set_attribute("type", "network")?;
            card.retain_children(|child| KEPT_OF_A_CARD.contains(&child.name()));
            card.put_child(Element::new("source").with("network", name)?);
        }
    }
    // In the original's place it is known by its address.
    card.remove_children("mac");
    if let Some(mac) = mac.filter(|_| plan.uuid.is_none()) {
        card.put_child(mac);
    }
    Ok(())
}

fn set_terminal(port: &mut Element<'_>) -> Result<()> {
    port.set_attribute("type", "pty")?;
    port.remove_attribute("tty")?;
    for name in ["source", "log", "protocol"] {
        port.remove_children(name);
    }
    Ok(())
}

fn set_random(generator: &mut Element<'_>) -> Result<()> {
    generator.put_child(Element::new("backend").with("model", "random")?.with_text("/dev/urandom")?);
    Ok(())
}
