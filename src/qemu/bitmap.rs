//! `qemu-img bitmap`: dirty bitmaps in images that no other program has open, made and removed.
//!
//! The image is opened for writing, under QEMU's own lock: while a domain runs on it, or another program
//! reads it, nothing is changed. QEMU stores all bitmaps of an image anew whenever it closes it, and those of
//! a program that was killed before that are useless for ever: so these calls are left alone by Ctrl-C, and
//! have a time limit that only storage that went away can reach.

use std::ffi::OsString;
use std::path::Path;

use super::img::{TOOL, file_name};
use crate::error::{Kind, Result};
use crate::host::Host;

/// Adds an empty bitmap that records every change of the qcow2 image from now on.
///
/// # Errors
/// [`Kind::Busy`] if another program has the image open; what `qemu-img` complains about: there is a bitmap of
/// that name, the image is of version 2.
pub fn add(host: &Host, image: &Path, name: &str) -> Result<()> {
    change(host, "--add", image, name)
}

/// Removes a bitmap of the qcow2 image, a broken one too.
///
/// # Errors
/// [`Kind::Busy`] if another program has the image open; what `qemu-img` complains about: there is none of that
/// name.
pub fn remove(host: &Host, image: &Path, name: &str) -> Result<()> {
    change(host, "--remove", image, name)
}

fn change(host: &Host, what: &str, image: &Path, name: &str) -> Result<()> {
    let mut args: Vec<OsString> = ["bitmap", what, "-f", "qcow2", "--"].map(OsString::from).to_vec();
    args.extend([file_name(image), name.into()]);
    host.run_to_end(TOOL, &args).map(drop).map_err(|error| {
        let error = error.path(image);
        match error.kind() {
            Kind::Busy if error.hint_text().is_none() => error.hint(IN_USE),
            _ => error,
        }
    })
}

/// What to do about an image that another program has open.
pub const IN_USE: &str = "a domain that runs on it, or a tool such as qemu-nbd or qemu-img: `fuser -v IMAGE` names it";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Cancel;
    use crate::error::report;
    use crate::qemu::img::{self, CreateOptions};
    use crate::qemu::nbd::{QemuNbd, ServeOptions};

    fn names(image: &Path) -> Vec<String> {
        let images = img::bitmaps(&Host::Local, image).unwrap();
        images[0].bitmaps.iter().map(|bitmap| format!("{} {}", bitmap.name, bitmap.flags.join(","))).collect()
    }

    #[test]
    fn bitmaps_come_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("a,b:c.qcow2");
        img::create(&image, 1 << 20, &CreateOptions::default()).unwrap();
        add(&Host::Local, &image, "one").unwrap();
        add(&Host::Local, &image, "-two").unwrap();
        assert_eq!(names(&image), ["one auto", "-two auto"]);
        assert!(report(&add(&Host::Local, &image, "one").unwrap_err()).contains("exists"));
        remove(&Host::Local, &image, "one").unwrap();
        assert!(remove(&Host::Local, &image, "one").is_err());
        assert_eq!(names(&image), ["-two auto"]);
    }

    #[test]
    fn an_image_in_use_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("a.qcow2");
        img::create(&image, 1 << 20, &CreateOptions::default()).unwrap();
        add(&Host::Local, &image, "one").unwrap();
        let server = QemuNbd::serve(&image, "qcow2", &ServeOptions::default(), &Cancel::new()).unwrap();
        for error in [add(&Host::Local, &image, "two").unwrap_err(), remove(&Host::Local, &image, "one").unwrap_err()] {
            assert_eq!(error.kind(), Kind::Busy, "{}", report(&error));
            assert!(error.hint_text().unwrap().contains("fuser"));
        }
        server.finish().unwrap();
        assert_eq!(names(&image), ["one auto"]);
    }
}
