//! What `-o` names: a directory, or for one raw disk a file. Options that make no sense there are refused
//! before anything is read.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::cli::read::{Format, Restore};
use crate::error::{Error, Result};
use crate::host::{FileKind, Host};

/// Endings of a new name that mean a raw image, not a directory.
const RAW_ENDINGS: [&str; 2] = ["raw", "img"];
/// Endings of a new name that nobody means for a directory.
const IMAGE_ENDINGS: [&str; 4] = ["qcow2", "qcow", "raw", "img"];

/// Where a restore goes; the paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A directory, which may have to be made: images under their own names, and the configuration.
    Directory(PathBuf),
    /// A raw image, new or to be replaced.
    File(PathBuf),
    /// Devices alone (`--to-device`).
    Devices,
}

impl Output {
    /// What the options mean.
    ///
    /// # Errors
    /// [`Usage`](crate::error::Kind::Usage) for options that don't go together.
    pub fn of(args: &Restore, host: &Host) -> Result<Self> {
        check_formats(args)?;
        refuse_there(args, host)?;
        let Some(output) = &args.output else {
            Self::Devices.check(args)?;
            return Ok(Self::Devices);
        };
        if !host.is_local() && !output.is_absolute() {
            return Err(Error::usage("must be an absolute path: it is one of the host").path(output));
        }
        let path = std::path::absolute(output).map_err(|error| Error::io("resolve", error).path(output))?;
        let output = match host.file(&path).map(|facts| facts.kind) {
            Ok(FileKind::Block) if !host.is_local() => {
                return Err(Error::unsupported("a block device of another host can't be written")
                    .path(path)
                    .hint("restore to a directory there, and copy with `qemu-img convert -n`; or run virtkeep there"));
            }
            Ok(FileKind::Block) => {
                return Err(Error::usage("is a block device, -o takes files and directories")
                    .hint(format!("--to-device DISK={} writes a disk onto it", path.display()))
                    .path(path));
            }
            Ok(FileKind::File) if args.wants_raw() => Self::File(path),
            Err(_) if args.wants_raw() && is_called(&path, &RAW_ENDINGS) => Self::File(path),
            Err(_) if is_called(&path, &IMAGE_ENDINGS) => {
                return Err(Error::usage("is called like an image, and would become a directory")
                    .hint("-o takes a directory for the images, which are called DOMAIN-DISK.qcow2 in it; with -t raw a file")
                    .path(path));
            }
            _ => Self::Directory(path),
        };
        output.check(args)?;
        Ok(output)
    }

    /// The directory, if it is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::File(_) | Self::Devices => None,
        }
    }

    /// # Errors
    /// [`Usage`](crate::error::Kind::Usage) where several of the disks that don't go to devices, called
    /// `targets`, would go to one place, or one to none.
    pub fn check_disks(&self, targets: &[&str]) -> Result<()> {
        match self {
            Self::File(path) if targets.len() != 1 => {
                Err(Error::usage(format!("takes one disk, not {}", targets.len()))
                    .path(path)
                    .hint("choose the disk with -d, or name a directory with -o"))
            }
            Self::Devices if !targets.is_empty() => {
                Err(Error::usage(format!("no place is given for {}", targets.join(", ")))
                    .hint("name a directory with -o, a device with --to-device, or choose the disks with -d"))
            }
            _ => Ok(()),
        }
    }

    fn check(&self, args: &Restore) -> Result<()> {
        if self.directory().is_none() && (args.adjust_config || args.define || args.name.is_some()) {
            let error = Error::usage("there is no place for the domain's XML (-c, -D, -N)")
                .hint("name a directory with -o; or leave these options away and give the disk to a domain yourself");
            return Err(match self {
                Self::File(path) => error.path(path),
                _ => error,
            });
        }
        if *self == Self::Devices {
            if args.preallocate {
                return Err(Error::usage("a block device can't be preallocated").hint("leave -A away"));
            }
            if args.compress {
                return Err(Error::usage("a block device takes raw data").hint("leave --compress away"));
            }
        }
        Ok(())
    }
}

