//! Which level a run has, and what the names of its files follow from.

use anyhow::Result;

use super::phrases;
use crate::cli::backup::{LevelArg, OutputType};
use crate::error::{self, Error, Kind};
use crate::libvirt::checkpoint::{self, Checkpoint};
use crate::libvirt::domain::Domain;
use crate::phrases::CLASSIC;
use crate::set::Level;
use crate::set::catalogue::Catalogue;
use crate::set::cpt;
use crate::set::layout::checkpoint_position;

/// The level that the run has.
///
/// # Errors
/// [`Kind::Usage`] where the directory does not suit it, [`Kind::Corrupt`] where the set is damaged.
pub fn decide(asked: LevelArg, catalogue: &Catalogue) -> Result<Level> {
    let directory = catalogue.files.place();
    let has_chain = catalogue.newest_base().is_some();
    let holds_data = !catalogue.runs.is_empty();
    let refuse = |kind, message: &str, hint: &str| {
        phrases::level_refused(asked, directory, holds_data);
        Err(Error::new(kind, message).path(directory).hint(hint).into())
    };
    if asked != LevelArg::Copy || holds_data {
        refuse_damaged(catalogue)?;
    }
    if catalogue.is_of_stdout {
        // Every zip file has its own names: a chain can begin again at any time.
        match asked {
            LevelArg::Full => return Ok(Level::Full),
            LevelArg::Copy => return Ok(Level::Copy),
            LevelArg::Auto if !has_chain => return Ok(Level::Full),
            _ => {}
        }
    }
    match asked {
        LevelArg::Auto if has_chain => {
            let at = "root check - targetDir";
            tracing::info!(target: CLASSIC, at, "Backup mode auto: executing incremental backup.");
            Ok(Level::Inc)
        }
        LevelArg::Auto if holds_data => refuse(
            Kind::Usage,
            "the directory holds a copy, which no chain can continue",
            "choose an empty directory for a chain, or -l copy in an empty one for another copy",
        ),
        LevelArg::Auto => {
            let at = "root check - targetDir";
            tracing::info!(at, "Backup mode auto, target folder is empty: executing full backup.");
            Ok(Level::Full)
        }
        LevelArg::Full if holds_data && !has_chain => refuse(
            Kind::Usage,
            "the directory holds a copy, which no chain can continue",
            "choose an empty directory for a new chain",
        ),
        LevelArg::Full if holds_data => refuse(
            Kind::Usage,
            "the directory holds backups already, and a committed file is never overwritten",
            "choose an empty directory for a new chain, or -l inc to continue this one",
        ),
        LevelArg::Full => Ok(Level::Full),
        LevelArg::Copy if has_chain => refuse(
            Kind::Usage,
            "the directory holds a chain; a copy does not belong to it",
            "choose an empty directory",
        ),
        LevelArg::Copy if holds_data => {
            refuse(Kind::Usage, "the directory holds a copy already", "choose an empty directory")
        }
        LevelArg::Copy => Ok(Level::Copy),
        LevelArg::Inc | LevelArg::Diff if !has_chain => refuse(
            Kind::NotFound,
            "No full backup found in target directory",
            "begin with -l full, or let -l auto decide",
        ),
        LevelArg::Inc => Ok(Level::Inc),
        LevelArg::Diff => Ok(Level::Diff),
    }
}

/// Refuses a set in which damage may hide a run.
///
/// # Errors
/// [`Kind::Corrupt`], with the damage as the cause.
pub fn refuse_damaged(catalogue: &Catalogue) -> Result<()> {
    let Some(problem) = catalogue.problems.iter().find(|problem| problem.may_hide_run()) else { return Ok(()) };
    let directory = catalogue.files.place();
    Err(Error::corrupt("the set is damaged, nothing can build on it")
        .path(directory)
        .caused_by(Error::corrupt(error::report(&problem.error)))
        .hint(format!(
            "`virtkeep verify -i {}` lists the damage; start a new chain with -l full in an empty directory",
            directory.display()
        ))
        .into())
}

/// Refuses increments as raw images: what they do not name is not zero.
///
/// # Errors
/// [`Kind::Usage`].
pub fn refuse_type(kind: OutputType, level: Level) -> Result<()> {
    if kind == OutputType::Raw && level.needs_base() {
        return Err(Error::usage("Stream format raw does not support incremental or differential backup.")
            .hint(format!("leave `-t raw` away: an {level} run of type stream builds on the raw images"))
            .into());
    }
    Ok(())
}

/// Refuses a domain with checkpoints of another tool.
///
/// # Errors
/// [`Kind::Busy`], naming one.
pub fn refuse_foreign(known: &[Checkpoint], domain: &Domain) -> Result<()> {
    match known.iter().find(|checkpoint| checkpoint_position(&checkpoint.name).is_none()) {
        None => Ok(()),
        Some(foreign) => {
            phrases::foreign_checkpoint(&foreign.name);
            Err(Error::new(
                Kind::Busy,
                format!(
                    "Foreign checkpoint found: domain {} has {:?}, which another tool made",
                    domain.name(),
                    foreign.name
                ),
            )
            .hint(format!(
                "-l copy works beside it; or remove it, if nothing needs it: virsh checkpoint-delete {} {}",
                domain.name(),
                foreign.name
            ))
            .into())
        }
    }
}

/// Position of the checkpoint that comes next: virtnbdbackup counts the names in its list, those of
/// runs that never finished too. On standard output a name that is taken is not freed for a full: what has it is
/// kept until a run after that has succeeded.
///
/// # Errors
/// Where the list can't be read.
pub fn next_position(catalogue: &Catalogue, domain: &Domain) -> Result<u64> {
    let committed = catalogue.runs.iter().filter_map(|run| checkpoint_position(run.checkpoint.as_deref()?)).max();
    let after = committed.map_or(0, |position| position + 1);
    let listed = cpt::read(&catalogue.files, domain.name())?;
    let known = match catalogue.is_of_stdout {
        true => checkpoint::list(domain)?.iter().filter_map(|known| checkpoint_position(&known.name)).max(),
        false => None,
    };
    Ok(after.max(listed.len() as u64).max(known.map_or(0, |position| position + 1)))
}

/// The names of all files of a set, also of those that went to standard output.
///
/// # Errors
/// Where the directory can't be read.
pub fn used_names(catalogue: &Catalogue) -> error::Result<Vec<String>> {
    let mut names = catalogue.files.names()?;
    names.extend(catalogue.runs.iter().flat_map(|run| &run.streams).map(|stream| stream.file.clone()));
    Ok(names)
}

/// The first second from `time` on that no file is named by: two diffs can begin in the same one.
pub fn free_time(names: &[String], mut time: i64) -> i64 {
    while names.iter().any(|name| name.split('.').any(|part| part.parse() == Ok(time))) {
        time += 1;
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_name_files_are_taken() {
        let names = ["vda.diff.100.data", "vmconfig.101.xml", "vda.full.data"].map(str::to_owned);
        assert_eq!([99, 100, 101, 102].map(|time| free_time(&names, time)), [99, 102, 102, 102]);
    }
}
