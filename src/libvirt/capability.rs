//! Whether a domain that runs can be backed up at all: libvirt 6.0 to 7.5 has incremental backups, but a domain
//! must ask for them by name; before QEMU 4.2 there are none.

use std::path::Path;

use super::connection::Connection;
use super::domain::Domain;
use super::xml::{self, Element};
use crate::error::{Error, Result};

/// What such a domain asks for.
const CAPABILITY: &str = "incremental-backup";

/// How, in words.
const REMEDY: &str = "use libvirt 7.6 and QEMU 6.1 or newer. With libvirt 6.0 to 7.5 the domain must ask for it: \
     `virsh edit` it, add xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' to <domain> and, as its last \
     element, <qemu:capabilities><qemu:add capability='incremental-backup'/></qemu:capabilities>, then stop and \
     start it. A domain that is off needs neither";

impl Connection {
    /// Refuses a domain that runs and that libvirt or QEMU can't back up.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) with the remedy; by libvirt's code.
    pub fn require_backup(&self, domain: &Domain) -> Result<()> {
        let text = domain.xml(false)?;
        let running = Running::parse(&text)?;
        if running.asks {
            return Ok(());
        }
        let capabilities = self.domain_capabilities(
            running.emulator.as_deref(),
            running.arch.as_deref(),
            running.machine.as_deref(),
            running.kind.as_deref(),
        );
        let offered = match capabilities {
            Ok(text) => is_offered(&text)?,
            // An emulator that was removed since the domain was started, say. The job finds out.
            Err(error) => {
                tracing::debug!("{}", crate::error::report(&error));
                None
            }
        };
        match offered {
            Some(false) => Err(Error::unsupported(format!(
                "libvirt {} with this QEMU has no incremental backup for domain {}",
                version(self.daemon_version()?),
                domain.name()
            ))
            .hint(REMEDY)),
            _ => Ok(()),
        }
    }
}

/// What of a domain's XML this host can't do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lacks {
    /// KVM, which the XML asks for.
    pub kvm: bool,
    /// The emulator at the path that the XML names.
    pub emulator: bool,
}

impl Connection {
    /// What this host lacks of what a domain's XML asks for; of a daemon on this machine.
    ///
    /// # Errors
    /// [`Kind::Protocol`](crate::error::Kind::Protocol) if it is no domain XML.
    pub fn lacks(&self, domain: &str) -> Result<Lacks> {
        let wanted = Running::parse(domain)?;
        let emulator = wanted.emulator.as_deref().is_some_and(|path| !Path::new(path).exists());
        let kvm = wanted.kind.as_deref() == Some("kvm")
            && self.domain_capabilities(None, wanted.arch.as_deref(), None, Some("kvm")).is_err();
        Ok(Lacks { kvm, emulator })
    }

    /// The user that the daemon starts QEMU as; none where it does not say, which session daemons don't: theirs.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io) when the connection is lost.
    pub fn qemu_user(&self) -> Result<Option<u32>> {
        qemu_user(&self.capabilities()?)
    }
}

/// The user in the label of the security model `dac`.
fn qemu_user(text: &str) -> Result<Option<u32>> {
    let document = xml::parse(text, "capabilities")?;
    let models = document.root.child("host").into_iter().flat_map(Element::children);
    let mut dac = models
        .filter(|child| child.name() == "secmodel" && child.child_text("model").as_deref() == Some("dac"))
        .flat_map(|model| model.children().filter(|child| child.name() == "baselabel").map(Element::text));
    // As in +64055:+64055.
    Ok(dac.find_map(|label| label.split(':').next()?.trim_start_matches('+').parse().ok()))
}

/// What the XML of a domain that runs says of its hypervisor.
#[derive(Debug, PartialEq, Eq)]
struct Running {
    kind: Option<String>,
    arch: Option<String>,
    machine: Option<String>,
    emulator: Option<String>,
    /// It asks for incremental backups by name.
    asks: bool,
}

