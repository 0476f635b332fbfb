//! The options of one domain: those of the configuration's section that is called like it, else those of all.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::cli::Hypervisor;
use crate::cli::backup::{Backup, Excluded};
use crate::cli::config::Section;
use crate::commands::backup::{directory, is_stdout};
use crate::commands::connect;
use crate::error::{Error, Result};

/// The options of a run of one domain. The command line has its section where it was called by its name; one that
/// was called by its UUID is looked up. If it can't be, the run itself says why.
pub fn of_only(args: &Backup) -> Cow<'_, Backup> {
    let named = || {
        let domain = args.domain.first().filter(|_| !args.sections.is_empty())?;
        uuid::Uuid::parse_str(domain).ok()?;
        let found = connect::open(&args.hypervisor).and_then(|connection| connection.domain(domain));
        found.inspect_err(|error| tracing::debug!("no section for {domain}: {error}")).ok()
    };
    match named().and_then(|domain| args.sections.get(domain.name())) {
        Some(section) => Cow::Owned((*section.args).clone()),
        None => Cow::Borrowed(args),
    }
}

/// The options of `domain`, one of several, but for its directory: what is the whole run's is as in `args`.
pub fn of_one(args: &Backup, domain: &str) -> Backup {
    let own = |directory: PathBuf| directory.join(directory::file_name(domain));
    let Some(Section { args: section, own: keys }) = args.sections.get(domain) else {
        let mut one = args.clone();
        one.places.checkpointdir = one.places.checkpointdir.map(own);
        one.excluded = Excluded::Several;
        return one;
    };
    let mut one = (**section).clone();
    one.hypervisor = args.hypervisor.clone();
    one.talk = args.talk.clone();
    one.many = args.many.clone();
    if !keys.contains("exclude") {
        one.excluded = Excluded::Several;
    }
    if !keys.contains("checkpointdir") {
        one.places.checkpointdir = one.places.checkpointdir.map(own);
    }
    one
}

/// The directory that a domain's own section names: the domain's alone, not one for many.
pub fn output<'a>(args: &'a Backup, domain: &str) -> Option<&'a Path> {
    let section = args.sections.get(domain)?;
    section.own.contains("output").then_some(section.args.output.as_path())
}

/// Refuses what a domain's section may say only where the domain is backed up by itself.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage), [`Kind::Unsupported`](crate::error::Kind::Unsupported).
pub fn check(args: &Backup, hypervisor: &Hypervisor, domain: &str) -> Result<()> {
    let Some(section) = args.sections.get(domain) else { return Ok(()) };
    let alone = format!("back it up by itself: virtkeep backup -d {domain}");
    if section.args.hypervisor != *hypervisor {
        let why = "its section in the configuration reaches the hypervisor in another way than this run does";
        return Err(Error::unsupported(why).hint(alone));
    }
    if is_stdout(&section.args) || section.args.state_dir.is_some() {
        let why = "its section in the configuration writes it to standard output, which takes one zip file";
        return Err(Error::unsupported(why).hint(alone));
    }
    Ok(())
}

/// Whether the disks of any domain are read over TCP.
pub fn is_over_tcp(args: &Backup) -> bool {
    let all = args.sections.values().map(|section| &section.args.network).chain([&args.network]);
    all.into_iter().any(|network| network.tls || network.nbd_port.is_some() || network.nbd_ip.is_some())
}
