//! libguestfs, through its program `guestfish`: a small Linux of its own (the appliance) looks into disks, so that
//! neither this host's kernel nor root has to.
//!
//! | module | owns |
//! |---|---|
//! | [`shell`] | one guestfish on pipes: commands to it, what it answers |
//! | [`quote`] | a command as a line that means exactly that |
//! | [`volumes`] | the file systems on the disks, their names, the operating systems |
//! | [`files`] | what is in a directory, with exact names |

pub mod files;
pub mod quote;
pub mod shell;
pub mod volumes;

use std::path::PathBuf;

use crate::error::{Error, Kind, Result};

/// The program.
pub const PROGRAM: &str = "guestfish";

/// Fails unless guestfish is installed.
///
/// # Errors
/// [`Kind::NotFound`] with the packages to install.
pub fn check() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if places.iter().any(|place| place.join(PROGRAM).is_file()) {
        return Ok(());
    }
    Err(Error::new(Kind::NotFound, "the program guestfish of libguestfs is missing").hint(
        "install it (Debian, Ubuntu: apt-get install guestfish; Fedora and its kin: dnf install /usr/bin/guestfish)",
    ))
}
