//! Raw images in virtnbdbackup's sets. They have no head, no sum, and a name like that of any copy: what the
//! disk was, its domain's XML and image information tell.
//!
//! | `DISK.copy.data` without a sum | is |
//! |---|---|
//! | the XML says that the disk is raw (`-r`) | its image |
//! | no head; as long as the disk, which is qcow2 (`-t raw`) | its image; `DISK.full.data` can be one, too |
//! | anything else without a head | a problem of the set |

use crate::error::{Result, report};
use crate::libvirt::domain_xml::{Disk, DomainConfig};
use crate::qemu::img::ImageInfo;
use crate::set::Level;
use crate::set::catalogue::{Catalogue, Run, Stream};
use crate::set::config::MAX_SIZE;
use crate::set::files::Files;
use crate::set::layout::{CHKSUM, DataName, checkpoint_name, index_name};

/// What a set holds, raw images of virtnbdbackup included.
///
/// # Errors
/// As for [`Catalogue::open`].
pub fn open_set(files: impl Into<Files>) -> Result<Catalogue> {
    let mut catalogue = Catalogue::open(files)?;
    let names = catalogue.files.names()?;
    let has = |name: &str| names.iter().any(|known| known == name);
    let (mut copies, mut ident) = (Vec::new(), None);
    for name in names.iter().filter(|name| !has_sum(&catalogue, name)) {
        if let Some(parsed) = DataName::parse(name).filter(|parsed| !parsed.level.needs_base()) {
            if catalogue.record_of(name).is_none() {
                copies.push((name.clone(), parsed));
            }
        }
    }
    // virtnbdbackup writes them in a full or in a copy, and has one of these in a directory.
    for known in ["copy".to_owned(), checkpoint_name(0)] {
        if ident.is_none() && has(&format!("vmconfig.{known}.xml")) {
            ident = Some(known);
        }
    }
    let (false, Some(ident)) = (copies.is_empty(), ident) else { return Ok(catalogue) };
    if catalogue.run_of_checkpoint(&ident).is_some_and(|run| run.manifest.is_some()) {
        return Ok(catalogue);
    }
    let Some(config) = domain(&catalogue, &ident) else { return Ok(catalogue) };
    for (file, name) in copies {
        let is_raw = config.disk(&name.target).is_some_and(Disk::is_raw);
        // Raw disks are copies in a full, too.
        let fits = name.level == Level::Copy || (ident != "copy" && !is_raw);
        if let Some(size) = image_size(&catalogue, &config, &ident, &file, &name.target).filter(|_| fits) {
            let stream = Stream {
                target: name.target,
                file,
                base: None,
                base_run: None,
                virtual_size: size,
                data_size: size,
                stored_size: size,
                raw: true,
                raw_disk: is_raw,
            };
            adopt(&mut catalogue, &ident, stream);
        }
    }
    Ok(catalogue)
}

/// Whether there is a sum of the file; in a zip file virtnbdbackup writes that there is none.
fn has_sum(catalogue: &Catalogue, name: &str) -> bool {
    let sum = format!("{name}{CHKSUM}");
    catalogue.files.file(&sum).is_ok_and(|file| file.exists())
        && small_file(catalogue, &sum).is_none_or(|text| text.trim() != "None")
}

fn domain(catalogue: &Catalogue, ident: &str) -> Option<DomainConfig> {
    let text = small_file(catalogue, &format!("vmconfig.{ident}.xml"))?;
    DomainConfig::parse(&text).inspect_err(|error| tracing::debug!("vmconfig.{ident}.xml: {}", report(error))).ok()
}

fn small_file(catalogue: &Catalogue, name: &str) -> Option<String> {
    let content = catalogue.files.file(name).ok()?.read(MAX_SIZE).ok()?;
    String::from_utf8(content).ok()
}

/// The size of the raw image in `file`, if it is one.
fn image_size(catalogue: &Catalogue, config: &DomainConfig, ident: &str, file: &str, target: &str) -> Option<u64> {
    let size = catalogue.files.file(file).ok()?.size().ok()?;
    // One of ours, whose manifest is missing.
    if catalogue.files.file(&index_name(file)).ok()?.exists() {
        return None;
    }
    if config.disk(target)?.is_raw() {
        // Whatever it begins with: that is the guest's.
        return Some(size);
    }
    let is_headless = catalogue.problems.iter().any(|problem| problem.file == file);
    let info = small_file(catalogue, &format!("{target}.{ident}.qcow.json"))?;
    let info = ImageInfo::parse(&info).ok()?;
    (is_headless && info.virtual_size == size).then_some(size)
}

/// Makes the image part of its run; a copy may have no other disk.
fn adopt(catalogue: &mut Catalogue, ident: &str, stream: Stream) {
    let file = &stream.file;
    catalogue.problems.retain(|problem| problem.file != *file);
    for run in &mut catalogue.runs {
        run.streams.retain(|known| known.file != *file);
    }
    catalogue.runs.retain(|run| !run.streams.is_empty());
    let is_its_run = |run: &&mut Run| run.manifest.is_none() && run.id == ident;
    match catalogue.runs.iter_mut().find(is_its_run) {
        Some(run) => run.streams.push(stream),
        None => {
            let level = if ident == "copy" { Level::Copy } else { Level::Full };
            let checkpoint = (level == Level::Full).then(|| ident.to_owned());
            let run = Run {
                id: ident.to_owned(),
                level,
                checkpoint,
                started: modified(catalogue, &stream.file),
                streams: vec![stream],
                manifest: None,
            };
            catalogue.insert(run);
        }
    }
}

/// When the file was written, the only time that such an image has.
fn modified(catalogue: &Catalogue, file: &str) -> jiff::Zoned {
    let stored = catalogue.files.file(file).ok();
    let time = stored.and_then(|file| file.path().metadata().ok()?.modified().ok());
    let time = time.and_then(|time| jiff::Timestamp::try_from(time).ok()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.to_zoned(jiff::tz::TimeZone::system())
}
