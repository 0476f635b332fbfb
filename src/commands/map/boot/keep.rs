//! A domain that runs from a map becomes a machine of its own: its disks are copied while it runs, and it goes on with
//! the copies. With the map's `--copy-to` at once, by `virtkeep unmap --copy-to` at any time.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use super::copy::{self, Unfinished};
use super::files::Removed;
use super::guard::Orders;
use super::guest::{Guest, PATIENCE};
use super::request::{Order, Request};
use super::{images, place_of, refuse_set};
use crate::cancel::Cancel;
use crate::commands::Session;
use crate::error::{self, Error, Kind, Result};
use crate::libvirt::domain_xml::moved;
use crate::set::layout::write_with_mode;

/// A domain's XML is for root and its owner: it can hold passwords.
const MODE: u32 = 0o600;

impl Guest {
    /// Copies the disks to where the map's options say, lets the domain go on with the copies, and, with `define`,
    /// defines it.
    ///
    /// # Errors
    /// Where a copy fails, or the domain ends before: the copies are removed with the domain. Once it runs from
    /// them alone it stays, also where it can't be defined.
    pub fn hand_over(&mut self, define: bool, session: &Session, stop: &Cancel) -> Result<()> {
        let images = std::mem::take(&mut self.images);
        let targets: Vec<&str> = images.iter().map(|(target, _)| target.as_str()).collect();
        let mut progress = session.display.follow(&targets.join(", "));
        let changed = self.change_over(&images, stop, &mut |done, total| {
            progress.at(done, total);
            Ok(())
        });
        changed.map_err(|unfinished| unfinished.error)?;
        drop(progress);
        self.files.keep();
        self.let_go();
        for line in told(&images) {
            tracing::info!("{line}");
        }
        let said = if define {
            let reached = self.link.reach_within(PATIENCE, stop)?;
            self.define(&reached.xml(true)?)?
        } else {
            format!(
                "domain {} runs from these images, and is forgotten when it ends: `virsh dumpxml --inactive {} >x.xml; \
                 virsh define x.xml` keeps it",
                self.name, self.name
            )
        };
        tracing::info!("{said}");
        Ok(())
    }

    /// Does what `virtkeep unmap --copy-to` asks for; whether that is done, and the map can end. Otherwise the domain
    /// runs from the map as before.
    pub(super) fn obey(&mut self, mut request: Request, stop: &Cancel) -> bool {
        let order = request.order.clone();
        tracing::info!("asked to copy the disks of {} to {}", self.name, order.copy_to.display());
        let kept = self.keep(&order, stop, &mut |done, total| request.copied(done, total));
        match &kept {
            Ok(said) => said.iter().for_each(|line| tracing::info!("{line}")),
            Err(error) => tracing::warn!("domain {} still runs from the map: {}", self.name, error::report(error)),
        }
        request.end(&kept);
        self.is_over
    }

