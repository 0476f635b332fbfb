//! `virtkeep doctor`: what is left of earlier runs and what stands in the way of the next one.
//!
//! ```text
//! facts (read only) -> findings -> table
//!                   -> repair   -> facts again -> findings with what became of each -> table
//! ```
//!
//! Without `--repair` nothing is changed: no lock is taken, no directory made, no checkpoint redefined.

mod bitmaps;
mod checkpoints;
mod domain;
mod facts;
mod finding;
mod names;
mod orphans;
mod repair;
mod scratch;
mod set;

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use self::facts::Facts;
use self::finding::Finding;
use super::backup::locks::Locks;
use super::connect;
use super::print::print;
use crate::cancel::Cancel;
use crate::cli::doctor::Doctor;
use crate::error::Error;
use crate::exit::Exit;
use crate::libvirt::domain::Domain;
use crate::lock::Patience;
use crate::set::layout::Layout;

/// Looks, mends if asked to, and tells.
pub fn run(args: &Doctor) -> Result<Exit> {
    let connection = connect::open_with_host(&args.hypervisor, None)?;
    let domain = connection.domain(&args.domain)?;
    let layout = args.output.as_ref().map(std::path::absolute).transpose()?.map(Layout::new);
    if let Some(layout) = &layout {
        refuse_missing(layout)?;
    }
    match &layout {
        Some(layout) if args.repair => mend(args, &domain, layout),
        _ => {
            let findings = look(&Facts::gather(args, &domain, layout.as_ref(), false)?);
            tell(args, &domain, &findings)?;
            Ok(exit(true, &findings))
        }
    }
}

fn mend(args: &Doctor, domain: &Domain, layout: &Layout) -> Result<Exit> {
    let mut locks = Locks::take(domain, layout, &Patience::new(Duration::ZERO, &Cancel::new()))?;
    let gather = || Facts::gather(args, domain, Some(layout), true);
    let before = look(&gather()?);
    let well = repair::run(&gather, &mut locks)?;
    let after = look(&gather()?);
    tell(args, domain, &finding::compared(before, &after))?;
    Ok(exit(well, &after))
}

fn look(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = domain::findings(facts);
    findings.extend(set::findings(facts));
    findings.extend(checkpoints::findings(facts));
    findings.extend(bitmaps::findings(facts));
    findings.extend(scratch::findings(facts));
    findings
}

fn exit(well: bool, left: &[Finding]) -> Exit {
    match well {
        false => Exit::Failed,
        true if finding::any_to_look_at(left) => Exit::Look,
        true => Exit::Done,
    }
}

fn refuse_missing(layout: &Layout) -> Result<()> {
    match layout.directory().is_dir() {
        true => Ok(()),
        false => Err(Error::new(crate::error::Kind::NotFound, "is not there, or no directory")
            .path(layout.directory())
            .hint(
                "-o takes the directory that `virtkeep backup -o` writes to; leave it out to look at the domain alone",
            )
            .into()),
    }
}

fn tell(args: &Doctor, domain: &Domain, findings: &[Finding]) -> Result<()> {
    let text = if args.json {
        let document = json!({
            "domain": domain.name(),
            "domain_uuid": domain.uuid(),
            "set": args.output,
            "repair": args.repair,
            "findings": finding::to_json(findings),
        });
        format!("{document:#}\n")
    } else {
        finding::to_table(findings, args.repair)
    };
    print(&text)?;
    Ok(())
}
