//! Where copies go: decided, and refused, before the appliance is started.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, CWD, RenameFlags, access, renameat_with};
use rustix::io::Errno;

use super::place::Place;
use crate::cli::files::Cp;
use crate::error::{Error, Kind, Result};
use crate::set::layout;

/// Where copies go.
#[derive(Debug, PartialEq, Eq)]
pub enum Destination {
    /// The content of an only file goes to standard output.
    Stdout,
    /// Each copy has its path.
    Files(Vec<(Place, PathBuf)>),
}

/// What to copy, and where to.
///
/// # Errors
/// [`Kind::Usage`]; [`Kind::Busy`] for what exists.
pub fn resolve(args: &Cp) -> Result<(Vec<Place>, Destination)> {
    let (sources, to): (&[_], PathBuf) = match (&args.output, args.paths.split_last()) {
        (Some(output), _) => (&args.paths, output.clone()),
        (None, Some((last, sources))) if !sources.is_empty() => (sources, last.into()),
        _ => {
            return Err(Error::usage("where to copy is missing")
                .hint("virtkeep cp -i SET vda:/etc/fstab .  copies to the current directory"));
        }
    };
    let places: Vec<Place> = sources.iter().map(|source| Place::parse(source)).collect::<Result<_>>()?;
    if to.as_os_str() == "-" {
        if places.len() > 1 || args.recursive {
            return Err(Error::usage("standard output takes one file").hint("copy into a directory"));
        }
        return Ok((places, Destination::Stdout));
    }
    let is_directory = to.is_dir();
    let must_be = places.len() > 1 || to.as_os_str().as_bytes().ends_with(b"/");
    if must_be && !is_directory {
        return Err(Error::new(Kind::NotFound, "there is no such directory").path(&to).hint("create it first"));
    }
    let mut files = Vec::new();
    let mut taken: BTreeMap<PathBuf, String> = BTreeMap::new();
    for place in &places {
        let path = if is_directory { to.join(OsStr::from_bytes(place.file_name()?)) } else { to.clone() };
        if let Some(other) = taken.insert(path.clone(), place.shown()) {
            return Err(Error::usage(format!("{other} and {} would become the same file", place.shown()))
                .path(&path)
                .hint("copy them one by one, to different names"));
        }
        check(&path, args.force)?;
        files.push((place.clone(), path));
    }
    Ok((places, Destination::Files(files)))
}

fn check(path: &Path, force: bool) -> Result<()> {
    if let Ok(found) = path.symlink_metadata() {
        refuse(path, found.is_dir(), force)?;
    }
    let parent = layout::parent(path);
    access(parent, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| Error::io("write to", error).path(parent))
}

fn refuse(path: &Path, is_directory: bool, force: bool) -> Result<()> {
    let exists = || Error::new(Kind::Busy, "exists already").path(path);
    match (is_directory, force) {
        (true, _) => Err(exists().hint("a directory is never overwritten: choose another destination")),
        (false, false) => Err(exists().hint("--force overwrites it")),
        (false, true) => Ok(()),
    }
}

/// Gives what is complete its name.
///
/// # Errors
/// [`Kind::Busy`] where that was taken meanwhile.
pub fn name(complete: &Path, path: &Path, force: bool) -> Result<()> {
    let failed = |error: Errno| Error::io("give the copy its name", error).path(path);
    if force {
        return std::fs::rename(complete, path).map_err(|error| Error::io("give the copy its name", error).path(path));
    }
    match renameat_with(CWD, complete, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => refuse(path, path.is_dir(), false),
        // A file system that can't tell.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match path.symlink_metadata() {
            Ok(found) => refuse(path, found.is_dir(), false),
            Err(_) => {
                std::fs::rename(complete, path).map_err(|error| Error::io("give the copy its name", error).path(path))
            }
        },
        Err(error) => Err(failed(error)),
    }
}
