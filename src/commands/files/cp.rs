//! `virtkeep cp`.

use std::fs::{DirBuilder, File};
use std::io::{BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::CWD;

use super::destination::{self, Destination};
use super::guest::{self, Guest};
use super::place::Place;
use super::unpack::{Unpacked, unpack};
use super::write::{self, Attributes};
use crate::cli::files::Cp;
use crate::commands::Session;
use crate::error::{self, Error, Kind};
use crate::exit::Exit;
use crate::guestfs;
use crate::guestfs::files::{self, Kinds, Stat};
use crate::guestfs::shell::Output;
use crate::pipeline::Progress;
use crate::set::layout;
use crate::units::{KIB, count, format_bytes};

/// Names of what was left out that a message has.
const NAMED: usize = 5;

/// Copies.
pub fn run(args: &Cp, session: &Session) -> Result<Exit> {
    guestfs::check()?;
    let (places, destination) = destination::resolve(args)?;
    guest::with(&args.point, &places, session, |guest| {
        let copier = Copier { args, session };
        let mut exit = Exit::Done;
        match &destination {
            Destination::Stdout => {
                for place in &places {
                    copier.to_stdout(guest, place)?;
                }
            }
            Destination::Files(files) => {
                for (place, path) in files {
                    if !copier.copy(guest, place, path)? {
                        exit = Exit::Look;
                    }
                }
            }
        }
        Ok(exit)
    })
}

struct Copier<'a> {
    args: &'a Cp,
    session: &'a Session,
}

impl Copier<'_> {
    /// Copies one thing; false where part of it was left out.
    fn copy(&self, guest: &mut Guest, place: &Place, path: &Path) -> error::Result<bool> {
        let stat = self.look(guest, place)?;
        match stat.kind() {
            Kinds::File => self.file(guest, place, &stat, path).map(|()| true),
            Kinds::Link => self.link(guest, place, path).map(|()| true),
            Kinds::Directory => self.tree(guest, place, path),
            Kinds::Special(_) => Err(special(place)),
        }
    }

    /// What there is. Links are copied with `-r`, else what they point to.
    fn look(&self, guest: &mut Guest, place: &Place) -> error::Result<Stat> {
        guest.enter(place)?;
        let follow = !self.args.recursive || place.is_directory;
        let stat = files::stat(&mut guest.shell, &place.path, follow).map_err(|error| match error.kind() {
            Kind::NotFound => Error::new(Kind::NotFound, format!("{}: there is no such file", place.shown()))
                .hint("`virtkeep ls` of the directory above shows what there is"),
            _ => error,
        })?;
        if stat.kind() == Kinds::Directory && !self.args.recursive {
            return Err(Error::usage(format!("{} is a directory", place.shown())).hint("-r copies it with all in it"));
        }
        Ok(stat)
    }

    fn to_stdout(&self, guest: &mut Guest, place: &Place) -> error::Result<()> {
        let stat = self.look(guest, place)?;
        if stat.kind() != Kinds::File {
            return Err(special(place));
        }
        let meter = self.session.display.meter(&place.shown(), stat.size);
        let mut output = guest.shell.stream("download", &[&place.path, b"-"])?;
        let mut out = Counted { out: std::io::stdout().lock(), count: 0, progress: &meter };
        let copied = std::io::copy(&mut output, &mut out).and_then(|_| out.flush());
        let count = out.count;
        settle(output, copied.map_err(|error| Error::io("copy to stdout", error)))?;
        is_whole(place, count, stat.size)
    }

    fn file(&self, guest: &mut Guest, place: &Place, stat: &Stat, path: &Path) -> error::Result<()> {
        let parent = layout::parent(path);
        let mut file = tempfile::Builder::new()
            .prefix(".virtkeep.")
            .tempfile_in(parent)
            .map_err(|error| Error::io("create a file", error).path(parent))?;
        let meter = self.session.display.meter(&place.shown(), stat.size);
        let mut output = guest.shell.stream("download", &[&place.path, b"-"])?;
        let copied = write::copy(&mut output, file.as_file_mut(), &meter);
        let count = settle(output, copied).map_err(|error| error.path(path))?;
        is_whole(place, count, stat.size)?;
        let attributes = of_stat(stat);
        attributes.apply(file.as_file()).map_err(|error| error.path(path))?;
        file.as_file().sync_all().map_err(|error| Error::io("write", error).path(path))?;
        let complete = file.into_temp_path();
        destination::name(&complete, path, self.args.force)?;
        // It has another name now; where it still has this one it is removed.
        drop(complete);
        if attributes.is_harmful() {
            tell(path, "the bit that lets it run as its owner or group was dropped", &[place.shown()]);
        }
        tracing::info!("{}: {}", path.display(), format_bytes(count));
        Ok(())
    }

    fn link(&self, guest: &mut Guest, place: &Place, path: &Path) -> error::Result<()> {
        let target = files::target(&mut guest.shell, &place.path)?;
        let directory = temporary(path)?;
        let link = directory.path().join("link");
        rustix::fs::symlinkat(target.as_slice(), CWD, &link)
            .map_err(|error| Error::io("create the link", error).path(path))?;
        destination::name(&link, path, self.args.force)?;
        tracing::info!("{}: a symbolic link to {}", path.display(), super::text::shown(&target));
        Ok(())
    }

    fn tree(&self, guest: &mut Guest, place: &Place, path: &Path) -> error::Result<bool> {
        // Kilobytes; without it the bar is of no use, the copy is the same.
        let total = guest.shell.text("du", &[&place.path]).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let directory = temporary(path)?;
        let tree: PathBuf = directory.path().join("tree");
        let made = DirBuilder::new().mode(0o700).create(&tree);
        let opened = made.and_then(|()| File::open(&tree)).map_err(|error| Error::io("create", error).path(path))?;
        let meter = self.session.display.meter(&place.shown(), total.unwrap_or(0).saturating_mul(KIB));
        let mut output = guest.shell.stream("tar-out", &[&place.path, b"-"])?;
        let unpacked = unpack(BufReader::with_capacity(1 << 18, &mut output), opened.as_fd(), &meter);
        let unpacked = settle(output, unpacked)?;
        drop(meter);
        // With --force, too: a directory is never overwritten.
        destination::name(&tree, path, false)?;
        // Before, it had to be writable to be moved.
        if let Some(top) = unpacked.top {
            top.apply(&opened).map_err(|error| error.path(path))?;
        }
        let files = count(unpacked.count, "file");
        tracing::info!("{}: {files}, {}", path.display(), format_bytes(unpacked.bytes));
        Ok(tell_unpacked(path, &unpacked))
    }
}

