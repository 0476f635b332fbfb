//! `virtkeep doctor`.

use std::path::PathBuf;

use clap::Args;

use super::{Hypervisor, Talk};

/// Show what is left of earlier runs and what stands in the way of the next one.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {
    /// Domain to look at: its name or UUID.
    #[arg(short, long)]
    pub domain: String,

    /// Directory of the set; without it nothing can be told to be the set's own.
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,

    /// Mend what provably belongs to the set; everything else is left alone.
    #[arg(long, requires = "output")]
    pub repair: bool,

    /// JSON for scripts instead of a table.
    #[arg(long)]
    pub json: bool,

    /// Directory on the domain's host for the jobs' scratch files, as given to backup.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub scratchdir: PathBuf,

    /// Directory with copies of the checkpoints' XML, as given to backup.
    #[arg(short = 'C', long, value_name = "DIR")]
    pub checkpointdir: Option<PathBuf>,

    /// How the hypervisor is reached.
    #[command(flatten)]
    pub hypervisor: Hypervisor,

    /// How much is said.
    #[command(flatten)]
    pub talk: Talk,
}

const EXAMPLES: &str = "Examples:
  virtkeep doctor -d web -o /backup/web            look; beside a backup, too
  virtkeep doctor -d web -o /backup/web --repair   look, and mend
  virtkeep doctor -d web                           a domain without a set
  virtkeep doctor -d web -o /backup/web --json | jq '.findings[].verdict'

Looking changes nothing. What is not in order is marked with an exclamation mark, and a line \
below says what to do about it. --repair does what the next backup would do at its start, and \
removes checkpoints that nothing can build on. It touches only what bears the UUID of a run of \
this set, is named in its record of an unfinished run, or is left of the last run on the domain, \
should that have died: all else of other tools and other sets stays as it is.

QEMU is asked for its bitmaps past libvirt, which notes that in the domain's log and for `virsh \
dominfo` (tainted: custom monitor commands); that has no other effect.

Exit status: 0 all is in order, or has been mended; 3 something is left to look at; 1 failed.";
