//! Where a restore reads from: a point of a set, or streams named one by one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use super::older_raw::Older;
use super::{foreign, phrases, sequence};
use crate::chain_device::ChainDevice;
use crate::cli::read::Restore;
use crate::commands::{Session, foreign_raw, whole};
use crate::error::{self, Error, Kind};
use crate::libvirt::domain_xml::DomainConfig;
use crate::pipeline::Progress;
use crate::qemu::img::ImageInfo;
use crate::set::catalogue::{Catalogue, Run, Stream};
use crate::set::chain;
use crate::set::config::{self, ConfigFile};
use crate::set::files::Files;
use crate::set::manifest::Role;
use crate::stored::StoredFile;
use crate::stream::reader::{Opening, Proof};
use crate::units::{count, format_bytes};

/// What is restored.
#[derive(Debug)]
pub enum Source {
    /// A restore point of a set.
    Point {
        /// The set.
        catalogue: Catalogue,
        /// The point.
        point: Box<Run>,
        /// The point's configuration.
        files: Vec<ConfigFile>,
    },
    /// These files, the full first.
    Sequence(Vec<StoredFile>),
}

impl Source {
    /// Finds what the options name.
    pub fn open(args: &Restore) -> Result<Self> {
        if !args.sequence.is_empty() {
            return Ok(Self::Sequence(sequence::files(&args.input, &args.sequence)?));
        }
        let catalogue = open_set(&args.input)?;
        let point = chain::find_point(&catalogue, args.until.as_deref())?.clone();
        whole::check(&catalogue, &point, &args.disk)?;
        if args.until.is_none() {
            for checkpoint in whole::vanished(&catalogue)? {
                tracing::warn!("{checkpoint}: the set has its configuration, but no data: is a file missing?");
            }
        }
        Self::of_point(catalogue, point)
    }

    /// A point of a set with its configuration.
    ///
    /// # Errors
    /// What is wrong with the files of the set.
    pub fn of_point(catalogue: Catalogue, point: Run) -> Result<Self> {
        let mut files = config::files(&catalogue, &point)?;
        if let Some(xml) = files.iter().find(|file| file.role == Role::DomainXml) {
            phrases::using_config(xml.file.path());
        }
        if point.manifest.is_none() {
            files.extend(foreign::files(&catalogue.files, &files)?);
        }
        Ok(Self::Point { catalogue, point: Box::new(point), files })
    }

    /// The source in words.
    pub fn describe(&self) -> String {
        match self {
            Self::Point { point, .. } => {
                let when = point.started.strftime("%Y-%m-%d %H:%M:%S");
                let checkpoint = point.checkpoint.as_deref().map(|name| format!(", {name}")).unwrap_or_default();
                format!("the {} backup of {when}{checkpoint} (run {})", point.level, point.id)
            }
            Self::Sequence(files) => format!("a sequence of {}", count(files.len(), "stream")),
        }
    }

    /// The chains of the disks asked for.
    ///
    /// # Errors
    /// Where one is not whole; [`Kind::NotFound`] for a disk that the point does not have.
    pub fn chains(&self, args: &Restore, session: &Session, older: &[Older<'_>]) -> Result<Vec<ChainDevice>> {
        let chains = match self {
            Self::Point { catalogue, point, .. } => {
                let mut places: Vec<(&Run, &str)> =
                    point.streams.iter().map(|stream| (&**point, stream.target.as_str())).collect();
                if args.older_raw {
                    places.extend(older.iter().map(|older| (older.run, older.target)));
                }
                if let Some(unknown) = args.disk.iter().find(|disk| places.iter().all(|(_, target)| target != disk)) {
                    let targets: Vec<&str> = places.iter().map(|(_, target)| *target).collect();
                    let hint = match older.iter().find(|older| older.target == unknown) {
                        Some(older) => older.remedy(),
                        None => format!("it has {}", targets.join(", ")),
                    };
                    return Err(Error::new(Kind::NotFound, format!("the restore point has no disk {unknown:?}"))
                        .path(catalogue.files.place())
                        .hint(hint)
                        .into());
                }
                let is_wanted = |target: &str| args.disk.is_empty() || args.disk.iter().any(|disk| disk == target);
                let wanted = places.into_iter().filter(|(_, target)| is_wanted(target));
                let open = |(run, target)| open_chain(catalogue, run, target, session);
                wanted.map(open).collect::<error::Result<Vec<_>>>()?
            }
            Self::Sequence(files) => vec![sequence::open(files, session)?],
        };
        session.cancel.check()?;
        tell_unproven(&chains);
        Ok(chains)
    }

    /// The point's configuration; none of a sequence.
    pub fn files(&self) -> &[ConfigFile] {
        match self {
            Self::Point { files, .. } => files,
            Self::Sequence(_) => &[],
        }
    }

    /// The domain's XML and what it says; none where the set has none.
    pub fn domain(&self) -> error::Result<Option<(String, DomainConfig)>> {
        let Some(file) = self.files().iter().find(|file| file.role == Role::DomainXml) else { return Ok(None) };
        let content = file.read()?;
        let text = String::from_utf8(content)
            .map_err(|error| Error::corrupt("not text").path(file.file.path()).caused_by(error))?;
        let config = DomainConfig::parse(&text).map_err(|error| error.path(file.file.path()))?;
        Ok(Some((text, config)))
    }

    /// Paths of the disks' images on the domain's host, by target.
    pub fn original_images(&self) -> BTreeMap<String, PathBuf> {
        let mut images = BTreeMap::new();
        if let Self::Point { point, .. } = self {
            for disk in point.manifest.iter().flat_map(|manifest| &manifest.disks) {
                images.insert(disk.target.clone(), PathBuf::from(&disk.image));
            }
        }
        // virtnbdbackup's sets tell it in the domain's XML; a volume only in the image's information.
        if let Ok(Some((_, domain))) = self.domain() {
            for disk in domain.disks {
                if let Some(path) = disk.source.path() {
                    images.entry(disk.target).or_insert_with(|| path.clone());
                }
            }
        }
        for file in self.files().iter().filter(|file| file.role == Role::ImageInfo) {
            let name = file.read().ok().and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok());
            let name = name.as_ref().and_then(|info| info.get("filename")?.as_str()).map(PathBuf::from);
            if let (Some(target), Some(name)) = (&file.disk, name) {
                images.entry(target.clone()).or_insert(name);
            }
        }
        images
    }

