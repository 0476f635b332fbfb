//! Everything that is looked at, read once: nothing here changes anything, and it works beside a backup
//! that runs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use uuid::Uuid;

use super::names::shell;
use crate::cli::doctor::Doctor;
use crate::commands::backup::base::{is_of_run, is_of_set};
use crate::commands::backup::disks;
use crate::commands::backup::marker;
use crate::commands::backup::old_chain::ended_by;
use crate::commands::backup::plan::{DESCRIPTION, domain_uuid};
use crate::error::{Error, report};
use crate::libvirt::backup_job::{self, ActiveJob};
use crate::libvirt::block_nodes::{self, Condition, DiskBitmaps};
use crate::libvirt::checkpoint::{self, Checkpoint};
use crate::libvirt::domain::{DiskError, Domain, State};
use crate::libvirt::domain_xml::DomainConfig;
use crate::libvirt::images::Images;
use crate::proc_locks;
use crate::set::catalogue::{Catalogue, Run};
use crate::set::dropped;
use crate::set::intent::Intent;
use crate::set::job_files;
use crate::set::layout::{Layout, checkpoint_position};
use crate::set::lock;

/// The domain, and the set if one was named.
pub struct Facts<'f> {
    /// As typed.
    pub args: &'f Doctor,
    /// The domain.
    pub domain: &'f Domain,
    /// Its UUID.
    pub uuid: Uuid,
    /// Whether it has a process.
    pub active: bool,
    /// What it does.
    pub state: State,
    /// Disks that met an error.
    pub disk_errors: Vec<(String, DiskError)>,
    /// Its configuration.
    pub config: DomainConfig,
    /// Its job.
    pub job: ActiveJob,
    /// The checkpoints that libvirt knows.
    pub known: Vec<Checkpoint>,
    /// The bitmaps of its disks, or why they can't be known.
    pub bitmaps: std::result::Result<Vec<DiskBitmaps>, String>,
    /// The set.
    pub set: Option<SetFacts>,
}

/// A set.
pub struct SetFacts {
    /// Its names.
    pub layout: Layout,
    /// Its runs.
    pub catalogue: Catalogue,
    /// Records of runs that are not over, or why they can't be read.
    pub intents: std::result::Result<Vec<Intent>, Error>,
    /// Whether another process writes to it, where that can be known.
    pub in_use: Option<bool>,
    /// The run that ended its chain.
    pub ended: Option<String>,
    /// Ids of the runs whose checkpoints were removed on purpose.
    pub dropped: BTreeSet<String>,
    /// It holds backups of another domain.
    pub other_domain: Option<Error>,
}

