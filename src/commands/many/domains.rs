//! Which domains a run is about, and the directory of each.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use glob::Pattern;
use jiff::Zoned;

use super::section;
use crate::cli::backup::{Backup, Excluded};
use crate::commands::backup::directory;
use crate::commands::connect;
use crate::error::{self, Error};
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::libvirt::domain_xml::DomainConfig;

/// A domain to back up.
#[derive(Debug)]
pub struct Chosen {
    /// Its name; of one that libvirt does not know, what it was called on the command line.
    pub name: String,
    /// The directory of its set, or why it can't be backed up.
    pub directory: error::Result<PathBuf>,
}

/// Finds the domains, in the order in which they are backed up: as named, or by name.
///
/// # Errors
/// [`Usage`](error::Kind::Usage) for a domain that is named twice, for patterns and directories that make
/// no sense; why the hypervisor can't be reached.
pub fn choose(args: &Backup) -> Result<Vec<Chosen>> {
    let patterns = patterns(&args.many.exclude_domain)?;
    let connection = connect::open(&args.hypervisor)?;
    // One time for all: a run over midnight is one run.
    let now = Zoned::now();
    let chosen = match args.many.all {
        true => all(args, &connection, &patterns, &now)?,
        false => named(args, &connection, &now)?,
    };
    // A code that there is not is nobody's in particular.
    match chosen.into_iter().map(refuse_template).collect() {
        Ok(chosen) => Ok(chosen),
        Err(error) => Err(Error::into(error)),
    }
}

fn refuse_template(chosen: Chosen) -> error::Result<Chosen> {
    match chosen.directory {
        Err(error) if error.kind() == error::Kind::Usage => Err(error),
        directory => Ok(Chosen { directory, ..chosen }),
    }
}

/// Why there is nothing to do.
pub fn why_none(args: &Backup) -> &'static str {
    match (args.many.inactive, args.many.exclude_domain.is_empty()) {
        (_, false) => "--exclude-domain leaves none of them",
        (false, true) => "none runs; --inactive takes those that are stopped, too",
        (true, true) => "there is none",
    }
}

fn all(args: &Backup, connection: &Connection, patterns: &[Pattern], now: &Zoned) -> Result<Vec<Chosen>> {
    let mut domains = connection.all_domains()?;
    domains.sort_by(|one, other| one.name().cmp(other.name()));
    for pattern in patterns.iter().filter(|pattern| !domains.iter().any(|domain| pattern.matches(domain.name()))) {
        // What a pattern stands for comes and goes.
        match Pattern::escape(pattern.as_str()) == pattern.as_str() {
            true => tracing::warn!("--exclude-domain {pattern}: there is no such domain"),
            false => tracing::info!("--exclude-domain {pattern}: there is no such domain"),
        }
    }
    tell_unknown_disks(args, &domains);
    let mut chosen = Vec::new();
    for domain in domains {
        if patterns.iter().any(|pattern| pattern.matches(domain.name())) {
            tracing::info!("{}: left out, as asked", domain.name());
        } else if args.many.inactive || is_active(&domain) {
            chosen.push(found(args, &domain, now));
        } else {
            tracing::debug!("{}: left out, it does not run", domain.name());
        }
    }
    Ok(chosen)
}

fn named(args: &Backup, connection: &Connection, now: &Zoned) -> Result<Vec<Chosen>> {
    let (mut chosen, mut domains): (Vec<Chosen>, Vec<Domain>) = (Vec::new(), Vec::new());
    for name in &args.domain {
        let next = match connection.domain(name) {
            Ok(domain) => {
                let next = found(args, &domain, now);
                domains.push(domain);
                next
            }
            // That of the others would fail alike.
            Err(error) if !connection.is_alive() => return Err(error.into()),
            Err(error) => Chosen { name: name.clone(), directory: Err(error) },
        };
        if chosen.iter().any(|other| other.name == next.name) {
            return Err(Error::usage(format!("domain {} is named twice", next.name))
                .hint("every domain is backed up once in a run: leave one -d away")
                .into());
        }
        chosen.push(next);
    }
    tell_unknown_disks(args, &domains);
    Ok(chosen)
}

/// Warns of disks to leave out that none of `domains` has. Those of a domain's own section are not among them: that
/// domain's run refuses them.
fn tell_unknown_disks(args: &Backup, domains: &[Domain]) {
    let mut named = BTreeSet::new();
    let mut there = BTreeSet::new();
    for domain in domains {
        let own = section::of_one(args, domain.name());
        if own.excluded == Excluded::Several {
            named.extend(own.exclude);
        }
    }
    if named.is_empty() {
        return;
    }
    for domain in domains {
        // What can't be looked at may have it.
        let Ok(config) = domain.xml(false).and_then(|xml| DomainConfig::parse(&xml)) else { return };
        there.extend(config.disks.into_iter().map(|disk| disk.target));
    }
    for target in named.difference(&there) {
        tracing::warn!("-x {target}: no domain has such a disk");
    }
}

fn found(args: &Backup, domain: &Domain, now: &Zoned) -> Chosen {
    let template = section::output(args, domain.name()).unwrap_or(&args.output);
    Chosen { name: domain.name().to_owned(), directory: directory::of(template, domain, now) }
}

/// One that has vanished since it was listed does not run.
fn is_active(domain: &Domain) -> bool {
    domain.is_active().unwrap_or_else(|error| {
        tracing::info!("{}: left out: {}", domain.name(), error::report(&error));
        false
    })
}

fn patterns(texts: &[String]) -> Result<Vec<Pattern>> {
    let parse = |text: &String| {
        Pattern::new(text).map_err(|error| {
            Error::usage(format!("--exclude-domain {text:?} is no pattern of names"))
                .hint("* stands for any text, ? for a character, [abc] for one of these, [[] for a bracket")
                .caused_by(error)
                .into()
        })
    };
    texts.iter().map(parse).collect()
}
