//! Files of a domain's firmware that were moved.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::libvirt::xml::{self, path_text};

/// The elements of `<os>` that name a file.
const FILES: [&str; 4] = ["loader", "nvram", "kernel", "initrd"];

/// The domain's XML with the new places of the files of its firmware.
///
/// # Errors
/// [`Kind::Protocol`](crate::error::Kind::Protocol) for text that is no domain's;
/// [`Kind::Unsupported`](crate::error::Kind::Unsupported) for paths that libvirt can't be told.
pub fn moved(text: &str, moves: &[(PathBuf, PathBuf)]) -> Result<String> {
    let mut document = xml::parse(text, "domain")?;
    if let Some(os) = document.root.child_mut("os") {
        for child in os.children_mut() {
            let (attribute, file) = match child.name() {
                "varstore" => (Some("path"), child.attribute("path").unwrap_or_default()),
                name if FILES.contains(&name) => (None, child.text().trim().to_owned()),
                _ => continue,
            };
            let Some((_, new)) = moves.iter().find(|(old, _)| old == Path::new(&file)) else { continue };
            match attribute {
                Some(attribute) => child.set_attribute(attribute, path_text(new)?)?,
                None => child.set_text(path_text(new)?)?,
            }
        }
    }
    document.to_text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_moved_is_changed() {
        let text = "<domain><os><loader>/fw</loader><nvram template='/t'>/run/a b.fd</nvram><kernel>/k</kernel>\
                    <varstore path='/run/v'/></os><x>/k</x></domain>";
        let moves = [("/run/a b.fd", "/new/a b.fd"), ("/k", "/new/k&"), ("/run/v", "/new/v")];
        let moves = moves.map(|(old, new)| (PathBuf::from(old), PathBuf::from(new)));
        let text = moved(text, &moves).unwrap();
        for there in ["<loader>/fw</loader>", ">/new/a b.fd<", "<kernel>/new/k&amp;</kernel>", "/new/v", "<x>/k</x>"] {
            assert!(text.contains(there), "{there}: {text}");
        }
        assert!(moved("<nodomain/>", &[]).is_err());
    }
}
