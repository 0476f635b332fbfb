//! `virtkeep ls` and `virtkeep cp`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::Talk;
use super::chains::Chains;

/// The restore point that is looked into.
#[derive(Debug, Args)]
pub struct Point {
    /// Whose disks.
    #[command(flatten)]
    pub chains: Chains,

    /// Open an encrypted volume (LUKS, BitLocker) such as vda3 or vg0/home with the passphrase that is the first
    /// line of this file; repeatable.
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_key)]
    pub key: Vec<(String, PathBuf)>,

    /// How much is said.
    #[command(flatten)]
    pub talk: Talk,
}

/// List the files in a restore point.
#[derive(Debug, Args)]
#[command(after_help = LS_HELP)]
pub struct Ls {
    /// What to list: /etc or vda:/etc is a path as the guest's operating system sees it, vda2:/etc or
    /// vg0/home:/anna one in that file system [default: show the file systems on all disks]
    #[arg(value_name = "[NAME:]PATH")]
    pub path: Option<OsString>,

    /// All below a directory, too.
    #[arg(short = 'R', long, requires = "path")]
    pub recursive: bool,

    /// JSON instead of lines.
    #[arg(long)]
    pub json: bool,

    /// The restore point.
    #[command(flatten)]
    pub point: Point,
}

/// Copy files out of a restore point.
#[derive(Debug, Args)]
#[command(after_help = CP_HELP)]
pub struct Cp {
    /// What to copy (vda:/etc/fstab, vg0/home:/anna), and last where to: a directory, a new name, or - for one
    /// file on standard output.
    #[arg(value_name = "[NAME:]PATH... DEST", required = true)]
    pub paths: Vec<OsString>,

    /// Copy directories with all that is in them, and symbolic links as links, like cp -a.
    #[arg(short, long, visible_short_alias = 'a')]
    pub recursive: bool,

    /// Where to copy to; then all other words are what to copy. - is standard output.
    #[arg(short, long, value_name = "DEST")]
    pub output: Option<PathBuf>,

    /// Overwrite files that exist. Directories that exist are never overwritten.
    #[arg(long)]
    pub force: bool,

    /// The restore point.
    #[command(flatten)]
    pub point: Point,
}

/// `NAME=FILE`
fn parse_key(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("a volume and a file, such as vda3=/root/passphrase".to_owned()),
    }
}

const LS_HELP: &str = "Examples:
  virtkeep ls -i /backup/web                         what is on the disks
  virtkeep ls -i /backup/web vda:/etc                as the guest sees it
  virtkeep ls -i /backup/web -u 2026-11-20 vda2:/    the second partition
  virtkeep ls -i /backup/web -R vg0/home:/anna       a logical volume
  virtkeep ls -i /backup/web --key vda3=/root/pass vda3:/

NAME is a disk, a partition or a logical volume; virtkeep ls without a path lists them all. A \
disk's name stands for the operating system on it, with all that this mounts (vda:/boot may be \
another partition), or for the only file system that is there. Without a NAME it is the only \
operating system of the restore point.

Needs guestfish of libguestfs; no root, and nothing is mounted on this host. Starting its \
appliance takes 10 to 60 seconds without KVM.";

const CP_HELP: &str = "Examples:
  virtkeep cp -i /backup/web vda:/etc/fstab .
  virtkeep cp -i /backup/web -u 2026-11-20 vda:/etc/passwd vda:/etc/shadow /tmp/
  virtkeep cp -i /backup/web -r vg0/home:/anna /tmp/anna
  virtkeep cp -i /backup/web vda:/var/backups/db.sql.gz - | zcat
  virtkeep cp -i full.zip,inc1.zip vda2:/etc/fstab fstab.old

NAME is a disk, a partition or a logical volume: virtkeep ls lists them, and says more about \
them in its help.

Modes and times are kept, owners where root copies. What the guest could do harm with on this \
host is not: bits for set-user-ID and set-group-ID are dropped, devices and sockets left out, \
and both are said. Nothing is written outside of DEST. A file has its name only when it is \
complete.";
