//! Which disks of the domain a run copies, and why it leaves the others out.

use std::path::{Path, PathBuf};

use anyhow::Result;
use uuid::Uuid;

use super::phrases;
use super::way::Way;
use crate::cli::backup::{Backup, Excluded, LevelArg};
use crate::error::{self, Error, Kind};
use crate::host::Host;
use crate::libvirt::domain::Domain;
use crate::libvirt::domain_xml::{Device, Disk, DomainConfig};
use crate::phrases::OWN;
use crate::qemu::img::{self, ImageInfo};
use crate::set::Level;
use crate::set::catalogue::{Catalogue, Run};
use crate::set::config;
use crate::set::manifest::{Role, Skipped};
use crate::side_by_side;

/// A disk to copy.
#[derive(Debug)]
pub struct Selected {
    /// As the domain has it.
    pub disk: Disk,
    /// Path of its image on the domain's host.
    pub image: PathBuf,
    /// What the image is; none where that can't be found out.
    pub info: Option<ImageInfo>,
    /// It is copied as a raw image.
    pub raw: bool,
}

impl Selected {
    /// The size that the guest sees.
    ///
    /// # Errors
    /// By libvirt's code; of a domain that is off [`Kind::Io`] where the image can't be looked at.
    pub fn size(&self, domain: &Domain, way: Way) -> Result<u64> {
        Ok(match way {
            Way::Job => domain.disk_size(&self.disk.target)?,
            Way::Images => self.known()?.virtual_size,
        })
    }

    /// The bytes that it takes on its host.
    ///
    /// # Errors
    /// As for [`Selected::size`].
    pub fn allocation(&self, domain: &Domain, way: Way) -> Result<u64> {
        Ok(match way {
            Way::Job => domain.disk_allocation(&self.disk.target)?,
            Way::Images => {
                let info = self.known()?;
                info.actual_size.unwrap_or(info.virtual_size)
            }
        })
    }

    /// libvirt can't look into the image of a volume while the domain is off.
    fn known(&self) -> Result<&ImageInfo> {
        let unknown = || {
            Error::new(Kind::Io, "its image can't be looked at, and the domain is off")
                .hint("run it as a user who may read and write the images; -S reads them through QEMU instead")
        };
        Ok(self.info.as_ref().ok_or_else(|| unknown().path(&self.image).disk(&self.disk.target))?)
    }
}

/// The disks of a domain, sorted.
#[derive(Debug)]
pub struct Selection {
    /// To copy.
    pub disks: Vec<Selected>,
    /// Left out although nobody said so.
    pub skipped: Vec<Skipped>,
    /// All targets that are not copied.
    pub others: Vec<String>,
    /// A disk was left out that should be in the backup: not removable, or named.
    pub missed: bool,
}

impl Selection {
    /// Applies `-i`, `-x` and what can be backed up at all.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for a disk that the domain does not have, [`Kind::Unsupported`] where nothing
    /// is left to copy.
    pub fn of(args: &Backup, domain: &Domain, config: &DomainConfig) -> Result<Self> {
        refuse_unknown(args, config)?;
        let mut selection = Self { disks: Vec::new(), skipped: Vec::new(), others: Vec::new(), missed: false };
        let is_asked = |disk: &Disk| {
            let included = args.include.is_empty() || args.include.contains(&disk.target);
            included && !args.exclude.contains(&disk.target)
        };
        let eligibility = |disk: &Disk| if args.raw { disk.raw_eligibility() } else { disk.eligibility() };
        let look = |disk: &Disk| domain.image(disk).map(|image| (info(domain.host(), disk, &image), image));
        let looked = side_by_side::map(&config.disks, img::LOOKS, |disk| {
            (is_asked(disk) && eligibility(disk).is_ok()).then(|| look(disk))
        })?;
        for (disk, looked) in config.disks.iter().zip(looked) {
            if !is_asked(disk) {
                tracing::info!(target: OWN, "Excluding disk [{}]: as asked", disk.target);
                phrases::not_wanted(args, &disk.target);
                selection.others.push(disk.target.clone());
            } else if let Err(skip) = eligibility(disk) {
                selection.skip(args, disk, &skip.reason, &skip.remedy);
            } else if let Some(looked) = looked {
                let (info, image) = looked?;
                selection.add(args, disk, image, known(disk, info));
            }
        }
        selection.refuse_empty(config)?;
        Ok(selection)
    }

    fn add(&mut self, args: &Backup, disk: &Disk, image: PathBuf, info: Option<ImageInfo>) {
        let raw = disk.is_raw();
        if !raw && args.level != LevelArg::Copy && info.as_ref().is_some_and(ImageInfo::is_qcow2_version_2) {
            let remedy = format!(
                "`qemu-img amend -o compat=1.1 {}` makes it version 3 while the domain is off, -l copy works as it is",
                image.display()
            );
            self.skip(args, disk, "its qcow2 image is of version 2, which can't keep a bitmap", &remedy);
        } else {
            self.disks.push(Selected { disk: disk.clone(), image, info, raw });
        }
    }

    /// # Errors
    /// [`Kind::Unsupported`] where nothing is left to copy.
    fn refuse_empty(&self, config: &DomainConfig) -> Result<()> {
        if !self.disks.is_empty() {
            return Ok(());
        }
        let hint = if self.skipped.is_empty() {
            "-i and -x leave none of its disks"
        } else {
            "the lines above say why each disk was left out, and what to do"
        };
        let message = format!("domain {} has no disk to back up", config.name);
        phrases::no_disks();
        Err(Error::unsupported(message).hint(hint).into())
    }

