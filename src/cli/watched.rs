//! How a backup is watched: report, metrics, hooks.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

/// What a run leaves for those who watch it, and what it calls.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Watched")]
pub struct Watched {
    /// Write a summary of the run to this file, as JSON, as a whole or not at all; also of a run that failed. With
    /// several domains it has all of them. docs/monitoring.md describes it.
    #[arg(long, value_name = "FILE", conflicts_with = "printonly")]
    pub report: Option<PathBuf>,

    /// Write figures of the run to this file in Prometheus' text format, as a whole or not at all, for the node
    /// exporter's directory of such files (FILE.prom). A run that failed leaves the time and the sizes of the last
    /// one that succeeded as they were. A file for each command line.
    #[arg(long, value_name = "FILE", conflicts_with = "printonly")]
    pub metrics: Option<PathBuf>,

    /// Shell command to run for each domain before its set or the guest is touched; if it fails, the domain is not
    /// backed up. Facts are in its environment: VIRTKEEP_DOMAIN, VIRTKEEP_SET and others, see docs/monitoring.md.
    #[arg(long, value_name = "COMMAND", conflicts_with = "printonly")]
    pub hook_pre_run: Option<String>,

    /// Shell command to run when the data of a disk is complete (VIRTKEEP_DISK); the run is not committed then.
    #[arg(long, value_name = "COMMAND", conflicts_with = "printonly")]
    pub hook_post_disk: Option<String>,

    /// Shell command to run after each domain's run, whatever came of it: VIRTKEEP_STATUS is the exit status.
    #[arg(long, value_name = "COMMAND", conflicts_with = "printonly")]
    pub hook_post_run: Option<String>,

    /// Shell command to run where a domain's run failed, before that of --hook-post-run: VIRTKEEP_ERROR says why.
    #[arg(long, value_name = "COMMAND", conflicts_with = "printonly")]
    pub hook_on_failure: Option<String>,

    /// End a hook, with all that it started, after so long.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = parse_limit)]
    pub hook_timeout: Duration,
}

fn parse_limit(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds.into())),
        _ => Err("seconds from 1 to 86400".to_owned()),
    }
}
