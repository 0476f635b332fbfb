//! Where a run's files go: into the set's directory, or as a zip file to standard output, with the records that
//! the next run needs in a directory of their own.

use std::path::Path;

use anyhow::Result;

use super::config::Extra;
use super::directory;
use super::level;
use super::plan::Plan;
use crate::cancel::Cancel;
use crate::cli::backup::{Backup, LevelArg, OutputType};
use crate::error::{self, Error, Kind};
use crate::fault;
use crate::libvirt::domain::Domain;
use crate::set::Level;
use crate::set::cpt;
use crate::set::layout::{Layout, checkpoint_name, checkpoint_position};
use crate::set::manifest::{Manifest, Role};
use crate::target::ZipTarget;

/// Stands for standard output.
const STDOUT: &str = "-";
/// Where the records are, unless said otherwise.
const RECORDS: &str = "%d.virtkeep";

/// Whether the backup goes to standard output.
pub fn is_stdout(args: &Backup) -> bool {
    args.output == Path::new(STDOUT)
}

/// Refuses options that make no sense together.
///
/// # Errors
/// [`Kind::Usage`].
pub fn check(args: &Backup) -> Result<()> {
    let refuse = |message: &str, hint: &str| Err(Error::usage(message).hint(hint).into());
    if !is_stdout(args) && args.state_dir.is_some() {
        return refuse("--state-dir goes with -o -", "a directory set keeps its records itself");
    }
    if is_stdout(args) && args.keep_partial {
        return refuse("--keep-partial and -o - exclude each other", "what a pipe took can't be kept here");
    }
    if args.kind == OutputType::Raw && args.compress.is_some() {
        return refuse("Compression not supported with raw output.", "leave -z away, or -t raw");
    }
    if args.kind == OutputType::Raw && matches!(args.level, LevelArg::Inc | LevelArg::Diff) {
        return level::refuse_type(args.kind, Level::Inc);
    }
    if args.base.is_some() && matches!(args.level, LevelArg::Full | LevelArg::Copy) {
        return refuse("--base is for increments", "use it with -l inc, diff or auto");
    }
    Ok(())
}

/// The directory of the set, or of the records of what went to standard output.
///
/// # Errors
/// Where there is no working directory; [`Kind::Usage`] for a code that there is not.
pub fn layout(args: &Backup, domain: &Domain) -> Result<Layout> {
    let template = match (is_stdout(args), &args.state_dir) {
        (false, _) => &args.output,
        (true, Some(directory)) => directory,
        (true, None) => Path::new(RECORDS),
    };
    let directory = directory::of(template, domain, &jiff::Zoned::now())?;
    Ok(Layout::new(std::path::absolute(directory)?).with_mode(args.mode))
}

/// Takes over standard output where the backup goes there.
///
/// # Errors
/// [`Kind::Usage`] for a terminal and other places where it would be lost.
pub fn open(args: &Backup, cancel: &Cancel) -> Result<Option<ZipTarget>> {
    if !is_stdout(args) {
        return Ok(None);
    }
    if args.worker.is_some_and(|workers| workers > 1) {
        tracing::info!("on standard output the disks come one after another: --worker is not used");
    }
    Ok(Some(ZipTarget::open(args.mode, cancel)?))
}

/// Writes configuration and sums into the zip file.
///
/// # Errors
/// [`Kind::Io`] where nobody reads on.
pub fn store_extras(zip: &ZipTarget, extras: &[Extra]) -> error::Result<()> {
    extras.iter().try_for_each(|extra| zip.store(&extra.record.name, &extra.content))
}

/// Ends the zip file: the list of checkpoints, the log, the manifest as the last member. All of it has been taken
/// when this returns: only then is the run committed to the records.
///
/// # Errors
/// [`Kind::Io`] where it was not.
pub fn finish(zip: &ZipTarget, plan: &Plan, log: &[u8], manifest: &Manifest, cancel: &Cancel) -> error::Result<()> {
    let list = cpt::name(&manifest.domain);
    if let (Some(position), Ok(())) =
        (manifest.checkpoint.as_deref().and_then(checkpoint_position), Layout::check_name(&list))
    {
        let names: Vec<String> = (0..=position).map(checkpoint_name).collect();
        zip.store(&list, cpt::format(&names).as_bytes())?;
    }
    zip.store(&plan.log, log)?;
    zip.store(&Layout::manifest_name(manifest.run), manifest.encode()?.as_bytes())?;
    fault::point("zip-written")?;
    zip.finish(cancel).map_err(|error| match error.kind() {
        Kind::Io => Error::new(Kind::Io, "the backup was not taken as a whole").caused_by(error),
        _ => error,
    })
}

/// Whether a file of the run is kept with the records: it is needed to tell a host of checkpoints that it lost.
pub fn is_record(extra: &Extra) -> bool {
    extra.record.role == Role::CheckpointXml
}
