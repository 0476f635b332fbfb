//! `virtnbdrestore`.

use std::collections::BTreeSet;

use anyhow::Result;

use super::words::Words;
use super::{dump, unsupported};
use crate::cli::Command;
use crate::cli::dropin::restore::{Action, Options};
use crate::cli::read::{Classic, Restore, Verify};
use crate::commands::{Session, foreign_raw, restore, verify};
use crate::error::{self, Error, Kind};
use crate::exit::Exit;
use crate::host::address::Address;
use crate::phrases::CLASSIC;
use crate::set::files::Files;

/// Restores, or what else the options say.
pub fn run(options: &Options, session: &Session) -> Result<Exit> {
    unsupported::check_restore(options)?;
    // A directory, or zip files, separated by commas.
    let files = Files::open(std::slice::from_ref(&options.input)).inspect_err(|error| {
        if error.kind() == Kind::NotFound {
            tracing::error!(target: CLASSIC, "Backup source [{}] does not exist.", options.input.display());
        }
    })?;
    let disks = match (&options.disk, options.raw || options.action() != Action::Restore) {
        (Some(disk), _) => Some(vec![disk.clone()]),
        (None, true) => None,
        (None, false) => without_raw(files)?,
    };
    match options.action() {
        Action::Dump => dump::run(&options.input),
        Action::Verify => verified(verify::run(&verify_args(options)?, session)?),
        Action::Restore => restore::run(&restore_args(options, disks)?, session).inspect_err(|error| {
            let error = error::report(error.as_ref());
            tracing::error!(target: CLASSIC, "Disk restore failed: [{error}]");
        }),
    }
}

/// Without `-r` raw disks are left out, with a warning: the disks that are restored then; none for all.
fn without_raw(files: Files) -> error::Result<Option<Vec<String>>> {
    let catalogue = foreign_raw::open_set(files)?;
    let streams = || catalogue.runs.iter().flat_map(|run| &run.streams);
    let targets = |raw: bool| -> BTreeSet<String> {
        streams().filter(|stream| stream.raw_disk == raw).map(|stream| stream.target.clone()).collect()
    };
    let raw = targets(true);
    for target in &raw {
        tracing::warn!("Raw disk [{target}] is left out, use option --raw to include it");
    }
    Ok((!raw.is_empty()).then(|| targets(false).into_iter().collect()))
}

/// What can't be proven is not verified.
fn verified(exit: Exit) -> Result<Exit> {
    match exit {
        Exit::Look => Err(Error::incomplete("some files have no checksum: nothing can be said about them")
            .hint("the warnings above name them")
            .into()),
        exit => Ok(exit),
    }
}

fn verify_args(options: &Options) -> error::Result<Verify> {
    match Words::of("verify").with("input", &options.input).logging(&options.logging).parse()? {
        Command::Verify(args) => Ok(Verify { classic: true, ..args }),
        _ => Err(Error::usage("not a verify")),
    }
}

fn restore_args(options: &Options, disks: Option<Vec<String>>) -> error::Result<Restore> {
    let words = Words::of("restore")
        .with("input", &options.input)
        .with("output", &options.output)
        .maybe("disk", disks.map(|disks| disks.join(",")))
        .maybe("sequence", options.sequence.as_ref())
        // Of a chain their image is the full's, as of virtnbdrestore: that is said.
        .flag("older-raw", options.raw && options.sequence.is_none())
        .flag("preallocate", options.preallocate)
        .flag("compress", options.compress)
        // virtnbdrestore writes to the host that -U names.
        .flag("to-host", Address::parse(&options.remote.uri).is_some())
        .hypervisor(&options.remote)
        .logging(&options.logging);
    let words = data_files(options, words)?;
    let words = match options.sequence {
        Some(_) => {
            tracing::info!(target: CLASSIC, "Using manual specified sequence of files.");
            tracing::info!(target: CLASSIC, "Disabling redefine and config adjust options.");
            words
        }
        None => config_words(options, words),
    };
    match words.parse()? {
        Command::Restore(mut args) => {
            args.classic = Classic {
                config_name: Some(options.config_file.clone()),
                replace_config: true,
                prefix_name: args.adjust_config && args.name.is_none(),
            };
            Ok(*args)
        }
        _ => Err(Error::usage("not a restore")),
    }
}

/// `DISK:PATH[,DISK:PATH...]`.
fn data_files(options: &Options, words: Words) -> error::Result<Words> {
    let mut words = words;
    for place in options.relocate_data_file.iter().flat_map(|places| places.split(',')) {
        let Some((disk, path)) = place.split_once(':') else {
            return Err(Error::usage(format!("--relocate-data-file takes DISK:PATH, not {place:?}")));
        };
        words = words.with("relocate-data-file", format!("{disk}={path}"));
    }
    Ok(words)
}

/// A name alone adjusts nothing, and what is defined is adjusted.
fn config_words(options: &Options, words: Words) -> Words {
    let adjust = options.adjust_config || options.define;
    words
        .maybe("until", options.until.as_ref())
        .flag("adjust-config", adjust)
        .flag("define", options.define)
        .maybe("name", options.name.as_ref().filter(|_| adjust))
}
