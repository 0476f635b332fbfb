//! How far a run is, and what is known of it: for its report and its hooks.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::plan::Plan;
use crate::libvirt::domain::Domain;
use crate::set::Level;
use crate::set::layout::Layout;
use crate::set::manifest::Manifest;

/// The part of a run that is going on, or in which it failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Options, libvirt, the domain.
    #[default]
    Connect,
    /// The hook before the run.
    PreRun,
    /// Locks, and what a dead run left.
    Prepare,
    /// Level, disks, bases.
    Plan,
    /// Freeze, the job or the images.
    Begin,
    /// The data.
    Copy,
    /// Configuration, sums, manifest.
    Commit,
    /// The run is in the set.
    Done,
}

impl Phase {
    /// As it is called in the report.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::PreRun => "pre-run",
            Self::Prepare => "prepare",
            Self::Plan => "plan",
            Self::Begin => "begin",
            Self::Copy => "copy",
            Self::Commit => "commit",
            Self::Done => "done",
        }
    }
}

/// What is known of a run at some time.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// How far it is.
    pub phase: Phase,
    /// The domain's name.
    pub domain: Option<String>,
    /// Its UUID.
    pub domain_uuid: Option<String>,
    /// The set's directory.
    pub set: Option<PathBuf>,
    /// The level.
    pub level: Option<Level>,
    /// The run's identity.
    pub run: Option<Uuid>,
    /// The checkpoint that it makes.
    pub checkpoint: Option<String>,
    /// The record of the run; none before it is committed.
    pub manifest: Option<Manifest>,
    /// Hooks have been asked for and the first of them, if there is one, was begun.
    pub has_begun: bool,
}

/// What is known of the run that goes on.
#[derive(Debug, Default)]
pub struct Facts(Mutex<Known>);

impl Facts {
    /// What is known now.
    pub fn known(&self) -> Known {
        self.lock().clone()
    }

    /// The run has come so far.
    pub fn reached(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// The domain is there.
    pub fn found(&self, domain: &Domain, layout: &Layout) {
        let mut known = self.lock();
        known.phase = Phase::PreRun;
        known.domain = Some(domain.name().to_owned());
        known.domain_uuid = Some(domain.uuid().to_owned());
        known.set = Some(layout.directory().to_owned());
        known.has_begun = true;
    }

    /// What is to be done is known.
    pub fn planned(&self, plan: &Plan) {
        let mut known = self.lock();
        known.level = Some(plan.level);
        known.run = Some(plan.run);
        known.checkpoint = plan.made_checkpoint().map(str::to_owned);
    }

    /// The run is in the set.
    pub fn committed(&self, manifest: &Manifest) {
        let mut known = self.lock();
        known.phase = Phase::Done;
        known.manifest = Some(manifest.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