/// A directory beside `path`, removed when dropped.
fn temporary(path: &Path) -> error::Result<tempfile::TempDir> {
    let parent = layout::parent(path);
    let made = tempfile::Builder::new().prefix(".virtkeep.").tempdir_in(parent);
    made.map_err(|error| Error::io("create a directory", error).path(parent))
}

/// The result of a copy, once guestfish has said whether it sent all: where it has failed, that is the cause.
fn settle<T>(output: Output<'_>, copied: error::Result<T>) -> error::Result<T> {
    match copied {
        Ok(copied) => output.finish().map(|()| copied),
        Err(error) if error.kind() == Kind::Cancelled => Err(error),
        Err(error) => Err(output.give_up().unwrap_or(error)),
    }
}

fn is_whole(place: &Place, count: u64, size: u64) -> error::Result<()> {
    if count == size {
        return Ok(());
    }
    Err(Error::new(Kind::Protocol, format!("{}: {count} bytes came of {size}", place.shown())))
}

fn special(place: &Place) -> Error {
    Error::unsupported(format!("{} is no file: it is not copied", place.shown())).hint("`virtkeep ls` shows what it is")
}

fn of_stat(stat: &Stat) -> Attributes {
    Attributes { mode: stat.mode & 0o7777, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, nanos: stat.mtime_nanos }
}

/// Says what was not copied as it was; false where files were left out.
fn tell_unpacked(path: &Path, unpacked: &Unpacked) -> bool {
    if !unpacked.disarmed.is_empty() {
        tell(path, "bits that let programs run as their owner or group were dropped", &unpacked.disarmed);
    }
    if !unpacked.left_out.is_empty() {
        tell(path, "devices and sockets were left out", &unpacked.left_out);
    }
    unpacked.left_out.is_empty()
}

fn tell(path: &Path, what: &str, names: &[String]) {
    let more = names.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let path = super::text::shown(path.as_os_str().as_bytes());
    tracing::warn!("{path}: {what}: {}{more}", names[..names.len().min(NAMED)].join(", "));
}

/// Counts what is written.
struct Counted<'p, W> {
    out: W,
    count: u64,
    progress: &'p dyn Progress,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(buffer)?;
        self.count += count as u64;
        self.progress.advance(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
