//! The configuration that belongs to a restore point: domain XML, image information, firmware. Of
//! virtkeep's runs the manifest names it, of virtnbdbackup's the file names tell.

use super::Level;
use super::catalogue::{Catalogue, Run};
use super::layout::DataName;
use super::manifest::{FileRecord, Role};
use crate::error::{Error, Kind, Result};
use crate::stored::StoredFile;

/// Configuration beside the data is read as a whole; nothing of this size is configuration.
pub const MAX_SIZE: u64 = 64 << 20;

/// A file of the configuration.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// What it is.
    pub role: Role,
    /// Where it is.
    pub file: StoredFile,
    /// The disk that it belongs to.
    pub disk: Option<String>,
    /// Path of the original on the domain's host.
    pub origin: Option<String>,
    /// What its content must be; none in virtnbdbackup's sets.
    pub record: Option<FileRecord>,
}

impl ConfigFile {
    /// The content, proven where a digest is known.
    ///
    /// # Errors
    /// [`Corrupt`](crate::error::Kind::Corrupt) where it is not what was backed up.
    pub fn read(&self) -> Result<Vec<u8>> {
        let content = self.file.read(MAX_SIZE).map_err(|error| match error.kind() {
            Kind::NotFound => Error::incomplete("is missing from the set").path(self.file.path()),
            _ => error,
        })?;
        match &self.record {
            Some(record) if blake3::hash(&content).to_hex().as_str() != record.blake3 => {
                Err(Error::corrupt("is not what was backed up").path(self.file.path()))
            }
            _ => Ok(content),
        }
    }
}

/// The configuration files of `run`.
pub fn files(catalogue: &Catalogue, run: &Run) -> Result<Vec<ConfigFile>> {
    match &run.manifest {
        Some(manifest) => manifest
            .files
            .iter()
            .map(|record| {
                Ok(ConfigFile {
                    role: record.role,
                    file: catalogue.files.file(&record.name)?,
                    disk: record.disk.clone(),
                    origin: record.origin.clone(),
                    record: Some(record.clone()),
                })
            })
            .collect(),
        None => foreign_files(catalogue, run),
    }
}

fn foreign_files(catalogue: &Catalogue, run: &Run) -> Result<Vec<ConfigFile>> {
    let names = catalogue.files.names()?;
    let mut files = Vec::new();
    if let Some(name) = pick(&names, "vmconfig.", ".xml", run) {
        files.push(foreign_file(catalogue, name, Role::DomainXml, None)?);
    }
    for stream in &run.streams {
        if let Some(name) = pick(&names, &format!("{}.", stream.target), ".qcow.json", run) {
            files.push(foreign_file(catalogue, name, Role::ImageInfo, Some(stream.target.clone()))?);
        }
    }
    Ok(files)
}

fn foreign_file(catalogue: &Catalogue, name: &str, role: Role, disk: Option<String>) -> Result<ConfigFile> {
    Ok(ConfigFile { role, file: catalogue.files.file(name)?, disk, origin: None, record: None })
}

/// The name with the identifier of `run`; where the identifier is a time, which differs from file to
/// file, the nearest one.
fn pick<'n>(names: &'n [String], prefix: &str, suffix: &str, run: &Run) -> Option<&'n String> {
    let ident = |name: &'n String| name.strip_prefix(prefix)?.strip_suffix(suffix);
    let wanted = match run.level {
        Level::Copy => Some("copy"),
        // virtnbdbackup's increments of a stopped domain bear their parent's name.
        Level::Inc => run.checkpoint.as_deref().or(run.streams.first().and_then(|stream| stream.base.as_deref())),
        _ => run.checkpoint.as_deref(),
    }
    .unwrap_or_default();
    if let Some(name) = names.iter().find(|name| ident(name) == Some(wanted)) {
        return Some(name);
    }
    let time = run.streams.iter().find_map(|stream| DataName::parse(&stream.file)?.ident.parse::<i64>().ok());
    let time = time.unwrap_or_else(|| run.started.timestamp().as_second());
    let timed = names.iter().filter_map(|name| Some((ident(name)?.parse::<i64>().ok()?, name)));
    timed.min_by_key(|(other, _)| other.abs_diff(time)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::catalogue::Stream;

    #[test]
    fn names_are_picked_by_checkpoint_and_by_time() {
        let names =
            ["vmconfig.virtnbdbackup.1.xml", "vmconfig.virtnbdbackup.11.xml", "vmconfig.100.xml", "vmconfig.200.xml"]
                .map(str::to_owned);
        let mut run = Run {
            id: String::new(),
            level: Level::Inc,
            checkpoint: Some("virtnbdbackup.1".into()),
            started: jiff::Timestamp::from_second(190).unwrap().to_zoned(jiff::tz::TimeZone::UTC),
            streams: vec![],
            manifest: None,
        };
        assert_eq!(pick(&names, "vmconfig.", ".xml", &run).unwrap(), &names[0]);
        run.level = Level::Diff;
        run.checkpoint = None;
        assert_eq!(pick(&names, "vmconfig.", ".xml", &run).unwrap(), &names[3]);
        assert_eq!(pick(&names, "vda.", ".xml", &run), None);
        run.level = Level::Inc;
        run.streams = vec![offline_stream("virtnbdbackup.11")];
        assert_eq!(pick(&names, "vmconfig.", ".xml", &run).unwrap(), &names[1]);
    }

    fn offline_stream(base: &str) -> Stream {
        Stream {
            target: "vda".into(),
            file: format!("vda.inc.{base}.data"),
            base: Some(base.into()),
            base_run: None,
            virtual_size: 1,
            data_size: 1,
            stored_size: 1,
            raw: false,
            raw_disk: false,
        }
    }
}
