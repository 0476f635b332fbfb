//! `virtnbdbackup`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::words::Words;
use super::{unsupported, void};
use crate::cli::Command;
use crate::cli::backup::{Backup, Classic, LevelArg, OutputType};
use crate::cli::dropin::backup::{Level, Options};
use crate::commands::backup::facts::Facts;
use crate::commands::backup::{self, start_only};
use crate::commands::{Session, connect};
use crate::error::{self, Error};
use crate::exit::Exit;
use crate::host::address::Address;
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::phrases::CLASSIC;
use crate::set::catalogue::Catalogue;
use crate::set::layout::Layout;

/// What `-o` takes for a zip archive on stdout.
pub const STDOUT: &str = "-";

/// Backs up, or what else the options say.
pub fn run(options: &Options, session: &Session) -> Result<Exit> {
    tracing::info!(target: CLASSIC, "Backup level: [{}]", options.level.name());
    if let Ok(version) = Connection::library_version() {
        tracing::info!(target: CLASSIC, "Local libvirt library version: [{version}]");
    }
    if options.killonly {
        return start_only::end(&translate(options)?);
    }
    unsupported::check_backup(options)?;
    if options.raw && matches!(options.level, Level::Inc | Level::Diff) {
        let at = "root virtnbdbackup - main";
        tracing::warn!(target: CLASSIC, at, "Raw disks can't be included during incremental or differential backup.");
        tracing::warn!(target: CLASSIC, at, "Excluding raw disks.");
    }
    let mut args = translate(options)?;
    if let Some(directory) = &args.places.checkpointdir {
        tracing::info!(target: CLASSIC, "Store checkpoints in: [{}]", directory.display());
    }
    if options.startonly {
        return start_only::begin(args, session);
    }
    if let Some(address) = Address::parse(&options.remote.uri) {
        let at = "ssh client - connect";
        tracing::info!(target: CLASSIC, at, "Connecting remote system [{}]", address.host);
    }
    let connection = connect::open(&args.hypervisor).inspect_err(|error| {
        tracing::error!(target: CLASSIC, "Can't connect libvirt daemon: [{}]", error::report(error));
    })?;
    reset_if_stopped(&mut args, &options.output, &connection.domain(&options.domain)?)?;
    drop(connection);
    let nowhere = options.output_target.as_deref() == Some(void::TARGET);
    let _records = nowhere.then(|| void::redirect(&mut args)).transpose()?;
    let exit = backup::run(&args, session, &Facts::default())?;
    let warnings = session.log.warnings().len();
    if options.strict && warnings > 0 {
        tracing::info!(target: CLASSIC, "[{warnings}] Warnings detected during backup operation, forcing exit code 2");
        return Ok(Exit::Look);
    }
    Ok(exit)
}

/// virtkeep's own options for the same.
fn translate(options: &Options) -> error::Result<Backup> {
    // Of another machine the disks come over TCP.
    let is_local = Address::parse(&options.remote.uri).is_none();
    let socket = || PathBuf::from(format!("/var/tmp/virtnbdbackup.{}", std::process::id()));
    let words = Words::of("backup")
        .with("domain", &options.domain)
        .with("output", plain(&options.output))
        .with("level", options.level.name())
        .maybe("include", options.include.as_ref())
        .maybe("exclude", options.exclude.as_ref())
        .number("compress", options.compress)
        // virtnbdbackup takes 0 for all disks.
        .number("worker", options.worker.filter(|worker| *worker > 0))
        .number("threshold", options.threshold)
        .maybe("freeze-mountpoint", options.freeze_mountpoint.as_ref())
        .maybe("checkpointdir", options.checkpointdir.as_ref())
        .with("scratchdir", &options.scratchdir)
        .maybe("socketfile", is_local.then(|| options.socketfile.clone().unwrap_or_else(socket)))
        .with("mode", format!("{:o}", (0o666 & !umask()) | 0o600))
        .flag("no-sparse-detection", options.no_sparse_detection)
        .with("type", if options.kind == OutputType::Raw { "raw" } else { "stream" })
        .flag("raw", options.raw)
        .flag("pause", options.pause)
        .flag("start-domain", options.start_domain)
        .flag("strict", options.strict)
        .flag("printonly", options.printonly)
        .hypervisor(&options.remote)
        .network(&options.remote)
        .logging(&options.logging);
    match words.parse()? {
        Command::Backup(mut args) => {
            args.classic = Classic {
                scratch_names: true,
                own_log: options.output.as_os_str() != STDOUT,
                log_name: options.output.as_os_str() == STDOUT,
                any_exclude: true,
                estimate_as_message: true,
                compare_extents: options.qemu,
            };
            Ok(*args)
        }
        _ => Err(Error::usage("not a backup")),
    }
}

/// The path as virtkeep's `-o` takes it, which replaces codes such as `%d`.
fn plain(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes();
    OsString::from_vec(
        bytes.iter().flat_map(|&byte| std::iter::repeat_n(byte, 1 + usize::from(byte == b'%'))).collect(),
    )
}

/// virtnbdbackup makes no checkpoints of stopped domains: a full is a copy, an increment is one that nothing
/// builds on. An auto in an empty directory begins a chain, which virtkeep can do.
fn reset_if_stopped(args: &mut Backup, output: &Path, domain: &Domain) -> Result<()> {
    if args.guest.start_domain || domain.is_active()? {
        return Ok(());
    }
    match args.level {
        LevelArg::Full => {
            let at = "root check - vmstate";
            tracing::warn!(target: CLASSIC, at, "Domain is offline, resetting backup options.");
            tracing::warn!(target: CLASSIC, at, "New Backup level: [copy].");
            args.level = LevelArg::Copy;
        }
        LevelArg::Inc | LevelArg::Diff => leaf(args),
        LevelArg::Auto if has_chain(output) => leaf(args),
        LevelArg::Auto | LevelArg::Copy => {}
    }
    Ok(())
}

fn leaf(args: &mut Backup) {
    let at = "root checkpoint - create";
    tracing::info!(target: CLASSIC, at, "Offline backup, using latest checkpoint, saving only delta.");
    args.level = LevelArg::Diff;
}

/// What is wrong with the set is said by the backup.
fn has_chain(directory: &Path) -> bool {
    Catalogue::open(Layout::new(directory)).is_ok_and(|catalogue| catalogue.newest_base().is_some())
}

/// The permissions that this process takes away from new files: virtnbdbackup's files have the rest.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o077)
}
