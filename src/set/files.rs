//! The files of a set where they are read: in its directory, or in zip files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layout::Layout;
use crate::error::{Error, Kind, Result};
use crate::stored::StoredFile;
use crate::stored::zips::Zips;

const HINT: &str =
    "-i takes the directory that `virtkeep backup -o` wrote, or the zip files of `-o -`: full.zip,inc1.zip";

/// What a set is read from.
#[derive(Debug, Clone)]
pub enum Files {
    /// A directory.
    Directory(Layout),
    /// One or several zip files, such as `virtkeep backup -o -` and virtnbdbackup write.
    Zips(Arc<Zips>),
}

impl From<Layout> for Files {
    fn from(layout: Layout) -> Self {
        Self::Directory(layout)
    }
}

impl Files {
    /// What the arguments of `-i` name: a directory, or zip files; several are separated by commas, unless
    /// that is the name of a file.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Usage`] for a mixture; what is wrong with a zip file.
    pub fn open(inputs: &[PathBuf]) -> Result<Self> {
        let paths = split(inputs)?;
        match paths.as_slice() {
            [] => Err(Error::usage("no set is named").hint(HINT)),
            [path] if path.is_dir() => Ok(Self::Directory(Layout::new(path))),
            paths => match paths.iter().find(|path| path.is_dir()) {
                None => Ok(Self::Zips(Zips::open(paths)?)),
                Some(directory) => {
                    Err(Error::usage("is a directory: one directory can be read at a time, or several zip files")
                        .path(directory)
                        .hint(HINT))
                }
            },
        }
    }

    /// The directory, or the paths of the zip files as `-i` takes them.
    pub fn place(&self) -> &Path {
        match self {
            Self::Directory(layout) => layout.directory(),
            Self::Zips(zips) => zips.place(),
        }
    }

    /// The names in the set's top folder, sorted.
    ///
    /// # Errors
    /// [`Kind::Io`] and [`Kind::NotFound`] where the directory can't be read.
    pub fn names(&self) -> Result<Vec<String>> {
        match self {
            Self::Directory(layout) => layout.names(),
            Self::Zips(zips) => Ok(zips.names().filter(|name| !name.contains('/')).map(str::to_owned).collect()),
        }
    }

    /// A file of the set by its name; that it is there is not said.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for a name that no file of a set has.
    pub fn file(&self, name: &str) -> Result<StoredFile> {
        match self {
            Self::Directory(layout) => Ok(layout.file(name)?.into()),
            Self::Zips(zips) => {
                Layout::check_name(name).map_err(|error| error.path(zips.place()))?;
                Ok(zips.file_called(name))
            }
        }
    }

    /// The saved XML of a checkpoint.
    ///
    /// # Errors
    /// As for [`Files::file`].
    pub fn checkpoint(&self, name: &str) -> Result<StoredFile> {
        self.file(&format!("checkpoints/{name}.xml"))
    }

    /// The directory's layout; none of zip files, which nobody writes to.
    pub fn layout(&self) -> Option<&Layout> {
        match self {
            Self::Directory(layout) => Some(layout),
            Self::Zips(_) => None,
        }
    }
}

fn split(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for input in inputs {
        let exists =
            |path: &Path| path.try_exists().map_err(|error| Error::io("look for", error).path(path).hint(HINT));
        let parts: Vec<PathBuf> = match input.to_str() {
            Some(text) if text.contains(',') && !exists(input)? => text.split(',').map(PathBuf::from).collect(),
            _ => vec![input.clone()],
        };
        for part in parts {
            if !exists(&part)? {
                return Err(Error::new(Kind::NotFound, "no such file or directory").path(&part).hint(HINT));
            }
            paths.push(part);
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_split_at_commas_that_are_no_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["a", "b", "a,b"] {
            std::fs::write(path(name), "x").unwrap();
        }
        let joined = |names: &[&str]| {
            PathBuf::from(names.iter().map(|name| path(name).display().to_string()).collect::<Vec<_>>().join(","))
        };
        assert_eq!(split(&[path("a,b"), path("a")]).unwrap(), [path("a,b"), path("a")]);
        assert_eq!(split(&[joined(&["b", "a"])]).unwrap(), [path("b"), path("a")]);
        assert_eq!(split(&[joined(&["b", "nowhere"])]).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(split(&[path("nowhere")]).unwrap_err().kind(), Kind::NotFound);
        assert!(Files::open(&[path("a"), directory.path().to_owned()]).unwrap_err().kind() == Kind::Usage);
    }
}
