//! `virtkeep verify`: every file of a set against what is known of it, and every chain.
//!
//! | module | owns |
//! |---|---|
//! | `small` | configuration, sums, logs, the list of checkpoints |
//! | `streams` | every byte of every data file |
//! | `deep` | `--deep`: the content of every restore point, read as a restore reads it |
//! | `live` | `--against-live`: a restore point and the domain's disks as they are now |
//! | `verdict` | what was found |
//! | `conclusion` | the last word, for people or as JSON |

mod conclusion;
mod deep;
mod live;
mod small;
mod streams;
mod verdict;

use std::time::Instant;

use anyhow::Result;

use self::deep::Content;
use self::verdict::Verdict;
use super::{Session, foreign_raw, whole};
use crate::cli::read::Verify;
use crate::error::{self, Error};
use crate::exit::Exit;
use crate::set::catalogue::Catalogue;
use crate::set::chain;
use crate::set::files::Files;

/// Verifies.
pub fn run(args: &Verify, session: &Session) -> Result<Exit> {
    live::refuse_useless(args)?;
    if args.against_live {
        return live::run(args, session);
    }
    let begin = Instant::now();
    let mut catalogue = foreign_raw::open_set(Files::open(&args.input)?)?.with_data()?;
    let points = deep::choose(args, &catalogue)?;
    let mut verdict = Verdict::default();
    for problem in std::mem::take(&mut catalogue.problems) {
        if problem.is_damage() {
            verdict.damage(problem.error);
        } else {
            tracing::warn!("{}", error::report(&problem.error));
            verdict.unproven += 1;
        }
    }
    for name in &catalogue.partial {
        tracing::warn!("{name}: left by a run that did not finish; no restore point needs it");
    }
    // Of what was chosen nothing else is said.
    let is_chosen = args.until.is_some() || !args.disk.is_empty();
    if !is_chosen {
        small::check(&catalogue, &mut verdict)?;
    }
    let mut content = None;
    if args.deep {
        content = Some(Content::check(args, session, &catalogue, &points, &mut verdict)?);
    } else {
        streams::check(args, session, &catalogue, &mut verdict)?;
    }
    check_whole(&catalogue, &points, &args.disk, &mut verdict)?;
    if !args.deep {
        check_chains(&catalogue, &mut verdict);
    }
    if let Some(error) = verdict.forbidden {
        return Err(error.hint("run this as the user that makes the backups: nothing is said about the set").into());
    }
    conclusion::tell(args, &catalogue, &verdict, content.as_ref(), begin.elapsed())
}

/// That virtnbdbackup's runs have all their disks.
fn check_whole(catalogue: &Catalogue, points: &[String], disks: &[String], verdict: &mut Verdict) -> Result<()> {
    for run in catalogue.runs.iter().filter(|run| points.contains(&run.id)) {
        let missing = whole::missing_files(catalogue, run).into_iter();
        for (disk, file) in missing.filter(|(disk, _)| disks.is_empty() || disks.contains(disk)) {
            verdict.damage(whole::incomplete(catalogue, run, &disk, &file));
        }
    }
    for checkpoint in whole::vanished(catalogue)? {
        tracing::warn!("{checkpoint}: the set has its configuration, but no data: is a file missing?");
    }
    Ok(())
}

/// That every point can be restored: links, identities, no gaps. What the links lead to was checked
/// file by file.
fn check_chains(catalogue: &Catalogue, verdict: &mut Verdict) {
    for run in &catalogue.runs {
        for stream in &run.streams {
            if let Err(error) = chain::resolve(catalogue, run, &stream.target) {
                verdict.damage(not_restorable(&run.id, error).disk(&stream.target));
            }
        }
    }
}

fn not_restorable(point: &str, error: Error) -> Error {
    Error::new(error.kind(), format!("restore point {point} can't be restored")).caused_by(error)
}