    fn keep(
        &mut self,
        order: &Order,
        stop: &Cancel,
        tell: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Vec<String>> {
        let place = place_of(&order.copy_to)?;
        refuse_set(&self.sets, &place)?;
        let images = images(&place, &self.name, &self.disks)?;
        let moves = self.firmware.iter().map(|old| Ok((old.clone(), new_place(old, &place)?)));
        let moves = moves.collect::<Result<Vec<_>>>()?;
        let images_made = images.iter().map(|(_, path)| path.clone());
        let made: Vec<PathBuf> = images_made.chain(moves.iter().map(|(_, new)| new.clone())).collect();
        // Before they are there.
        self.order(self.orders.with(&made))?;
        let mut made = Removed(made);
        let copied = moves.iter().try_for_each(|(old, new)| copy_file(old, new));
        let changed = copied.map_err(|error| Unfinished { error, used: 0 });
        let changed = changed.and_then(|()| self.change_over(&images, stop, tell));
        if let Err(unfinished) = changed {
            let used = &images[..unfinished.used];
            made.0.retain(|path| !used.iter().any(|(_, image)| image == path));
            drop(made);
            self.order(self.orders.clone())?;
            return Err(match used {
                [] => unfinished.error,
                used => unfinished.error.hint(format!(
                    "{} of its disks are copies already: {}",
                    used.len(),
                    told(used).join(", ")
                )),
            });
        }
        made.keep();
        self.let_go();
        let mut said = told(&images);
        said.push(self.settle(order.define, &place, &moves)?);
        Ok(said)
    }

    /// Defines the domain, or leaves what defines it.
    fn settle(&self, define: bool, place: &Path, moves: &[(PathBuf, PathBuf)]) -> Result<String> {
        // It is out of danger: a signal must not keep us from this.
        let reached = self.link.reach_within(PATIENCE, &Cancel::new())?;
        let text = moved(&reached.xml(true)?, moves)?;
        if define {
            return self.define(&text);
        }
        let path = place.join(format!("{}.xml", self.name.replace('/', "_")));
        write_with_mode(&path, text.as_bytes(), MODE)?;
        Ok(format!(
            "domain {} runs from these images, and is forgotten when it ends: `virsh define {}` keeps it",
            self.name,
            path.display()
        ))
    }

    fn define(&self, text: &str) -> Result<String> {
        let reached = self.link.reach_within(PATIENCE, &Cancel::new())?;
        reached.connection.define(text).map_err(|error| {
            error.hint(format!(
                "domain {} runs from its images: `virsh dumpxml --inactive` and define it by hand",
                self.name
            ))
        })?;
        Ok(format!("domain {} runs from these images, and is defined", self.name))
    }

    fn change_over(
        &mut self,
        images: &[(String, PathBuf)],
        stop: &Cancel,
        tell: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<(), Unfinished> {
        copy::copy(&self.link, images, stop, tell).map_err(|unfinished| {
            if unfinished.error.kind() != Kind::Cancelled && self.is_gone() {
                let message = format!("domain {} ended before its disks were copied", self.name);
                let error = Error::new(Kind::NotFound, message).hint("the copies are removed; boot it again");
                return Unfinished { error: error.caused_by(unfinished.error), used: 0 };
            }
            unfinished
        })
    }

    /// From here on the domain needs nothing of ours. A guard that died has nothing left to undo.
    fn let_go(&mut self) {
        self.is_over = true;
        if let Err(error) = self.order(Orders::default()) {
            tracing::debug!("the guard is gone: {}", error::report(&error));
        }
        self.guard = None;
    }

    fn order(&mut self, orders: Orders) -> Result<()> {
        self.guard.as_mut().map_or(Ok(()), |guard| guard.order(&orders))
    }
}

fn told(images: &[(String, PathBuf)]) -> Vec<String> {
    images.iter().map(|(target, path)| format!("{target}: {}", path.display())).collect()
}

/// Where a file of the firmware's goes.
fn new_place(old: &Path, place: &Path) -> Result<PathBuf> {
    let new = place.join(old.file_name().unwrap_or_default());
    match new.symlink_metadata() {
        Ok(_) => {
            Err(Error::new(Kind::Busy, "exists already").path(new).hint("choose another directory with --copy-to"))
        }
        Err(_) => Ok(new),
    }
}

/// The same file in another place, where that can be: QEMU goes on writing to it. Else a copy with the same owner.
fn copy_file(old: &Path, new: &Path) -> Result<()> {
    if std::fs::hard_link(old, new).is_ok() {
        return Ok(());
    }
    let metadata = old.metadata().map_err(|error| Error::io("open", error).path(old))?;
    std::fs::copy(old, new).map_err(|error| Error::io("copy the domain's file", error).path(new))?;
    // Root alone can give it away; for others it is theirs.
    let _ = chown(new, Some(metadata.uid()), Some(metadata.gid()));
    tracing::debug!("{} is a copy of {}", new.display(), old.display());
    Ok(())
}
