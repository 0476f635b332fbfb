//! `virtnbdrestore`.

use anyhow::Result;

use super::words::Words;
use super::{dump, unsupported};
use crate::cli::Command;
use crate::cli::dropin::restore::{Action, Options};
use crate::cli::read::{Classic, Restore, Verify};
use crate::commands::{Session, restore, verify};
use crate::error::{self, Error, Kind};
use crate::exit::Exit;
use crate::host::address::Address;
use crate::phrases::CLASSIC;
use crate::set::catalogue::Catalogue;
use crate::set::files::Files;

/// How the image of a raw disk is called, after the disk.
const RAW_IMAGE: &str = ".copy.data";

/// Restores, or what else the options say.
pub fn run(options: &Options, session: &Session) -> Result<Exit> {
    unsupported::check_restore(options)?;
    // A directory, or zip files, separated by commas.
    let files = Files::open(std::slice::from_ref(&options.input)).inspect_err(|error| {
        if error.kind() == Kind::NotFound {
            tracing::error!(target: CLASSIC, "Backup source [{}] does not exist.", options.input.display());
        }
    })?;
    if options.raw && options.action() == Action::Restore {
        refuse_raw(options, files)?;
    }
    match options.action() {
        Action::Dump => dump::run(&options.input),
        Action::Verify => verified(verify::run(&verify_args(options)?, session)?),
        Action::Restore => restore::run(&restore_args(options)?, session).inspect_err(|error| {
            let error = error::report(error.as_ref());
            tracing::error!(target: CLASSIC, "Disk restore failed: [{error}]");
        }),
    }
}

/// Without `-r` raw disks are left out, with a warning; with it they must not be missing in silence.
fn refuse_raw(options: &Options, files: Files) -> error::Result<()> {
    let is_wanted = |file: &str| {
        let target = file.strip_suffix(RAW_IMAGE);
        target.is_some_and(|target| options.disk.as_ref().is_none_or(|disk| disk == target))
    };
    let catalogue = Catalogue::open(files)?;
    match catalogue.problems.iter().find(|problem| !problem.is_damage() && is_wanted(&problem.file)) {
        Some(problem) => Err(unsupported::raw_image(&problem.file)),
        None => Ok(()),
    }
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

fn restore_args(options: &Options) -> error::Result<Restore> {
    let words = Words::of("restore")
        .with("input", &options.input)
        .with("output", &options.output)
        .maybe("disk", options.disk.as_ref())
        .maybe("sequence", options.sequence.as_ref())
        .flag("preallocate", options.preallocate)
        .flag("compress", options.compress)
        // virtnbdrestore writes to the host that -U names.
        .flag("to-host", Address::parse(&options.remote.uri).is_some())
        .hypervisor(&options.remote)
        .logging(&options.logging);
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

/// A name alone adjusts nothing, and what is defined is adjusted.
fn config_words(options: &Options, words: Words) -> Words {
    let adjust = options.adjust_config || options.define;
    words
        .maybe("until", options.until.as_ref())
        .flag("adjust-config", adjust)
        .flag("define", options.define)
        .maybe("name", options.name.as_ref().filter(|_| adjust))
}