/// Devices are written on this machine only.
fn refuse_there(args: &Restore, host: &Host) -> Result<()> {
    if host.is_local() {
        return Ok(());
    }
    if let Some((disk, path)) = args.to_device.first() {
        return Err(Error::usage("a device of another host can't be written")
            .path(path)
            .disk(disk)
            .hint("run the restore there, or restore an image with --to-host and copy it onto the device"));
    }
    match args.relocate_data_file.iter().find(|(_, path)| path.is_relative()) {
        None => Ok(()),
        Some((disk, path)) => {
            Err(Error::usage("must be absolute: it is a path of the host of --to-host").path(path).disk(disk))
        }
    }
}

fn check_formats(args: &Restore) -> Result<()> {
    if args.compress && args.wants_raw() {
        return Err(Error::usage("raw images can't be compressed").hint("leave --compress away, or -t raw"));
    }
    for (disk, _) in &args.relocate_data_file {
        if args.to_device.iter().any(|(other, _)| other == disk) || args.format.is_some() {
            return Err(Error::usage("an image without a data file is asked for").disk(disk).hint(match args.format {
                Some(Format::Raw | Format::Qcow2) => "leave --relocate-data-file away, or -t",
                None => "leave --relocate-data-file away, or --to-device of this disk",
            }));
        }
    }
    for list in [&args.to_device, &args.relocate_data_file] {
        for (number, (disk, _)) in list.iter().enumerate() {
            if list[..number].iter().any(|(other, _)| other == disk) {
                return Err(Error::usage("has two places").disk(disk).hint("a disk can be named once"));
            }
        }
    }
    Ok(())
}

/// Whether the name ends in one of `endings`, and not in a slash.
fn is_called(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().is_some_and(|ending| endings.iter().any(|one| ending.eq_ignore_ascii_case(one)));
    ending && !path.as_os_str().as_bytes().ends_with(b"/")
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
        for options in [&["-t", "raw", "-c"][..], &["-t", "raw", "-D"], &["-t", "raw", "-N", "other"]] {
            let error = of(&new, options).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{options:?}");
            assert!(error.hint_text().unwrap().contains("-o"), "{error}");
        }
        let file = of(&new, &["-t", "raw"]).unwrap();
        assert_eq!(file.check_disks(&["vda", "vdb"]).unwrap_err().kind(), Kind::Usage);
        file.check_disks(&["vda"]).unwrap();
        assert_eq!(Output::Devices.check_disks(&["vda"]).unwrap_err().kind(), Kind::Usage);
        Output::Devices.check_disks(&[]).unwrap();
        for options in [
            &["--to-device", "vda=/dev/x", "--to-device", "vda=/dev/y"][..],
            &["--relocate-data-file", "vda=/x", "-t", "qcow2"],
            &["--relocate-data-file", "vda=/x", "--to-device", "vda=/dev/x"],
            &["-t", "raw", "--compress"],
        ] {
            assert_eq!(of(directory.path(), options).unwrap_err().kind(), Kind::Usage, "{options:?}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("exists"), "").unwrap();
        std::fs::create_dir(at("folder.img")).unwrap();
        for name in ["exists", "new.raw", "new.IMG", "nowhere/new.img"] {
            assert_eq!(of(&at(name), &["-t", "raw"]).unwrap(), Output::File(at(name)));
        }
        for name in ["folder.img", "new", "new.bin", "new.img/"] {
            for options in [&["-t", "raw"][..], &[]] {
                assert_eq!(of(&at(name), options).unwrap(), Output::Directory(at(name)), "{name}");
            }
        }
        // Nobody wants a directory of that name.
        for (name, options) in [("new.raw", &[][..]), ("new.qcow2", &[]), ("new.qcow2", &["-t", "raw"])] {
            assert_eq!(of(&at(name), options).unwrap_err().kind(), Kind::Usage, "{name}");
        }
    }
}
