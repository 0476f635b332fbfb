//! AppArmor and SELinux, where they confine the QEMU of a domain: where it may make the socket of a backup job.
//!
//! | file of the job | AppArmor (libvirt's abstraction `libvirt-qemu`, and virt-aa-helper's rules) | SELinux (Fedora's `virt.te`) |
//! |---|---|---|
//! | scratch file, anywhere | libvirt has virt-aa-helper add a rule for it | libvirt labels it `svirt_image_t` |
//! | socket in the domain's own directory | `/var/lib/libvirt/qemu/domain-ID-NAME/* rw` | `svirt_image_t`, `qemu_var_run_t` |
//! | socket in `/var/tmp` | no rule | `svirt_tmp_t`, by transition |
//! | socket elsewhere | no rule | not allowed |
//!
//! libvirt prepares nothing for the socket itself. So it is in the domain's own directory where there is one.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::host::{FileKind, Host};
use crate::libvirt::xml;

/// Where libvirt's system daemon keeps the domains' own directories.
const OF_DOMAINS: &str = "/var/lib/libvirt/qemu";
/// Characters of the domain's name in that of its directory (libvirt's `virDomainDefGetShortName`).
const SHORT_NAME: usize = 20;
/// Where rules for every QEMU are added: the first by administrators, the second by packages (Debian 13, not 12).
const LOCAL_RULES: &str = "/etc/apparmor.d/local/abstractions/libvirt-qemu";
const MORE_RULES: &str = "/etc/apparmor.d/abstractions/libvirt-qemu.d";
/// More than anybody's rules.
const MAX_RULES: u64 = 1 << 20;
/// Where Fedora's policy lets QEMU make sockets: see above.
const SELINUX_PLACES: [&str; 4] = ["/tmp", "/var/tmp", "/run/libvirt/qemu", OF_DOMAINS];

/// What confines a process of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// By paths.
    AppArmor,
    /// By labels.
    SeLinux,
}

/// A running domain, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confined {
    /// What confines it, if anything does.
    pub model: Option<Model>,
    /// Its own directory, if its daemon is the system's.
    own: Option<PathBuf>,
}

impl Confined {
    /// Of the domain with this XML, of the moment.
    ///
    /// # Errors
    /// XML that is none.
    pub fn of(xml: &str) -> Result<Self> {
        let document = xml::parse(xml, "domain")?;
        let root = &document.root;
        // A domain that runs has a label for each model that is at work; daemons of users have none, not even of users.
        let is_labelled = |model: &str| {
            root.children().any(|child| {
                child.name() == "seclabel"
                    && child.attribute("model").as_deref() == Some(model)
                    && child.attribute("type").as_deref() != Some("none")
                    && child.child("label").is_some()
            })
        };
        let model = match (is_labelled("apparmor"), is_labelled("selinux")) {
            (true, _) => Some(Model::AppArmor),
            (_, true) => Some(Model::SeLinux),
            _ => None,
        };
        let name = root.child_text("name").unwrap_or_default();
        let own = root.attribute("id").filter(|_| is_labelled("dac")).map(|id| {
            let short: String = name.chars().take(SHORT_NAME).collect();
            Path::new(OF_DOMAINS).join(format!("domain-{id}-{short}"))
        });
        Ok(Self { model, own })
    }

    /// The domain's own directory, where it can be seen.
    pub fn own_directory(&self, host: &Host) -> Option<&Path> {
        let own = self.own.as_deref()?;
        let is_there = host.is_open() && host.file(own).is_ok_and(|facts| facts.kind == FileKind::Directory);
        is_there.then_some(own)
    }

    /// Why QEMU may not be able to make this socket, and the remedy. Rules are looked for as far as they can be read; that
    /// none was found does not prove that there is none.
    pub fn doubt(&self, host: &Host, socket: &Path) -> Option<(String, String)> {
        let directory = socket.parent()?;
        if self.own.as_deref() == Some(directory) {
            return None;
        }
        let place = socket.display();
        match self.model? {
            Model::AppArmor => {
                let is_allowed = rules(host).iter().any(|text| allows(text, socket));
                (!is_allowed).then(|| {
                    let message = format!(
                        "AppArmor confines the domain's QEMU, and no rule was found that lets it make the socket {place}"
                    );
                    (message, format!("add one for it to {LOCAL_RULES}; examples/apparmor-libvirt-qemu has some"))
                })
            }
            Model::SeLinux => (!SELINUX_PLACES.iter().any(|allowed| directory.starts_with(allowed))).then(|| {
                let directory = directory.display();
                let message =
                    format!("SELinux confines the domain's QEMU, which may not be able to make the socket {place}");
                (message, format!("`chcon -t svirt_image_t {directory}` (semanage fcontext, for good) lets it"))
            }),
        }
    }
}

