//! Names for a shell's completion. Whatever is wrong means no names: nobody reads an error there.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{connect, foreign_raw};
use crate::cli::Hypervisor;
use crate::cli::complete::{Sources, value_of};
use crate::set::catalogue::Catalogue;
use crate::set::files::Files;

/// A shell waits for the names with the key pressed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where names come from.
pub const SOURCES: Sources = Sources { domains, points, disks };

fn domains(words: &[OsString]) -> Vec<String> {
    let uri = value_of(words, &["-U", "--uri"]).map(|uri| uri.to_string_lossy().into_owned());
    let uri = uri.or_else(|| std::env::var("VIRTKEEP_URI").ok());
    let hypervisor = Hypervisor { uri, ..Hypervisor::default() };
    // ssh may ask for a password.
    if connect::is_remote(&hypervisor) {
        return Vec::new();
    }
    let (sender, names) = mpsc::channel();
    thread::spawn(move || {
        let Ok(connection) = connect::open(&hypervisor) else { return };
        // Nobody may wait any more.
        let _ = sender.send(connection.domains().unwrap_or_default());
    });
    names.recv_timeout(PATIENCE).unwrap_or_default()
}

fn points(words: &[OsString]) -> Vec<String> {
    let Some(catalogue) = catalogue(words) else { return Vec::new() };
    let checkpoints = catalogue.runs.iter().filter_map(|run| run.checkpoint.clone());
    let days = catalogue.runs.iter().map(|run| run.started.strftime("%Y-%m-%d").to_string());
    let names: BTreeSet<String> = checkpoints.chain(days).collect();
    names.into_iter().collect()
}

fn disks(words: &[OsString]) -> Vec<String> {
    let Some(catalogue) = catalogue(words) else { return Vec::new() };
    let streams = catalogue.runs.iter().flat_map(|run| &run.streams);
    let names: BTreeSet<String> = streams.map(|stream| stream.target.clone()).collect();
    names.into_iter().collect()
}

fn catalogue(words: &[OsString]) -> Option<Catalogue> {
    let set = value_of(words, &["-i", "--input"])?;
    foreign_raw::open_set(Files::open(&[set]).ok()?).ok()
}