    /// Sorts raw disks out that a run of this level can't have: they keep no bitmap, so an increment of one
    /// does not exist, and a chain can't begin with them alone.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] where nothing is left to copy.
    pub fn for_level(
        mut self,
        args: &Backup,
        level: Level,
        catalogue: &Catalogue,
        config: &DomainConfig,
    ) -> Result<Self> {
        if level == Level::Full && self.disks.iter().all(|selected| selected.raw) {
            let message = format!("domain {} has raw disks alone: no chain can begin with them", config.name);
            return Err(Error::unsupported(message).hint("-l copy copies them as they are").into());
        }
        if level.needs_base() {
            let (raw, others): (Vec<_>, Vec<_>) = self.disks.into_iter().partition(|selected| selected.raw);
            self.disks = others;
            for Selected { disk, .. } in raw {
                self.leave_out(args, &disk, level, catalogue);
            }
            self.refuse_empty(config)?;
        }
        Ok(self)
    }

    /// Leaves a raw disk out of an increment. That is what -r means there, as long as some run of the set has it.
    fn leave_out(&mut self, args: &Backup, disk: &Disk, level: Level, catalogue: &Catalogue) {
        let target = &disk.target;
        let mut runs = catalogue.runs.iter().rev();
        let newest = runs.find(|run| run.stream(target).is_some_and(|stream| stream.raw_disk));
        let reason = match newest {
            Some(run) => format!(
                "it is raw and not part of an {level} run; its newest image in the set is of {} (run {})",
                run.started.strftime("%Y-%m-%d %H:%M:%S"),
                run.id
            ),
            None => format!("it is raw and not part of an {level} run, and no run of the set has it"),
        };
        if newest.is_some() && !args.include.contains(target) {
            tracing::info!("Excluding disk [{target}]: {reason}");
            self.skipped.push(Skipped { target: target.clone(), reason });
            self.others.push(target.clone());
        } else {
            self.skip(args, disk, &reason, "copy it with -l copy -r into a directory of its own");
        }
    }

    fn skip(&mut self, args: &Backup, disk: &Disk, reason: &str, remedy: &str) {
        // Removable media are not expected in a backup; a disk with data is.
        let removable = matches!(disk.device, Device::Cdrom | Device::Floppy);
        if removable && !args.include.contains(&disk.target) {
            tracing::info!(target: OWN, "Excluding disk [{}]: {reason}", disk.target);
            phrases::removable(disk);
        } else {
            phrases::unsuitable(disk, reason, remedy);
            tracing::warn!(
                target: OWN,
                "Excluding disk [{}]: {reason}; {remedy}, or leave it out with -x {}",
                disk.target,
                disk.target
            );
            self.missed = true;
        }
        self.skipped.push(Skipped { target: disk.target.clone(), reason: reason.to_owned() });
        self.others.push(disk.target.clone());
    }
}

/// Refuses a disk that was named and is not there. One that is to be left out anyhow, and was not named for this domain
/// alone, is left out.
fn refuse_unknown(args: &Backup, config: &DomainConfig) -> Result<()> {
    let exists = |target: &String| config.disks.iter().any(|disk| disk.target == *target);
    if args.excluded == Excluded::Any {
        for target in args.exclude.iter().filter(|target| !exists(target)) {
            tracing::info!("exclude of the configuration: domain {} has no disk {target:?}", config.name);
        }
    }
    let excluded = args.exclude.iter().filter(|_| args.excluded == Excluded::Domain && !args.classic.any_exclude);
    match args.include.iter().chain(excluded).find(|target| !exists(target)) {
        None => Ok(()),
        Some(unknown) => {
            phrases::no_disks();
            let targets: Vec<&str> = config.disks.iter().map(|disk| disk.target.as_str()).collect();
            Err(Error::new(Kind::NotFound, format!("domain {} has no disk {unknown:?}", config.name))
                .hint(format!("its disks are {}", targets.join(", ")))
                .into())
        }
    }
}

fn info(host: &Host, disk: &Disk, image: &Path) -> error::Result<ImageInfo> {
    // Never guessed from the content of a raw image, which is the guest's.
    if disk.is_raw() { img::info_as(host, image, "raw") } else { img::info(host, image) }
}

/// What the image is. Without that a restore has to take defaults; of a raw image there is nothing to take.
fn known(disk: &Disk, info: error::Result<ImageInfo>) -> Option<ImageInfo> {
    let told = info.inspect_err(|error| {
        if !disk.is_raw() {
            tracing::warn!(
                "{}: the image's options are not saved, a restore uses defaults: {}",
                disk.target,
                error::report(error)
            );
        }
    });
    told.ok()
}

/// A directory belongs to one domain.
///
/// # Errors
/// [`Kind::Busy`], naming both.
pub fn refuse_other_domain(catalogue: &Catalogue, uuid: Uuid) -> Result<()> {
    for run in &catalogue.runs {
        let Some((owner, name)) = owner(catalogue, run) else { continue };
        if owner != uuid {
            return Err(Error::new(Kind::Busy, format!("holds backups of another domain: {name} ({owner})"))
                .path(catalogue.files.place())
                .hint("every domain needs a directory of its own: choose another with -o")
                .into());
        }
    }
    Ok(())
}

/// The domain of a run: of virtnbdbackup's by the domain XML beside it.
pub fn owner(catalogue: &Catalogue, run: &Run) -> Option<(Uuid, String)> {
    if let Some(manifest) = &run.manifest {
        return Some((manifest.domain_uuid, manifest.domain.clone()));
    }
    let files = config::files(catalogue, run).ok()?;
    let xml = files.iter().find(|file| file.role == Role::DomainXml)?.read().ok()?;
    let config = DomainConfig::parse(std::str::from_utf8(&xml).ok()?).ok()?;
    Some((Uuid::parse_str(&config.uuid?).ok()?, config.name))
}