    /// The options of a disk's image.
    pub fn image_info(&self, target: &str) -> error::Result<Option<ImageInfo>> {
        let is_it = |file: &&ConfigFile| file.role == Role::ImageInfo && file.disk.as_deref() == Some(target);
        let Some(file) = self.files().iter().find(is_it) else { return Ok(None) };
        let json = file.read()?;
        let json = String::from_utf8_lossy(&json);
        Ok(Some(ImageInfo::parse(&json).map_err(|error| error.path(file.file.path()))?))
    }
}

/// Runs `open`, showing how much of `total` bytes it has read; without any nothing is shown.
pub fn watched<T>(
    session: &Session,
    name: &str,
    total: u64,
    open: impl FnOnce(Opening<'_>) -> error::Result<T>,
) -> error::Result<T> {
    let opening = Opening { progress: &|_| (), cancel: &session.cancel, cache: session.cache.as_ref() };
    if total == 0 {
        return open(opening);
    }
    tracing::info!("{name}: reading {} once, which have no index", format_bytes(total));
    let meter = session.display.meter(name, total);
    open(Opening { progress: &|bytes| meter.advance(bytes), ..opening })
}

/// The bytes that are read to open that stream: none where it has an index, or its table is kept.
pub fn opening_bytes(catalogue: &Catalogue, stream: &Stream, session: &Session) -> u64 {
    if stream.raw || catalogue.record_of(&stream.file).is_some() {
        return 0;
    }
    let is_kept = |file: &StoredFile| session.cache.as_ref().is_some_and(|cache| cache.knows(file));
    if catalogue.stream_file(stream).is_ok_and(|file| is_kept(&file)) { 0 } else { stream.stored_size }
}

/// Opens a set to read disks from, and says what is wrong with it.
///
/// # Errors
/// As for [`foreign_raw::open_set`]; where its data is somewhere else.
pub fn open_set(input: &[PathBuf]) -> error::Result<Catalogue> {
    let catalogue = foreign_raw::open_set(Files::open(input)?)?.with_data()?;
    for problem in &catalogue.problems {
        tracing::warn!("{}", error::report(&problem.error));
    }
    Ok(catalogue)
}

/// Says which streams have nothing that proves them.
pub fn tell_unproven(chains: &[ChainDevice]) {
    for layer in chains.iter().flat_map(ChainDevice::layers) {
        if layer.proof() == Proof::Unproven {
            tracing::warn!("{}: there is no checksum for it: its content is unproven", layer.path().display());
        }
    }
}

/// Opens a chain; virtnbdbackup's streams are read as a whole for that.
pub fn open_chain(catalogue: &Catalogue, point: &Run, target: &str, session: &Session) -> error::Result<ChainDevice> {
    let streams = chain::resolve(catalogue, point, target)?;
    let total = streams.iter().map(|stream| opening_bytes(catalogue, stream, session)).sum();
    watched(session, target, total, |opening| ChainDevice::open_as(catalogue, point, target, opening))
}
