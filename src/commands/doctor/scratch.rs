//! The scratch directory: files and sockets of jobs that are over, and the space there.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::facts::{Facts, SetFacts};
use super::finding::{Area, Finding};
use super::names::{shell_path, short};
use crate::commands::backup::socket;
use crate::commands::confined::{Confined, Model};
use crate::error::{self, Kind, report};
use crate::host::{FileKind, Host};
use crate::set::job_files;
use crate::units::format_bytes;

/// A file of a run in the scratch directory.
struct Left {
    path: PathBuf,
    run: Uuid,
}

/// What is found of it.
pub fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let directory = &facts.args.scratchdir;
    let mut findings = vec![space(facts, directory)];
    findings.extend(confinement(facts, directory));
    match files(facts.domain.host(), directory) {
        Ok(files) => findings.extend(files.iter().map(|left| one(facts, left))),
        // Not there: said above.
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => findings.push(
            Finding::look(
                Area::Scratch,
                format!("files in {}", directory.display()),
                format!("can't be read: {}", report(&error)),
            )
            .advice("run virtkeep as the user who makes the backups"),
        ),
    }
    findings
}

/// Files of runs of the set that are over or dead, and in nobody's use.
pub fn dead(facts: &Facts<'_>) -> Vec<PathBuf> {
    let files = files(facts.domain.host(), &facts.args.scratchdir).unwrap_or_default();
    files.into_iter().filter(|left| is_dead_and_ours(facts, left)).map(|left| left.path).collect()
}

fn is_dead_and_ours(facts: &Facts<'_>, left: &Left) -> bool {
    let set = facts.set.as_ref().filter(|set| set.is_usable() && !set.is_in_use());
    set.is_some_and(|set| set.has_run(left.run))
        && !facts.runs_of_job().contains(&left.run)
        && !is_used(facts.domain.host(), &left.path)
}

fn files(host: &Host, directory: &Path) -> error::Result<Vec<Left>> {
    let mut files = Vec::new();
    for name in host.names(directory)? {
        if let Some((run, _)) = name.to_str().and_then(job_files::run_of_file) {
            files.push(Left { path: directory.join(&name), run });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Whether somebody listens at the socket, or has the file locked as QEMU does with images.
fn is_used(host: &Host, path: &Path) -> bool {
    let is_socket = host.file(path).is_ok_and(|facts| facts.kind == FileKind::Socket);
    if is_socket { host.listens(path) } else { host.is_locked(path) != Some(false) }
}

fn one(facts: &Facts<'_>, left: &Left) -> Finding {
    let what = left.path.display().to_string();
    let of_job = facts.runs_of_job().contains(&left.run);
    let ours = facts.set.as_ref().is_some_and(|set| set.has_run(left.run));
    let in_use = facts.set.as_ref().is_some_and(SetFacts::is_in_use);
    let whose = match ours {
        true => format!("this set, run {}", short(left.run)),
        false => format!("virtkeep, unknown run {}", short(left.run)),
    };
    if of_job && super::domain::is_dead_job(facts) {
        return Finding::look(Area::Scratch, what, "of the dead job").of(whose).repair("ends the job and removes it");
    }
    if is_dead_and_ours(facts, left) {
        return Finding::look(Area::Scratch, what, "left behind; nobody uses it").of(whose).repair("removes it");
    }
    if of_job || (ours && in_use) || is_used(facts.domain.host(), &left.path) {
        return Finding::good(Area::Scratch, what, "in use").of(whose);
    }
    Finding::look(Area::Scratch, what, "left behind; nobody on this host uses it")
        .of(whose)
        .advice(format!("if no backup of another domain runs: rm {}", shell_path(&left.path)))
}

/// What keeps QEMU from files, where something does, and whether a backup gets along with it.
fn confinement(facts: &Facts<'_>, directory: &Path) -> Option<Finding> {
    let confined = Confined::of(&facts.domain.xml(false).ok()?).ok()?;
    let what = match confined.model? {
        Model::AppArmor => "AppArmor",
        Model::SeLinux => "SELinux",
    };
    let host = facts.domain.host();
    let socket = socket::default_path(host, directory, &confined, Uuid::nil());
    Some(match confined.doubt(host, &socket) {
        None => {
            let place = socket.parent().unwrap_or(directory).display();
            Finding::good(Area::Scratch, what, format!("lets QEMU make a backup's socket in {place}"))
        }
        Some((message, hint)) => Finding::look(Area::Scratch, what, message).advice(hint),
    })
}

fn space(facts: &Facts<'_>, directory: &Path) -> Finding {
    let what = format!("scratch directory {}", directory.display());
    let free = match facts.domain.host().space(directory) {
        Ok(space) => space.free,
        Err(error) => {
            return Finding::look(Area::Scratch, what, format!("can't be used: {}", report(&error)))
                .advice("name another with --scratchdir; QEMU's user must be able to write to it");
        }
    };
    let disks = facts.config.disks.iter().filter(|disk| disk.eligibility().is_ok());
    // Of a disk whose size can't be asked nothing is known, which the sum then is short of.
    let sizes: u64 = disks.filter_map(|disk| facts.domain.disk_size(&disk.target).ok()).fold(0, u64::saturating_add);
    let state = format!("{} free for disks of {}", format_bytes(free), format_bytes(sizes));
    if free >= sizes {
        return Finding::good(Area::Scratch, what, state);
    }
    Finding::note(Area::Scratch, what, state).advice(
        "what the guest overwrites during a backup must fit: where it writes much, name another with --scratchdir",
    )
}
