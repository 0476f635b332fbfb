//! What `-o` names: a directory, or for one raw disk a file or a device. Options that make no sense
//! there are refused before anything is read.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::cli::read::Restore;
use crate::error::{Error, Result};
use crate::host::{FileKind, Host};

/// Endings of a new name that mean a raw image, not a directory.
const RAW_ENDINGS: [&str; 2] = ["raw", "img"];

/// Where a restore goes; the paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A directory, which may have to be made: images under their own names, and the configuration.
    Directory(PathBuf),
    /// A raw image, new or to be replaced.
    File(PathBuf),
    /// An existing block device.
    Device(PathBuf),
}

impl Output {
    /// What the options mean.
    ///
    /// # Errors
    /// [`Usage`](crate::error::Kind::Usage) for options that don't go together.
    pub fn of(args: &Restore, host: &Host) -> Result<Self> {
        if !host.is_local() && !args.output.is_absolute() {
            return Err(Error::usage("must be an absolute path: it is one of the host").path(&args.output));
        }
        let path = std::path::absolute(&args.output).map_err(|error| Error::io("resolve", error).path(&args.output))?;
        let output = match host.file(&path).map(|facts| facts.kind) {
            Ok(FileKind::Block) => Self::Device(path),
            Ok(FileKind::File) if args.raw => Self::File(path),
            Err(_) if args.raw && is_new_image(host, &path) => Self::File(path),
            _ => Self::Directory(path),
        };
        output.check(args)?;
        match &output {
            Self::Device(path) if !host.is_local() => {
                return Err(Error::unsupported("a block device of another host can't be written")
                    .path(path)
                    .hint("restore to a directory there, and copy with `qemu-img convert -n`; or run virtkeep there"));
            }
            _ => {}
        }
        Ok(output)
    }

    /// The directory, if it is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::File(_) | Self::Device(_) => None,
        }
    }

    /// # Errors
    /// [`Usage`](crate::error::Kind::Usage) where several disks would go to one place.
    pub fn check_disks(&self, count: usize) -> Result<()> {
        let (Self::File(path) | Self::Device(path)) = self else { return Ok(()) };
        if count == 1 {
            return Ok(());
        }
        Err(Error::usage(format!("takes one disk, not {count}"))
            .path(path)
            .hint("choose the disk with -d, or name a directory with -o"))
    }

    fn check(&self, args: &Restore) -> Result<()> {
        let (Self::File(path) | Self::Device(path)) = self else { return Ok(()) };
        if args.adjust_config || args.define || args.name.is_some() {
            return Err(Error::usage("there is no place beside it for the domain's XML (-c, -D, -N)")
                .path(path)
                .hint("name a directory with -o; or leave these options away and give the disk to a domain yourself"));
        }
        if let Self::Device(_) = self {
            if !args.raw {
                return Err(Error::usage("a block device takes one disk, as raw data")
                    .path(path)
                    .hint("choose the disk with -d and add --raw"));
            }
            if args.preallocate {
                return Err(Error::usage("a block device can't be preallocated").path(path).hint("leave -A away"));
            }
        }
        Ok(())
    }
}

/// Whether a name that does not exist is meant for an image.
fn is_new_image(host: &Host, path: &Path) -> bool {
    let ending = path.extension().is_some_and(|ending| RAW_ENDINGS.iter().any(|raw| ending.eq_ignore_ascii_case(raw)));
    let is_directory = |path: &Path| host.file(path).is_ok_and(|facts| facts.kind == FileKind::Directory);
    ending && !path.as_os_str().as_bytes().ends_with(b"/") && path.parent().is_some_and(is_directory)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::error::Kind;

    fn of(output: &Path, options: &[&str]) -> Result<Output> {
        let output = output.to_str().unwrap();
        let words = [&["virtkeep", "restore", "-i", "/set", "-o", output], options].concat();
        match Cli::try_parse_from(words).unwrap().command {
            Command::Restore(args) => Output::of(&args, &Host::Local),
            _ => unreachable!(),
        }
    }

    #[test]
    fn options_without_a_meaning_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let new = directory.path().join("disk.img");
        for options in [&["--raw", "-c"][..], &["--raw", "-D"], &["--raw", "-N", "other"]] {
            let error = of(&new, options).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{options:?}");
            assert!(error.hint_text().unwrap().contains("-o"), "{error}");
        }
        let file = of(&new, &["--raw"]).unwrap();
        assert_eq!(file.check_disks(2).unwrap_err().kind(), Kind::Usage);
        file.check_disks(1).unwrap();
    }

    #[test]
    fn names_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("exists"), "").unwrap();
        std::fs::create_dir(at("folder.img")).unwrap();
        for name in ["exists", "new.raw", "new.IMG"] {
            assert_eq!(of(&at(name), &["--raw"]).unwrap(), Output::File(at(name)));
            assert_eq!(of(&at(name), &[]).unwrap(), Output::Directory(at(name)));
        }
        for name in ["folder.img", "new", "new.qcow2", "nowhere/new.img", "new.img/"] {
            assert_eq!(of(&at(name), &["--raw"]).unwrap(), Output::Directory(at(name)), "{name}");
        }
    }
}