/// The texts with the host's own rules.
fn rules(host: &Host) -> Vec<String> {
    let more = host.names(Path::new(MORE_RULES)).unwrap_or_default();
    let files = more.iter().map(|name| Path::new(MORE_RULES).join(name)).chain([PathBuf::from(LOCAL_RULES)]);
    let texts = files.filter_map(|path| host.read(&path, MAX_RULES).ok());
    texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect()
}

/// Whether a rule that lets QEMU write seems to be about this path: as far as its first pattern they are the same.
fn allows(rules: &str, path: &Path) -> bool {
    let path = path.to_string_lossy();
    rules.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default().trim().trim_end_matches(',');
        let line = line.trim_start_matches("audit ").trim_start_matches("owner ").trim();
        let Some((pattern, access)) = line.rsplit_once(char::is_whitespace) else { return false };
        let pattern = pattern.trim().trim_matches('"');
        let literal = pattern.split(['*', '?', '[', '{', '@']).next().unwrap_or_default();
        let is_about = if literal == pattern { path == pattern } else { path.starts_with(literal) };
        pattern.starts_with('/') && literal.len() > 1 && access.contains('w') && is_about
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(labels: &str) -> String {
        format!("<domain type='kvm' id='3'><name>a-name-of-more-than-twenty</name>{labels}</domain>")
    }

    const DAC: &str = "<seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+64055</label></seclabel>";
    const APPARMOR: &str =
        "<seclabel type='dynamic' model='apparmor' relabel='yes'><label>libvirt-1</label></seclabel>";
    const SELINUX: &str = "<seclabel type='dynamic' model='selinux' relabel='yes'>\
        <label>system_u:system_r:svirt_t:s0:c1,c2</label></seclabel>";

    #[test]
    fn labels_tell_what_confines() {
        let of = |labels: &[&str]| Confined::of(&domain(&labels.concat())).unwrap();
        assert_eq!(of(&[]), Confined { model: None, own: None });
        let own = Some(PathBuf::from("/var/lib/libvirt/qemu/domain-3-a-name-of-more-than-"));
        assert_eq!(of(&[DAC]), Confined { model: None, own: own.clone() });
        assert_eq!(of(&[APPARMOR, DAC]), Confined { model: Some(Model::AppArmor), own: own.clone() });
        assert_eq!(of(&[DAC, SELINUX]), Confined { model: Some(Model::SeLinux), own });
        // A guest that is not to be confined.
        assert_eq!(of(&["<seclabel type='none' model='apparmor'/>"]).model, None);
        assert_eq!(Confined::of("<domain><name>off</name></domain>").unwrap().own, None);
    }

    #[test]
    fn places_that_the_stock_policies_allow_are_in_no_doubt() {
        let doubt = |labels: &str, socket: &str| {
            Confined::of(&domain(&format!("{labels}{DAC}"))).unwrap().doubt(&Host::Local, Path::new(socket))
        };
        let own = "/var/lib/libvirt/qemu/domain-3-a-name-of-more-than-/virtkeep.sock";
        for labels in ["", APPARMOR, SELINUX] {
            assert_eq!(doubt(labels, own), None);
        }
        assert_eq!(doubt("", "/srv/x.sock"), None);
        assert_eq!(doubt(SELINUX, "/var/tmp/x.sock"), None);
        assert!(doubt(SELINUX, "/srv/x.sock").unwrap().1.contains("chcon -t svirt_image_t /srv"));
        assert!(doubt(APPARMOR, "/srv/x.sock").unwrap().0.contains("AppArmor"));
    }

    #[test]
    fn rules_are_found() {
        let example = include_str!("../../packaging/examples/apparmor-libvirt-qemu");
        for path in ["/var/tmp/virtkeep.1.sock", "/var/tmp/virtnbdbackup.17", "/run/virtkeep-boot.x1/nbd.sock"] {
            assert!(allows(example, Path::new(path)), "{path}");
        }
        for (rule, is) in [
            ("/srv/x.sock rw,", true),
            ("  owner \"/srv/x*\" rwk,", true),
            ("# /srv/x.sock rw,", false),
            ("/srv/x.sock r,", false),
            ("/srv/x rw,", false),
            ("/** rw,", false),
            ("#include <local/x>", false),
            ("", false),
        ] {
            assert_eq!(allows(rule, Path::new("/srv/x.sock")), is, "{rule}");
        }
    }
}
