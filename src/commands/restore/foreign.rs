//! What virtnbdbackup saves of a domain beside its XML. It has no list of it: the names follow from
//! the XML, and from the identifier that stands in the XML's own name.
//!
//! | file | is |
//! |---|---|
//! | `BASENAME.IDENT`, in a copy `BASENAME` | a copy of the file of that base name which the XML has |
//! | `autostart.IDENT` | there if the domain starts with its host |

use std::path::{Path, PathBuf};

use crate::error::{self, Result};
use crate::libvirt::domain_xml::DomainConfig;
use crate::set::config::ConfigFile;
use crate::set::files::Files;
use crate::set::manifest::Role;

/// The identifier of a copy.
const COPY: &str = "copy";

/// The files that belong to the domain XML among `files`.
pub fn files(set: &Files, files: &[ConfigFile]) -> Result<Vec<ConfigFile>> {
    let Some(xml) = files.iter().find(|file| file.role == Role::DomainXml) else { return Ok(Vec::new()) };
    let name = xml.file.name();
    let Some(ident) = name.strip_prefix("vmconfig.").and_then(|name| name.strip_suffix(".xml")) else {
        return Ok(Vec::new());
    };
    let text = String::from_utf8_lossy(&xml.read()?).into_owned();
    let config = match DomainConfig::parse(&text) {
        Ok(config) => config,
        Err(error) => {
            tracing::warn!("{}: {}", xml.file.path().display(), error::report(&error));
            return Ok(Vec::new());
        }
    };
    let names = set.names()?;
    let mut found = Vec::new();
    for (role, origin) in originals(config) {
        let Some(base) = origin.file_name().and_then(|name| name.to_str()) else { continue };
        match pick(&names, base, ident) {
            Some(name) => found.push(file(set, name, role, Some(&origin))?),
            None => tracing::debug!("the set has no copy of {}", origin.display()),
        }
    }
    if let Some(name) = pick(&names, "autostart", ident).filter(|name| name.as_str() != "autostart") {
        found.push(file(set, name, Role::Autostart, None)?);
    }
    Ok(found)
}

/// The files on the domain's host that are copied into a set.
fn originals(config: DomainConfig) -> Vec<(Role, PathBuf)> {
    let parts = [
        (Role::Loader, config.loader),
        (Role::Nvram, config.nvram.and_then(|nvram| nvram.path)),
        (Role::Nvram, config.varstore),
        (Role::Kernel, config.kernel),
        (Role::Initrd, config.initrd),
    ];
    parts.into_iter().filter_map(|(role, path)| Some((role, path?))).collect()
}

fn file(set: &Files, name: &str, role: Role, origin: Option<&Path>) -> Result<ConfigFile> {
    let origin = origin.map(|path| path.to_string_lossy().into_owned());
    Ok(ConfigFile { role, file: set.file(name)?, disk: None, origin, record: None })
}

/// `BASENAME.IDENT`; where the identifier is a time, which differs from file to file, the nearest one.
fn pick<'n>(names: &'n [String], base: &str, ident: &str) -> Option<&'n String> {
    let ident_of = |name: &'n String| name.strip_prefix(base)?.strip_prefix('.');
    let exact = names.iter().find(|name| ident_of(name) == Some(ident));
    let plain = || names.iter().find(|name| ident == COPY && name.as_str() == base);
    let nearest = || {
        let time = ident.parse::<i64>().ok()?;
        let timed = names.iter().filter_map(|name| Some((ident_of(name)?.parse::<i64>().ok()?, name)));
        timed.min_by_key(|(other, _)| other.abs_diff(time)).map(|(_, name)| name)
    };
    exact.or_else(plain).or_else(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::layout::Layout;

    const XML: &str = "<domain><name>d</name><os><loader>/fw/CODE.fd</loader><nvram>/nv/d_VARS.fd</nvram>\
                       <kernel>/boot/vmlinuz</kernel></os></domain>";

    fn found(names: &[&str], xml: &str) -> Vec<(Role, String, Option<String>)> {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(directory.path().join(name), "x").unwrap();
        }
        let path = directory.path().join(xml);
        std::fs::write(&path, XML).unwrap();
        let xml = ConfigFile { role: Role::DomainXml, file: path.into(), disk: None, origin: None, record: None };
        let files = files(&Layout::new(directory.path()).into(), &[xml]).unwrap();
        files.into_iter().map(|file| (file.role, file.file.name().to_owned(), file.origin)).collect()
    }

    #[test]
    fn files_of_the_point_are_found() {
        let names =
            ["d_VARS.fd", "d_VARS.fd.virtnbdbackup.0", "d_VARS.fd.virtnbdbackup.1", "autostart.virtnbdbackup.0"];
        let nvram = |name: &str| (Role::Nvram, name.to_owned(), Some("/nv/d_VARS.fd".to_owned()));
        let autostart = |name: &str| (Role::Autostart, name.to_owned(), None);
        assert_eq!(
            found(&names, "vmconfig.virtnbdbackup.0.xml"),
            [nvram("d_VARS.fd.virtnbdbackup.0"), autostart("autostart.virtnbdbackup.0")]
        );
        assert_eq!(found(&names, "vmconfig.virtnbdbackup.1.xml"), [nvram("d_VARS.fd.virtnbdbackup.1")]);
        assert_eq!(found(&names, "vmconfig.virtnbdbackup.2.xml"), []);
        assert_eq!(found(&names, "vmconfig.copy.xml"), [nvram("d_VARS.fd")]);
        assert_eq!(found(&["vmlinuz", "autostart"], "vmconfig.virtnbdbackup.0.xml"), []);
        let kernel = (Role::Kernel, "vmlinuz".to_owned(), Some("/boot/vmlinuz".to_owned()));
        assert_eq!(
            found(&["vmlinuz", "autostart", "autostart.copy"], "vmconfig.copy.xml"),
            [kernel, autostart("autostart.copy")]
        );
    }

    #[test]
    fn times_differ_from_file_to_file() {
        let names = ["autostart.1001", "autostart.2001", "autostart.x", "d_VARS.fd.virtnbdbackup.0"];
        assert_eq!(found(&names, "vmconfig.1000.xml"), [(Role::Autostart, "autostart.1001".to_owned(), None)]);
    }
}