impl Running {
    fn parse(text: &str) -> Result<Self> {
        let document = xml::parse(text, "domain")?;
        let root = &document.root;
        let os = root.child("os").and_then(|os| os.child("type"));
        let attribute = |name: &str| os.and_then(|os| os.attribute(name));
        let capabilities = root.child("qemu:capabilities").into_iter().flat_map(Element::children);
        let has = |element: &Element<'_>, what: &str| {
            element.name() == what && element.attribute("capability").as_deref() == Some(CAPABILITY)
        };
        let (mut added, mut removed) = (false, false);
        for element in capabilities {
            added |= has(element, "qemu:add");
            removed |= has(element, "qemu:del");
        }
        Ok(Self {
            kind: root.attribute("type"),
            arch: attribute("arch"),
            machine: attribute("machine"),
            emulator: root.child("devices").and_then(|devices| devices.child_text("emulator")),
            asks: added && !removed,
        })
    }
}

/// What the domain capabilities say of backups; none where they say nothing.
fn is_offered(text: &str) -> Result<Option<bool>> {
    let document = xml::parse(text, "domainCapabilities")?;
    let backup = document.root.child("features").and_then(|features| features.child("backup"));
    Ok(backup.and_then(|backup| backup.attribute("supported")).map(|supported| supported == "yes"))
}

fn version(number: u64) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::domain_xml::tests::fixture;

    #[test]
    fn domains_that_ask_are_found() {
        let asking = Running::parse(&fixture("incremental-backup.xml")).unwrap();
        assert!(asking.asks);
        assert_eq!(asking.kind.as_deref(), Some("kvm"));
        assert_eq!(asking.arch.as_deref(), Some("x86_64"));
        assert_eq!(asking.machine.as_deref(), Some("pc-q35-rhel8.2.0"));
        assert_eq!(asking.emulator.as_deref(), Some("/usr/libexec/qemu-kvm"));
        let text = fixture("incremental-backup.xml");
        assert!(!Running::parse(&text.replace("qemu:add", "qemu:del")).unwrap().asks);
        assert!(!Running::parse(&text.replace("'incremental-backup'", "'blockdev'")).unwrap().asks);
        let plain = Running::parse("<domain><name>a</name></domain>").unwrap();
        assert_eq!(plain, Running { kind: None, arch: None, machine: None, emulator: None, asks: false });
    }

    #[test]
    fn what_the_host_offers_is_read() {
        let text = |inside: &str| format!("<domainCapabilities><features>{inside}</features></domainCapabilities>");
        // libvirt 9.0 and 7.0 with QEMU 4.2; before 6.0 there is no such element.
        assert_eq!(is_offered(&text("<gic supported='no'/><backup supported='yes'/>")).unwrap(), Some(true));
        assert_eq!(is_offered(&text("<backup supported='no'/>")).unwrap(), Some(false));
        assert_eq!(is_offered(&text("<gic supported='no'/>")).unwrap(), None);
        assert_eq!(is_offered("<domainCapabilities/>").unwrap(), None);
        assert!(is_offered("<domain/>").is_err() && is_offered("").is_err());
    }

    #[test]
    fn the_user_of_qemu_is_read() {
        let text = |inside: &str| format!("<capabilities><host>{inside}</host></capabilities>");
        let dac = "<secmodel><model>apparmor</model><doi>0</doi></secmodel><secmodel><model>dac</model><doi>0</doi>\
            <baselabel type='kvm'>+64055:+108</baselabel><baselabel type='qemu'>+64055:+108</baselabel></secmodel>";
        assert_eq!(qemu_user(&text(dac)).unwrap(), Some(64055));
        for none in ["", "<secmodel><model>none</model></secmodel>", "<secmodel><model>dac</model></secmodel>"] {
            assert_eq!(qemu_user(&text(none)).unwrap(), None, "{none}");
        }
        assert!(qemu_user("<x/>").is_err());
    }

    #[test]
    fn versions_are_written_as_usual() {
        assert_eq!(version(7_005_000), "7.5.0");
    }
}
