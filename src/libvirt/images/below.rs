//! What lies below the image of a disk, and whether QEMU alone would read what libvirt lets the guest see.

use crate::error::{Error, Result};
use crate::libvirt::xml::{self, Element};
use crate::qemu::img;

/// Why the images below a disk's may not be those that libvirt would use.
pub fn doubt(images: &[img::ImageBitmaps], chain: Option<&BackingChain>) -> Option<Error> {
    if let Some(image) = images.iter().find(|image| image.guesses_backing) {
        let message = "the format of its backing file is not in the image, and would have to be guessed";
        return Some(
            Error::unsupported(message).path(&image.filename).hint(
                "`qemu-img rebase -u -b BACKING -F FORMAT IMAGE` writes it into the image while the domain is off",
            ),
        );
    }
    if let Some(image) = images.iter().find(|image| image.encrypted) {
        let message = "it is encrypted, and the key is libvirt's";
        return Some(Error::unsupported(message).path(&image.filename).hint(START));
    }
    let chain = chain?;
    let below: Vec<&str> = images.iter().skip(1).map(|image| image.filename.as_str()).collect();
    let agrees = match chain.is_whole {
        true => chain.below == below,
        false => below.starts_with(&chain.below.iter().map(String::as_str).collect::<Vec<_>>()),
    };
    (!agrees).then(|| {
        let message = format!(
            "the domain's <backingStore> names other images below the disk's ({}) than the image itself ({})",
            listed(&chain.below),
            listed(&below)
        );
        Error::unsupported(message).hint(START)
    })
}

/// What to do where only QEMU, started by libvirt, can read an image.
const START: &str = "-S starts the domain, paused, for the backup: QEMU then reads what the guest would";

fn listed(paths: &[impl AsRef<str>]) -> String {
    let all: Vec<&str> = paths.iter().map(AsRef::as_ref).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// The images below a disk's as the domain's definition names them, which need not.
#[derive(Debug, PartialEq, Eq)]
pub struct BackingChain {
    /// The disk's target.
    pub target: String,
    below: Vec<String>,
    /// There are no more below these.
    is_whole: bool,
}

impl BackingChain {
    /// Those of all disks of a domain.
    ///
    /// # Errors
    /// [`Kind::Protocol`](crate::error::Kind::Protocol) for what is no domain.
    pub fn all(text: &str) -> Result<Vec<Self>> {
        let document = xml::parse(text, "domain")?;
        let devices = document.root.child("devices").into_iter().flat_map(Element::children);
        Ok(devices.filter(|device| device.name() == "disk").filter_map(Self::of).collect())
    }

    fn of(disk: &Element<'_>) -> Option<Self> {
        let target = disk.child("target")?.attribute("dev")?;
        let (mut below, mut is_whole) = (Vec::new(), false);
        let mut next = disk.child("backingStore");
        while let Some(store) = next {
            let Some(source) = store.child("source") else {
                is_whole = true;
                break;
            };
            // What is no file is compared with a name that no image has.
            below.push(source.attribute("file").or_else(|| source.attribute("dev")).unwrap_or_default());
            next = store.child("backingStore");
        }
        Some(Self { target, below, is_whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> img::ImageBitmaps {
        img::ImageBitmaps { filename: name.to_owned(), guesses_backing: false, encrypted: false, bitmaps: Vec::new() }
    }

    fn chain(inside: &str) -> BackingChain {
        let disk = format!("<disk><source file='/a'/>{inside}<target dev='vda'/></disk><disk/>");
        let domain = format!("<domain><devices>{disk}</devices></domain>");
        BackingChain::all(&domain).unwrap().remove(0)
    }

    #[test]
    fn chains_are_compared() {
        let (one, two) = ([image("/a")], [image("/a"), image("/b")]);
        let (silent, none) = (chain(""), chain("<backingStore/>"));
        let below = chain("<backingStore><source file='/b'/></backingStore>");
        let whole = chain("<backingStore><source file='/b'/><backingStore/></backingStore>");
        let other = chain("<backingStore><source dev='/c'/></backingStore>");
        let network = chain("<backingStore><source protocol='nbd'/></backingStore>");
        let three = [image("/a"), image("/b"), image("/c")];
        for (images, chain, agrees) in [
            (&one[..], &silent, true),
            (&two, &silent, true),
            (&one, &none, true),
            (&two, &none, false),
            (&one, &below, false),
            (&two, &below, true),
            (&three, &below, true),
            (&two, &whole, true),
            (&three, &whole, false),
            (&two, &other, false),
            (&two, &network, false),
        ] {
            assert_eq!(doubt(images, Some(chain)).is_none(), agrees, "{images:?} {chain:?}");
        }
        assert!(doubt(&two, None).is_none());
    }

    #[test]
    fn what_is_guessed_or_hidden_is_refused() {
        for (guesses_backing, encrypted) in [(true, false), (false, true)] {
            let images = [image("/a"), img::ImageBitmaps { guesses_backing, encrypted, ..image("/b") }];
            assert!(doubt(&images, None).unwrap().hint_text().is_some());
        }
    }
}