/// Whose a checkpoint is.
#[derive(Debug)]
pub enum Owner<'f> {
    /// A committed run of the set.
    Run(&'f Run),
    /// A run of the set that is not committed.
    Unfinished(&'f Intent),
    /// Another chain: its description, if virtkeep made it.
    OtherChain(Option<&'f str>),
    /// Nobody: a marker that a crash left in libvirt's list, where it is for a moment only.
    Marker,
    /// Another tool.
    Foreign,
}

impl<'f> Facts<'f> {
    /// Looks at everything. `we_hold_the_set`: its lock is ours.
    ///
    /// # Errors
    /// Where the domain or the set can't be read.
    pub fn gather(
        args: &'f Doctor,
        domain: &'f Domain,
        layout: Option<&Layout>,
        we_hold_the_set: bool,
    ) -> Result<Self> {
        let uuid = domain_uuid(domain)?;
        let config = DomainConfig::parse(&domain.xml(false)?)?;
        let active = domain.is_active()?;
        let bitmaps = match Images::of_stopped(domain)? {
            Some(images) => images.into_bitmaps(),
            None => block_nodes::of_running(domain),
        };
        Ok(Self {
            args,
            domain,
            uuid,
            active,
            state: domain.state()?,
            disk_errors: domain.disk_errors()?,
            config,
            job: backup_job::active_job(domain)?,
            known: checkpoint::list(domain)?,
            bitmaps: bitmaps.map_err(|error| report(&error)),
            set: layout.map(|layout| SetFacts::gather(layout, uuid, we_hold_the_set)).transpose()?,
        })
    }

    /// The state of bitmap `name` on each disk that has it; none where that is not known.
    pub fn conditions(&self, name: &str) -> Option<BTreeMap<&str, Condition>> {
        let disks = self.bitmaps.as_ref().ok()?;
        let on_disk = |disk: &'_ DiskBitmaps| disk.conditions().get(name).copied();
        Some(disks.iter().filter_map(|disk| Some((disk.target.as_str(), on_disk(disk)?))).collect())
    }

    /// Whose a checkpoint is.
    pub fn owner<'a>(&'a self, checkpoint: &'a Checkpoint) -> Owner<'a> {
        if marker::is_marker(checkpoint) {
            return Owner::Marker;
        }
        let described = |id: &Uuid| checkpoint.description.as_ref().is_some_and(|text| text.contains(&id.to_string()));
        if let Some(set) = &self.set {
            if let Some(run) = set.catalogue.run_of_checkpoint(&checkpoint.name) {
                if is_of_run(&set.catalogue, self.args.checkpointdir.as_deref(), run, checkpoint) {
                    return Owner::Run(run);
                }
            }
            if let Some(intent) = set.unfinished(self.uuid).find(|intent| described(&intent.run)) {
                return Owner::Unfinished(intent);
            }
        }
        match checkpoint.description.as_deref() {
            Some(text) if text.starts_with(DESCRIPTION) => Owner::OtherChain(Some(text)),
            _ if checkpoint_position(&checkpoint.name).is_some() => Owner::OtherChain(None),
            _ => Owner::Foreign,
        }
    }

    /// Whether the chain of the set can go on, as far as the known checkpoints tell: none of the names
    /// that chains share is another's.
    pub fn set_goes_on(&self) -> bool {
        let Some(set) = &self.set else { return false };
        let extra = self.args.checkpointdir.as_deref();
        let mut shared = self.known.iter().filter(|checkpoint| checkpoint_position(&checkpoint.name).is_some());
        set.is_usable() && set.ended.is_none() && shared.all(|checkpoint| is_of_set(&set.catalogue, extra, checkpoint))
    }

    /// Runs whose names stand in the sockets and scratch files of the job.
    pub fn runs_of_job(&self) -> Vec<Uuid> {
        match &self.job {
            ActiveJob::Backup(xml) => job_files::runs_in(xml),
            _ => Vec::new(),
        }
    }

    /// How virsh is called for this domain.
    pub fn virsh(&self, command: &str) -> String {
        let uri = match self.args.hypervisor.uri.as_deref() {
            None | Some("qemu:///system") => String::new(),
            Some(uri) => format!(" -c {}", shell(uri)),
        };
        format!("virsh{uri} {command} {}", shell(self.domain.name()))
    }
}

impl SetFacts {
    fn gather(layout: &Layout, uuid: Uuid, we_hold_it: bool) -> Result<Self> {
        let catalogue = crate::commands::foreign_raw::open_set(layout.clone())?;
        let other_domain = disks::refuse_other_domain(&catalogue, uuid).err();
        let in_use = if we_hold_it { Some(false) } else { proc_locks::is_locked(&lock::path(layout)) };
        Ok(Self {
            intents: Intent::left_behind(layout),
            in_use,
            ended: ended_by(layout),
            dropped: dropped::read(layout),
            other_domain: other_domain.map(|error| {
                let text = report(error.as_ref());
                error.downcast().unwrap_or_else(|_| Error::usage(text))
            }),
            layout: layout.clone(),
            catalogue,
        })
    }

    /// Whether it is this domain's, and its records of unfinished runs can be read: `--repair` may act.
    pub fn is_usable(&self) -> bool {
        self.other_domain.is_none() && self.intents.is_ok()
    }

    /// Whether a run goes on in it, for all that can be known.
    pub fn is_in_use(&self) -> bool {
        self.in_use != Some(false)
    }

    /// Whether the intent's run was committed, for all that can be known.
    pub fn is_committed(&self, intent: &Intent) -> bool {
        self.layout.is_committed(intent.run).unwrap_or(true)
    }

    /// The runs on domain `uuid` that are neither committed nor undone.
    pub fn unfinished(&self, uuid: Uuid) -> impl Iterator<Item = &Intent> {
        let intents = self.intents.as_deref().unwrap_or_default().iter();
        intents.filter(move |intent| intent.domain_uuid == uuid && !self.is_committed(intent))
    }

    /// Whether `run` is one of the set's own, over or not.
    pub fn has_run(&self, run: Uuid) -> bool {
        self.catalogue.runs.iter().any(|committed| committed.run_id() == Some(run))
            || self.intents.as_deref().unwrap_or_default().iter().any(|intent| intent.run == run)
    }
}
